"""Sampled negatives: their distribution, and that their corrected softmax tends to the exact one."""

import numpy as np
import pytest

from recall.negatives import Negatives, background, drawer
from recall.tower import sampled_softmax_loss, tf

ITEMS, USERS, DIM = 300, 6, 4
RNG = np.random.default_rng(11)
ITEM_VECTORS = RNG.normal(0, 0.6, (ITEMS, DIM)).astype(np.float32)
USER_VECTORS = RNG.normal(0, 0.6, (USERS, DIM)).astype(np.float32)
POSITIVES = np.array([1, 2, 3, 10, 100, 299], np.int32)
# A long tail, and popular items that lie close together, so that a sample that favours them misjudges the rest.
COUNTS = np.ceil(2_000 / np.arange(1, ITEMS + 1)).astype(np.float64)
ITEM_VECTORS[1:20] += 0.5
SAMPLERS = ("uniform", "unigram", "mixed")
SIZES = (4, 30, 240)
DRAWS = 800


@tf.function(reduce_retracing=True)
def sampled_losses(negatives, corrections):
    """The loss of each draw: [draws, s], [draws, s] -> [draws]."""

    def one(drawn):
        return sampled_softmax_loss(tf.constant(USER_VECTORS), tf.constant(ITEM_VECTORS), POSITIVES, *drawn)

    return tf.map_fn(one, (negatives, corrections), fn_output_signature=tf.float32)


def exact_loss():
    """Mean softmax cross-entropy of the positives over items 1..n, in nats."""
    logits = (USER_VECTORS @ ITEM_VECTORS[1:].T).astype(np.float64)
    return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(USERS), POSITIVES - 1]).mean()


def many(sampler, size, draws=DRAWS):
    draw, rng = drawer(sampler, COUNTS, size), np.random.default_rng(5)
    drawn = [draw(rng) for _ in range(draws)]
    return np.stack([one.items for one in drawn]), np.stack([one.corrections for one in drawn])


def bias(items, corrections):
    """How far the mean sampled loss is from the exact one, in nats."""
    return abs(sampled_losses(items, corrections).numpy().mean() - exact_loss())


def vanishes(biases):
    """Whether the bias falls with the number of negatives, towards 0."""
    few, some, most = biases
    return few > some > most and most < 0.01


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_bias_of_the_sampled_loss_vanishes_as_negatives_grow(sampler):
    assert vanishes([bias(*many(sampler, size)) for size in SIZES])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("fault", "sign"), [("dropped", 0), ("flipped", -1)])
def test_the_bias_stays_where_the_logq_correction_is_wrong(sampler, fault, sign):
    drawn = [many(sampler, size) for size in SIZES]
    assert not vanishes([bias(items, np.float32(sign) * corrections) for items, corrections in drawn]), fault


def test_the_bias_stays_where_the_counts_are_those_of_another_table():
    other = background("unigram", COUNTS[::-1])
    drawn = [(size, many("unigram", size)[0]) for size in SIZES]
    assert not vanishes([bias(items, np.log(size * other[items]).astype(np.float32)) for size, items in drawn])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_sum_over_all_items_is_estimated_without_bias_at_any_size(sampler):
    """Negatives enter as exp(score - correction): the mean of their sum is the sum over all items."""
    scores = (ITEM_VECTORS @ USER_VECTORS[0]).astype(np.float64)
    items, corrections = many(sampler, 10, 5_000)
    assert np.exp(scores[items] - corrections).sum(axis=1).mean() == pytest.approx(np.exp(scores[1:]).sum(), rel=0.03)


def loss_of(users, positives, negatives):
    return sampled_softmax_loss(users, ITEM_VECTORS, positives.astype(np.int32), negatives.items, negatives.corrections)


@pytest.mark.parametrize(("sampler", "size"), [("full", 10), ("mixed", ITEMS), ("unigram", ITEMS - 1)])
def test_all_items_as_negatives_are_the_exact_softmax(sampler, size):
    negatives = drawer(sampler, COUNTS, size)(np.random.default_rng(0))
    assert negatives.items.tolist() == list(range(1, ITEMS))
    assert float(loss_of(USER_VECTORS, POSITIVES, negatives)) == pytest.approx(exact_loss(), rel=1e-5)


def test_a_positive_among_the_negatives_does_not_count_against_itself():
    other = Negatives(np.array([7], np.int32), np.zeros(1, np.float32))
    hit = Negatives(np.array([7, 5, 5], np.int32), np.zeros(3, np.float32))
    own = np.array([5])
    assert float(loss_of(USER_VECTORS[:1], own, hit)) == pytest.approx(float(loss_of(USER_VECTORS[:1], own, other)))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_negatives_are_drawn_as_often_as_the_background_says(sampler):
    q, draw, rng = background(sampler, COUNTS), drawer(sampler, COUNTS, 200), np.random.default_rng(2)
    drawn = np.concatenate([draw(rng).items for _ in range(500)])
    shares = np.bincount(drawn, minlength=ITEMS) / len(drawn)
    np.testing.assert_allclose(shares, q, atol=5 * np.sqrt(q.max() / len(drawn)))
    assert abs(shares[:20].sum() - q[:20].sum()) < 0.01


def test_backgrounds_follow_their_definitions():
    counts = np.array([50.0, 16, 1, 0])
    np.testing.assert_allclose(background("uniform", counts), [0, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(background("unigram", counts), [0, 8 / 9, 1 / 9, 0])
    np.testing.assert_allclose(background("mixed", counts), [0, 11 / 18, 4 / 18, 3 / 18])


def test_a_log_without_watches_falls_back_to_uniform():
    np.testing.assert_allclose(background("unigram", np.zeros(5)), [0, 0.25, 0.25, 0.25, 0.25])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_has_no_weight_is_never_drawn(sampler):
    counts = np.array([1000.0, 5, 0, 3, 0, 1, 0, 0])
    draw, rng = drawer(sampler, counts, 6), np.random.default_rng(4)
    drawn = np.unique(np.concatenate([draw(rng).items for _ in range(300)]))
    allowed = [1, 3, 5] if sampler == "unigram" else [1, 2, 3, 4, 5, 6, 7]
    assert drawn.tolist() == allowed


def test_the_correction_is_the_log_of_the_expected_number_of_draws():
    drawn = drawer("mixed", COUNTS, 50)(np.random.default_rng(1))
    np.testing.assert_allclose(drawn.corrections, np.log(50 * background("mixed", COUNTS)[drawn.items]), rtol=1e-5)
    assert drawn.items.shape == (50,)


def test_equal_seeds_draw_equal_negatives():
    draw = drawer("mixed", COUNTS, 50)
    first, second = draw(np.random.default_rng(3)), draw(np.random.default_rng(3))
    np.testing.assert_array_equal(first.items, second.items)
