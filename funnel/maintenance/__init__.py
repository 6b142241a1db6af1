"""What keeps a home fit to live in for years: runs that a killed process left open are closed, old
runs and logs go, databases are copied, and somebody is told before the disk is full.
"""
