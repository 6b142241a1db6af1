"""Every random stream of a run, by name: two steps with one seed never draw the same numbers.

A name's number is part of the results: it stays when others come or go.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a stream of random numbers is drawn for."""

    TOWER_BATCHES = 1
    """The order of a tower's examples, one stream a training run."""
    NEGATIVES = 2
    """The items that a tower's positives are set against."""
    PRETRAINING = 3
    TOWER_START = 4
    """The first weights of a tower and of what it grows by, one stream a cut-off."""
    VALIDATOR = 5
    """The watches that a tower under training is validated on."""
    LISTED_NEGATIVES = 7
    """The listed and unseen candidates that are ranking rows."""
    ORACLE_USERS = 10
    """The users whose lists are held against the simulated world's oracle."""
    BLENDER = 11
    CALIBRATION_BOOTSTRAP = 12
    LEAKAGE_CHECK = 13
    OFF_POLICY_BOOTSTRAP = 17
    PRE_RANKER = 18
    LABELLED_LISTS = 19
    """The past instants whose candidate lists become ranking rows."""
    INDEX_QUERIES = 20
    VALIDATION_CANDIDATES = 29
    """The users whose candidates the list order is chosen on."""
    VALIDATION_USERS = 31
    """The users whose impressions the list order is chosen on."""
    VALIDATION_BOOTSTRAP = 37
    RANKER_BATCHES = 41
    """The order of the ranker's examples."""
    RANKER_VALIDATION = 43
    """The order of the later rows that choose the ranker's epoch."""


def rng_of(seed: int, stream: Stream, *keys: int) -> np.random.Generator:
    """The generator of a run's stream; `keys` part one stream further, such as by the cut-off."""
    return np.random.default_rng([seed, stream, *keys])
