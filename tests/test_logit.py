"""The conditional logit finds the weights by which choices were made."""

import numpy as np
import pytest

from recall.logit import TrainingSet, fit, join_training_sets, log_sums


def test_log_sums_are_those_of_each_users_own_candidates_and_users_may_have_none():
    logits = np.array([0.0, np.log(3), 700, 5])
    found = log_sums(logits, np.array([0, 2, 0, 1, 1, 0]))
    np.testing.assert_allclose(found, [np.log(4), np.log(4), 700, 5])
    assert len(log_sums(logits[:0], np.zeros(3, int))) == 0


def training_set(weights, users, rng, groups=None):
    """Users with 8 candidates each who watch one of them by the softmax of its two columns times
    weights.
    """
    matrix = rng.normal(size=(users, 8, 2)).astype(np.float32)
    groups = np.full(users, 2) if groups is None else groups
    logits = np.einsum("ncf,nf->nc", matrix, np.asarray(weights)[groups]) + rng.gumbel(
        size=(users, 8)
    )
    watched = logits == logits.max(axis=1, keepdims=True)
    return TrainingSet(
        ("x", "y"), matrix.reshape(-1, 2), np.full(users, 8), watched.ravel(), groups
    )


def test_the_fit_finds_the_weights_that_the_choices_were_made_by():
    examples = training_set([[0, 0], [0, 0], [1.5, -0.5]], 4000, np.random.default_rng(1))
    np.testing.assert_allclose(fit(examples, 3, 10)[2], [1.5, -0.5], atol=0.1)


def test_each_group_learns_its_own_weights_and_one_without_users_of_its_own_takes_those_of_all():
    rng = np.random.default_rng(2)
    examples = training_set([[9, 9], [2, 0], [0, 2]], 4000, rng, np.repeat([1, 2], 2000))
    weights = fit(examples, 3, 10)
    np.testing.assert_allclose(weights[1], [2, 0], atol=0.2)
    np.testing.assert_allclose(weights[2], [0, 2], atol=0.2)
    assert (weights[0] > 0.5).all()


def test_the_scale_of_a_column_does_not_matter():
    examples = training_set([[0, 0], [0, 0], [1, 1]], 500, np.random.default_rng(3))
    scaled = TrainingSet(
        examples.columns,
        examples.matrix * np.float32([1000, 1]),
        examples.counts,
        examples.watched,
        examples.groups,
    )
    np.testing.assert_allclose(fit(scaled, 3, 10) * [1000, 1], fit(examples, 3, 10), rtol=1e-2)


def test_a_part_of_a_training_set_keeps_users_and_their_pairs_together():
    rng = np.random.default_rng(4)
    parts = [training_set([[0, 0]] * 3, users, rng) for users in (3, 2)]
    whole = join_training_sets(parts)
    again = whole.of_users(np.array([False] * 3 + [True] * 2))
    np.testing.assert_array_equal(again.matrix, parts[1].matrix)
    np.testing.assert_array_equal(again.watched, parts[1].watched)
    assert len(whole.counts) == 5


def test_more_than_one_watched_candidate_counts_as_one_user():
    examples = training_set([[0, 0], [0, 0], [1, 0]], 200, np.random.default_rng(5))
    doubled = join_training_sets([examples, examples])
    assert fit(doubled, 3, 10)[2] == pytest.approx(fit(examples, 3, 10)[2], abs=0.1)


def test_a_stronger_penalty_leaves_smaller_weights_up_to_a_share_of_the_users():
    examples = training_set([[0, 0], [0, 0], [1.5, -0.5]], 400, np.random.default_rng(6))
    sizes = [float(np.abs(fit(examples, 3, penalty)).sum()) for penalty in (1, 50, 100, 10_000)]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3] > 0
