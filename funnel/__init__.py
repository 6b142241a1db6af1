"""What joins recall and ranking: the pipeline in one process, artefacts, tracking, report and the
command line.
"""
