"""Sampled negatives: their distribution, and that their corrected softmax tends to the exact
one.
"""

import numpy as np
import pytest

from recall.negative_sampling import Counts, Negatives, background, drawer
from recall.trainer import sampled_softmax_loss, tf

ITEMS, USERS, DIM = 1000, 6, 10
RNG = np.random.default_rng(11)
ITEM_VECTORS = RNG.normal(0, 0.6, (ITEMS, DIM)).astype(np.float32)
USER_VECTORS = RNG.normal(0, 0.6, (USERS, DIM)).astype(np.float32)
POSITIVES = np.array([1, 2, 3, 10, 100, 999], np.int32)
# A long tail, and popular items that lie close together, so that a sample that favours them
# misjudges the rest.
WATCHES = np.concatenate([[0], np.ceil(2_000 / np.arange(1, ITEMS))]).astype(np.float64)
ITEM_VECTORS[1:20, USERS:] += 0.5
# A coordinate for each positive and its user: it has some 30 % of the probability, the gradient's
# largest part.
ITEM_VECTORS[:, :USERS], USER_VECTORS[:, :USERS] = 0, np.eye(USERS)
ITEM_VECTORS[POSITIVES, np.arange(USERS)] = 6
# Positives are another distribution than watches: a stretch of the log has trends of its own.
COUNTS = Counts(WATCHES, np.sqrt(WATCHES))
SAMPLERS = ("uniform", "unigram", "in_batch", "mixed")
SIZES = (4, 30, 240)
DRAWS = 800


@tf.function(reduce_retracing=True)
def sampled(negatives, corrections):
    """The mean loss over draws, and its gradients: [draws, s], [draws, s] -> scalar, [users, dim],
    [items, dim].
    """
    users, vectors = tf.constant(USER_VECTORS), tf.constant(ITEM_VECTORS)
    with tf.GradientTape() as tape:
        tape.watch([users, vectors])
        losses = tf.map_fn(
            lambda drawn: sampled_softmax_loss(
                users,
                vectors,
                tf.concat([POSITIVES, drawn[0]], axis=0),
                drawn[1],
                POSITIVES[:, None] != drawn[0][None, :],
            ),
            (negatives, corrections),
            fn_output_signature=tf.float32,
        )
        loss = tf.reduce_mean(losses)
    of_users, of_vectors = tape.gradient(loss, (users, vectors))
    return loss, of_users, tf.convert_to_tensor(of_vectors)


def exact_loss():
    """Mean softmax cross-entropy of the positives over items 1..n, in nats."""
    logits = (USER_VECTORS @ ITEM_VECTORS[1:].T).astype(np.float64)
    return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(USERS), POSITIVES - 1]).mean()


def exact_gradients():
    """The gradients of `exact_loss` by hand: (softmax - one) @ items, (softmax - one)' @ users."""
    logits = (USER_VECTORS @ ITEM_VECTORS.T).astype(np.float64)
    logits[:, 0] = -np.inf
    errors = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    errors[np.arange(USERS), POSITIVES] -= 1
    return errors @ ITEM_VECTORS / USERS, errors.T @ USER_VECTORS / USERS


def many(sampler, size, draws=DRAWS):
    """Negatives of steps whose batches are `size` positives by their counts: items and corrections,
    [draws, s].
    """
    rng, q = np.random.default_rng(5), COUNTS.positives / COUNTS.positives.sum()
    draw = drawer(sampler, COUNTS, size, size)
    drawn = [draw(rng, rng.choice(ITEMS, size, p=q).astype(np.int32)) for _ in range(draws)]
    return np.stack([one.items for one in drawn]), np.stack([one.corrections for one in drawn])


def biases(items, corrections):
    """How far the mean sampled loss (nats) and the mean gradients (shares of their length) are from
    the exact ones.
    """
    loss, *gradients = (tensor.numpy() for tensor in sampled(items, corrections))
    pairs = zip(gradients, exact_gradients(), strict=True)
    return [
        abs(loss - exact_loss()),
        *(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs),
    ]


def vanishes(*of_sizes):
    """Whether each bias falls as negatives grow, towards 0."""
    few, some, most = np.array(of_sizes)
    return bool(((few > some) & (some > most)).all() and (most < 0.01).all())


@pytest.fixture(scope="module")
def drawn():
    return {sampler: [many(sampler, size) for size in SIZES] for sampler in SAMPLERS}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_bias_of_loss_and_gradient_vanishes_as_negatives_grow(drawn, sampler):
    assert vanishes(*(biases(*of_size) for of_size in drawn[sampler]))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("fault", "sign"), [("dropped", 0), ("flipped", -1)])
def test_the_bias_stays_where_the_logq_correction_is_wrong(drawn, sampler, fault, sign):
    faulty = [
        biases(items, np.float32(sign) * corrections) for items, corrections in drawn[sampler]
    ]
    assert not vanishes(*faulty), fault
    # The gradient alone gives it away too, not only the loss's offset.
    assert faulty[-1][1] > 0.1
    assert faulty[-1][2] > 0.1


def test_the_bias_stays_where_the_counts_are_those_of_another_table(drawn):
    other = background("unigram", Counts(np.concatenate([[0], WATCHES[:0:-1]]), WATCHES))
    corrected = [
        (items, np.log(items.shape[1] * other[items]).astype(np.float32))
        for items, _ in drawn["unigram"]
    ]
    assert not vanishes(*(biases(*of_size) for of_size in corrected))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_sum_over_all_items_is_estimated_without_bias_at_any_size(sampler):
    """Negatives enter as exp(score - correction): the mean of their sum is the sum over all
    items.
    """
    scores = (ITEM_VECTORS @ USER_VECTORS[0]).astype(np.float64)
    items, corrections = many(sampler, 10, 5_000)
    assert np.exp(scores[items] - corrections).sum(axis=1).mean() == pytest.approx(
        np.exp(scores[1:]).sum(), rel=0.03
    )


def loss_of(users, positives, negatives, shown=None):
    """The loss; `shown`: items [n, m] that are a positive's own negatives, and which of them
    count.
    """
    own, counted = (positives[:0, None], None) if shown is None else shown
    places = np.concatenate([positives, negatives.items, np.ravel(own)]).astype(np.int32)
    kept = positives[:, None] != negatives.items
    return float(
        sampled_softmax_loss(users, ITEM_VECTORS, places, negatives.corrections, kept, counted)
    )


@pytest.mark.parametrize(
    ("sampler", "size"), [("uniform", 2 * ITEMS), ("mixed", ITEMS), ("unigram", ITEMS - 1)]
)
def test_all_items_as_negatives_are_the_exact_softmax(sampler, size):
    negatives = drawer(sampler, COUNTS, size, USERS)(np.random.default_rng(0), POSITIVES)
    assert negatives.items.tolist() == list(range(1, ITEMS))
    assert loss_of(USER_VECTORS, POSITIVES, negatives) == pytest.approx(exact_loss(), rel=1e-5)


def negatives_of(*items):
    return Negatives(np.array(items, np.int32), np.zeros(len(items), np.float32))


def test_a_positive_among_the_negatives_does_not_count_against_itself():
    own = np.array([5])
    hit, other = (
        loss_of(USER_VECTORS[:1], own, negatives_of(*items)) for items in ((7, 5, 5), (7,))
    )
    assert hit == pytest.approx(other)


def test_the_positives_of_a_batch_are_negatives_of_each_other_alone():
    """In-batch: each row's own item is masked, the others' count; by hand over two rows."""
    positives = np.array([3, 8], np.int32)
    negatives = drawer("in_batch", COUNTS, 10, 2)(np.random.default_rng(0), positives)
    share = COUNTS.positives / COUNTS.positives.sum()
    own, other = (
        np.einsum("nd,nd->n", USER_VECTORS[:2], ITEM_VECTORS[items])
        for items in (positives, positives[::-1])
    )
    others = other - np.log(2 * share[positives[::-1]])
    expected = (np.logaddexp(own, others) - own).mean()
    assert loss_of(USER_VECTORS[:2], positives, negatives) == pytest.approx(expected, rel=1e-5)


def test_shown_negatives_count_against_their_own_row_alone_and_only_where_they_count():
    """By hand: row 0 was shown 9 (and a masked 4), row 1 nothing that counts."""
    positives, shown = np.array([5, 6]), np.array([[9, 4], [9, 4]], np.int32)
    counts = np.array([[True, False], [False, False]])
    s = USER_VECTORS[:2] @ ITEM_VECTORS.T
    logits = [[s[0, 5], s[0, 7], s[0, 9]], [s[1, 6], s[1, 7]]]
    expected = np.mean([np.log(np.exp(row).sum()) - row[0] for row in logits])
    assert loss_of(USER_VECTORS[:2], positives, negatives_of(7), (shown, counts)) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_gradients_of_the_loss_are_those_that_tensorflow_derives_from_its_formula():
    """With hits, corrections, and a positive's own negatives; two rows of which every shared one
    hits.
    """
    rng = np.random.default_rng(3)
    positives, negatives = np.array([5, 7, 9, 9], np.int32), np.array([9, 9, 9], np.int32)
    corrections, own = (
        rng.normal(size=3).astype(np.float32),
        rng.integers(1, 20, (4, 2)).astype(np.int32),
    )
    counted, kept = own % 2 == 0, positives[:, None] != negatives
    users, vectors = (
        tf.constant(rng.normal(size=(4, DIM)).astype(np.float32)),
        tf.constant(ITEM_VECTORS[:20]),
    )

    def by_formula():
        scores = tf.matmul(users, vectors, transpose_b=True)
        shared = tf.where(kept, tf.gather(scores, negatives, axis=1) - corrections, -np.inf)
        shown = tf.where(counted, tf.gather(scores, own, batch_dims=1), -np.inf)
        positive = tf.gather(scores, positives, batch_dims=1)[:, None]
        return tf.reduce_mean(
            tf.reduce_logsumexp(tf.concat([positive, shared, shown], 1), 1) - positive[:, 0]
        )

    def as_trained():
        places = np.concatenate([positives, negatives, own.ravel()])
        return sampled_softmax_loss(users, vectors, places, corrections, kept, counted)

    def gradients_of(loss):
        with tf.GradientTape() as tape:
            tape.watch([users, vectors])
            value = loss()
        return [
            tf.convert_to_tensor(x).numpy()
            for x in (value, *tape.gradient(value, [users, vectors]))
        ]

    for found, expected in zip(gradients_of(as_trained), gradients_of(by_formula), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sampler", ["uniform", "unigram", "mixed"])
def test_negatives_are_drawn_as_often_as_the_background_says(sampler):
    q, draw, rng = (
        background(sampler, COUNTS),
        drawer(sampler, COUNTS, 200, 0),
        np.random.default_rng(2),
    )
    drawn = np.concatenate([draw(rng, POSITIVES[:0]).items for _ in range(500)])
    shares = np.bincount(drawn, minlength=ITEMS) / len(drawn)
    np.testing.assert_allclose(shares, q, atol=5 * np.sqrt(q.max() / len(drawn)))
    assert abs(shares[:20].sum() - q[:20].sum()) < 0.01


def test_backgrounds_follow_their_definitions():
    counts = Counts(np.array([50.0, 16, 1, 0]), np.zeros(4))
    np.testing.assert_allclose(background("uniform", counts), [0, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(background("unigram", counts), [0, 8 / 9, 1 / 9, 0])
    np.testing.assert_allclose(background("mixed", counts), [0, 1 / 3, 1 / 3, 1 / 3])


def test_a_log_without_watches_falls_back_to_uniform():
    nothing = Counts(np.zeros(5), np.zeros(5))
    np.testing.assert_allclose(background("unigram", nothing), [0, 0.25, 0.25, 0.25, 0.25])


@pytest.mark.parametrize("sampler", ["uniform", "mixed"])
def test_what_nobody_was_shown_is_no_negative(sampler):
    """Nobody passed it over; pushed away from everybody it would never be found when it comes."""
    offered = np.array([False, True, False, True, True])
    counts, rng = Counts(np.ones(5), np.ones(5), offered), np.random.default_rng(0)
    np.testing.assert_allclose(background(sampler, counts), [0, 1 / 3, 0, 1 / 3, 1 / 3])
    for size in (2, 3, 10):
        draw = drawer(sampler, counts, size, 0)
        assert set(np.concatenate([draw(rng, POSITIVES[:0]).items for _ in range(50)])) == {1, 3, 4}


@pytest.mark.parametrize("sampler", ["uniform", "unigram", "mixed"])
def test_what_has_no_weight_is_never_drawn(sampler):
    watches = np.array([1000.0, 5, 0, 3, 0, 1, 0, 0])
    draw, rng = drawer(sampler, Counts(watches, watches), 6, 0), np.random.default_rng(4)
    drawn = np.unique(np.concatenate([draw(rng, POSITIVES[:0]).items for _ in range(300)]))
    allowed = [1, 3, 5] if sampler == "unigram" else [1, 2, 3, 4, 5, 6, 7]
    assert drawn.tolist() == allowed


def test_the_correction_is_the_log_of_the_expected_number_of_times_among_the_negatives():
    uniform, share = background("uniform", COUNTS), COUNTS.positives / COUNTS.positives.sum()
    for sampler, expected in (("in_batch", 6 * share), ("mixed", 50 * uniform + 6 * share)):
        drawn = drawer(sampler, COUNTS, 50, 6)(np.random.default_rng(1), POSITIVES)
        np.testing.assert_allclose(drawn.corrections, np.log(expected[drawn.items]), rtol=1e-5)
        assert drawn.items[:6].tolist() == POSITIVES.tolist()
        assert len(drawn.items) == (6 if sampler == "in_batch" else 56)


def test_equal_seeds_draw_equal_negatives():
    draw = drawer("mixed", COUNTS, 50, USERS)
    first, second = (draw(np.random.default_rng(3), POSITIVES) for _ in range(2))
    np.testing.assert_array_equal(first.items, second.items)
