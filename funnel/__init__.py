"""What joins recall and ranking: the line in one process, artefacts, tracking, report and the
command line.
"""
