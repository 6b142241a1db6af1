"""Ways to name candidates, one file each, and what they share: see `recall.generators.retrieval`
for the table.
"""
