"""A simulated world whose ground truth is known: its log, its oracle, a Bayes baseline."""
