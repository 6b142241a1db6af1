"""The ranker learns expected seconds: exact odds, the paper's odds, thinning, the cap, unknown
codes.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from features.asof_features import Block
from ranking import trainer as trainer_module
from ranking.config import RankingConfig
from ranking.examples import LAST_POSITION, MERGED, RankingRows, build_examples, thinned
from ranking.losses import heads_of, targets_of
from ranking.model import BLOCKS, Ranker
from ranking.train import has_learnt, seconds_cap, split_rows, train_ranker, untrained_ranker
from ranking.trainer import RankerNetwork, RankerTrainer, order_loss
from ranking.training_state import RankerCallbacks

pytestmark = pytest.mark.slow

ROWS = 6_000
RATES, MEANS = np.array([0.02, 0.3, 0.9]), np.array([200.0, 60.0, 20.0])
CONFIG = RankingConfig(
    hidden=(),
    dropout=0.0,
    batch=1000,
    learning_rate=0.08,
    epochs=90,
    patience=90,
    seconds_cap_quantile=1.0,
    vocabulary=3,
    vocabulary_clicks=2,
    weight_decay=0.0,
    pairwise=0.0,
    calibration="none",
    refit=False,
)


def simulated(n=ROWS, seed=0):
    """Rows of three kinds of item whose empirical click rates and mean seconds are RATES and MEANS,
    to rounding.

    Each kind clicks its share of every 100 rows, so that training and validation rows agree.
    """
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    clicked = (np.arange(n) // 3 * 37) % 100 < 100 * RATES[kind]
    seconds = np.where(clicked, MEANS[kind] * rng.uniform(0.5, 1.5, n), 0.0)
    blocks = {
        "user": Block(n, {"noise": rng.random(n)}, {}),
        "item": Block(n, {}, {"item": (kind + 1).astype(np.int32)}),
        "pair": Block(n, {}, {}),
    }
    return RankingRows(
        blocks, np.arange(n), clicked, seconds, np.ones(n), np.zeros(n, np.int32)
    ), kind


def trained(*given):
    """The ranker that is served, and its epochs."""
    found = train_ranker(*given)
    return found.ranker, found.epochs


def fit(rows, **choices):
    config = CONFIG.model_copy(update=choices)
    return trained(rows, "seconds", config, 3)


def scores(ranker, blocks):
    return ranker.scores(blocks["user"], blocks["item"], blocks["pair"])


def mean_by_kind(values, kind):
    return np.array([values[kind == k].mean() for k in range(3)])


@pytest.fixture(scope="module")
def exact():
    rows, kind = simulated()
    return (*fit(rows), rows, kind)


def test_the_exact_objective_learns_expected_seconds(exact):
    ranker, _, rows, kind = exact
    means = mean_by_kind(scores(ranker, rows.blocks), kind)
    np.testing.assert_allclose(means, mean_by_kind(rows.seconds, kind), rtol=0.05)
    np.testing.assert_allclose(means, RATES * MEANS, rtol=0.08)


@pytest.mark.parametrize("measured_in", ["seconds", "length"])
@pytest.mark.parametrize("objective", ["exact", "multi_task"])
def test_whatever_watches_are_measured_in_what_is_served_are_seconds(measured_in, objective):
    """Lengths far apart, some unknown; a log without seconds counts watches, however long its items
    are.
    """
    rows, kind = simulated()
    lengths = np.array([2_000.0, 90.0, np.nan])[kind]
    rows = replace(
        rows,
        blocks=rows.blocks
        | {"item": replace(rows.blocks["item"], numbers={"item_duration_seconds": lengths})},
    )
    ranker, _ = fit(rows, measured_in=measured_in, objective=objective)
    assert ranker.spec.by_length == (measured_in == "length")
    found, rare = (
        mean_by_kind(scores(ranker, rows.blocks), kind),
        0.06 if objective == "exact" else 0.15,
    )
    np.testing.assert_allclose(found, mean_by_kind(rows.seconds, kind), rtol=rare)
    counted = replace(rows, seconds=rows.clicked * 1.0)
    config = CONFIG.model_copy(update={"measured_in": measured_in, "objective": objective})
    ranker, _ = trained(counted, "watches", config, 3)
    assert not ranker.spec.by_length
    np.testing.assert_allclose(mean_by_kind(scores(ranker, rows.blocks), kind), RATES, rtol=rare)


def test_the_papers_objective_learns_the_odds_that_leave_the_clicked_rows_out():
    rows, kind = simulated()
    ranker, _ = fit(rows, objective="paper")
    expected = mean_by_kind(rows.seconds, kind) / (1 - mean_by_kind(rows.clicked, kind))
    np.testing.assert_allclose(mean_by_kind(scores(ranker, rows.blocks), kind), expected, rtol=0.05)


def test_thinned_unclicked_rows_leave_the_exact_odds_where_they_were():
    rows, kind = simulated()
    kept, weight = thinned(rows.clicked, kind.astype(np.int32), 500, np.random.default_rng(2))
    # Without the weights the odds would be a quarter too high or more.
    assert len(kept) < 0.8 * ROWS
    ranker, _ = fit(replace(rows.take(kept), weight=weight))
    found = mean_by_kind(scores(ranker, rows.blocks), kind)
    np.testing.assert_allclose(found, mean_by_kind(rows.seconds, kind), rtol=0.13)


def test_the_seconds_that_the_cap_takes_are_given_back_by_the_scale():
    rows, _ = simulated()
    long = replace(
        rows, seconds=np.where(rows.clicked & (np.arange(ROWS) % 50 == 3), 2_000.0, rows.seconds)
    )
    ranker, _ = fit(long, seconds_cap_quantile=0.9, epochs=10)
    later = slice(ROWS - ROWS // 10, None)
    capped = np.minimum(long.seconds, ranker.spec.seconds_cap)
    assert ranker.spec.seconds_cap < 2_000
    assert ranker.spec.scale == pytest.approx(long.seconds[later].sum() / capped[later].sum())
    assert ranker.spec.scale > 1.05
    unscaled = replace(ranker, spec=ranker.spec.model_copy(update={"scale": 1.0}))
    np.testing.assert_allclose(
        scores(ranker, rows.blocks), scores(unscaled, rows.blocks) * ranker.spec.scale
    )


def test_the_cap_is_a_quantile_of_clicked_seconds():
    rows, _ = simulated()
    assert seconds_cap(rows.seconds, rows.clicked, 0.5) == pytest.approx(
        np.median(rows.seconds[rows.clicked])
    )
    assert seconds_cap(rows.seconds, np.zeros(ROWS, bool), 0.5) == 1


def mixed(n=300):
    """Rows with codes and numbers in every block, column names out of alphabetical order, unknowns
    everywhere.
    """
    rng = np.random.default_rng(6)
    numbers = {
        name: np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)) for name in ("z", "b", "a")
    }
    codes = {name: rng.integers(0, 12, n).astype(np.int32) for name in ("zone", "item", "kind")}
    clicked = rng.random(n) < 0.5
    last = {"user_last_item": rng.integers(0, 12, n).astype(np.int32)}
    blocks = {
        "user": Block(n, {"z": numbers["z"], "b": numbers["b"]}, {"zone": codes["zone"]} | last),
        "item": Block(n, {"a": numbers["a"]}, {"item": codes["item"], "a_kind": codes["kind"]}),
        "pair": Block(n, {"flat": np.ones(n), "never": np.full(n, np.nan)}, {}),
    }
    seconds, places = (
        np.where(clicked, rng.exponential(5, n), 0),
        rng.integers(0, 70, n).astype(np.int32),
    )
    return RankingRows(blocks, rng.permutation(n), clicked, seconds, np.ones(n), places)


SMALL = RankingConfig(
    hidden=(8, 5),
    dropout=0.2,
    batch=64,
    epochs=3,
    vocabulary=6,
    vocabulary_clicks=2,
    learning_rate=0.01,
    patience=3,
    calibration="none",
    refit=False,
)


@pytest.fixture(scope="module")
def small():
    return trained(mixed(), "seconds", SMALL, 1)


SWITCHES = [
    {},
    {"hidden": ()},
    {"powers": False},
    {"objective": "multi_task"},
    {"objective": "paper"},
    {"objective": "click"},
    {"without": ("item", "b", "flat", "never")},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_numpy_logits_are_those_of_the_keras_graph(switches):
    """With random weights everywhere; the graph's positions at their mean, as serving has them."""
    rows, rng = replace(mixed(), positions=np.full(300, 4, np.int32)), np.random.default_rng(5)
    config = SMALL.model_copy(update=switches)
    ranker = untrained_ranker(rows, 9.0, "seconds", config)
    network = RankerNetwork(ranker.spec, 0.2, 0)
    for variable in network.model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) / 3)
    ranker = replace(ranker, weights=network.weights(rows.positions))
    inputs, _ = build_examples(ranker, rows).take(np.arange(300))
    parts = (ranker.part(name, rows.blocks[name]) for name in BLOCKS)
    logits = network.model(inputs, training=False).numpy()
    assert logits.shape == (300, heads_of(config.objective))
    assert logits.std() > 0.01
    np.testing.assert_allclose(ranker.logits(*parts), logits, rtol=1e-4, atol=1e-4)


def listed(rows, seed=6):
    """The rows as candidates of recall's lists, with its log chances; those of the first ten are
    unknown.
    """
    merged = np.log(np.random.default_rng(seed).random(len(rows)))
    merged[:10] = np.nan
    pair = replace(rows.blocks["pair"], numbers={**rows.blocks["pair"].numbers, MERGED: merged})
    return replace(rows, blocks={**rows.blocks, "pair": pair}), merged


@pytest.mark.parametrize("objective", ["exact", "paper", "click", "multi_task"])
def test_the_first_logit_starts_from_recalls_log_chance(objective):
    """All else being 0, the logits of the graph and of serving are the log chances, the unknown
    ones their mean's.
    """
    rows, merged = listed(replace(mixed(), positions=np.full(300, 4, np.int32)))
    ranker = untrained_ranker(
        rows, 9.0, "seconds", SMALL.model_copy(update={"objective": objective})
    )
    network = RankerNetwork(ranker.spec, 0.2, 0)
    for variable in network.model.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    ranker = replace(ranker, weights=network.weights(rows.positions))
    expected = np.zeros((300, heads_of(objective)))
    expected[:, 0] = np.where(np.isnan(merged), np.log(np.mean(np.exp(merged[10:]))), merged)
    inputs, _ = build_examples(ranker, rows).take(np.arange(300))
    parts = (ranker.part(name, rows.blocks[name]) for name in BLOCKS)
    np.testing.assert_allclose(network.model(inputs, training=False).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(ranker.logits(*parts), expected, rtol=1e-5)


def test_no_logit_starts_from_recall_where_that_is_off_or_unknown():
    rows, _ = listed(mixed())
    assert (
        untrained_ranker(
            rows, 9.0, "seconds", SMALL.model_copy(update={"recall_prior": False})
        ).spec.prior
        == ""
    )
    assert untrained_ranker(mixed(), 9.0, "seconds", SMALL).spec.prior == ""
    without = SMALL.model_copy(update={"without": ("recall_*",)})
    assert untrained_ranker(rows, 9.0, "seconds", without).spec.prior == ""


def test_a_ranker_that_learns_nothing_leaves_recalls_order(tmp_path):
    rows, merged = listed(mixed())
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1, "measured_in": "seconds"}
    ranker, _ = trained(rows, "seconds", SMALL.model_copy(update=still), 1)
    ranker.save(tmp_path)
    served, known = scores(Ranker.load(tmp_path), rows.blocks), ~np.isnan(merged)
    assert np.corrcoef(np.log(served[known]), merged[known])[0, 1] > 0.99


def test_what_is_of_one_instant_is_not_split_between_learning_and_validation():
    rows = replace(mixed(), timestamps_us=np.arange(300) % 4)
    early, late = split_rows(rows, 0.1)
    assert set(rows.timestamps_us[early]) == {0, 1, 2}
    assert set(rows.timestamps_us[late]) == {3}
    early, late = split_rows(replace(rows, timestamps_us=np.full(300, 7)), 0.1)
    assert (len(early), len(late)) == (270, 30)
    early, late = split_rows(replace(rows, timestamps_us=(np.arange(300) == 7) * 1), 0.1)
    assert late.tolist() == [7]
    early, late = split_rows(replace(rows, timestamps_us=np.arange(300)), 0.1)
    assert (len(early), len(late)) == (270, 30)


def test_the_validation_ranker_never_saw_the_rows_that_validate():
    rows, _ = simulated(600)
    validates = np.arange(600) >= 400
    config = CONFIG.model_copy(update={"refit": True, "epochs": 2})
    changed = replace(rows, seconds=np.where(validates, 50 * rows.seconds, rows.seconds))
    first, second = (
        train_ranker(each, "seconds", config, 3, RankerCallbacks(), validates)
        for each in (rows, changed)
    )
    # What validates chooses the epoch and the level; the order is learnt from the others alone.
    one, other = (np.argsort(scores(each.validation, rows.blocks)) for each in (first, second))
    np.testing.assert_array_equal(one, other)
    assert (
        np.argsort(scores(first.ranker, rows.blocks))
        != np.argsort(scores(second.ranker, rows.blocks))
    ).any()


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_switch_trains_saves_and_serves(switches, tmp_path):
    ranker, epochs = trained(mixed(), "seconds", SMALL.model_copy(update=switches), 1)
    assert np.isfinite([row["val_loss"] for row in epochs]).all()
    ranker.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".parquet", ".h5"}
    served = scores(Ranker.load(tmp_path), mixed().blocks)
    np.testing.assert_array_equal(served, scores(ranker, mixed().blocks))
    assert ((served >= 0) & np.isfinite(served)).all()
    assert served.std() > 0


def test_what_is_left_out_is_not_read_and_the_last_item_still_has_its_embedding(small):
    whole, _ = small
    ranker, _ = trained(mixed(), "seconds", SMALL.model_copy(update={"without": ("item", "z")}), 1)
    rows, served = mixed().blocks, scores(ranker, mixed().blocks)
    user, item = rows["user"], rows["item"]
    other = {
        "user": replace(user, numbers={**user.numbers, "z": np.full(300, 7.0)}),
        "item": replace(item, codes=item.codes | {"item": np.ones(300, np.int32)}),
    }
    np.testing.assert_array_equal(scores(ranker, rows | other), served)
    assert not np.array_equal(scores(whole, rows | {"user": other["user"]}), scores(whole, rows))
    assert "z" not in ranker.encoders.quantiles
    rolled = user.codes | {"user_last_item": np.roll(user.codes["user_last_item"], 1)}
    assert not np.array_equal(scores(ranker, rows | {"user": replace(user, codes=rolled)}), served)


def test_the_served_scores_have_the_validation_loss_that_the_keras_graph_reported():
    """The graph's own verdict on the later rows can only be met by computing its logits."""
    unplaced = replace(mixed(), positions=np.zeros(300, np.int32))
    ranker, epochs = trained(unplaced, "seconds", SMALL.model_copy(update={"pairwise": 0.0}), 1)
    rows = mixed()
    rows = replace(rows, seconds=np.minimum(rows.seconds, ranker.spec.seconds_cap))
    later = rows.take(np.flatnonzero(rows.timestamps_us >= 270))
    measures = ranker.measures(later.blocks["item"])
    logits = np.log(scores(ranker, later.blocks) / ranker.spec.scale / measures)
    labels, weights = (
        column[:, 0] for column in targets_of("exact", later.clicked, later.seconds / measures)
    )
    losses = np.maximum(logits, 0) - logits * labels + np.log1p(np.exp(-np.abs(logits)))
    assert (weights * losses).mean() / weights.mean() == pytest.approx(
        min(e["val_loss"] for e in epochs), rel=1e-4
    )


def test_what_is_out_of_vocabulary_adds_nothing(small):
    ranker, _ = small
    tables = {name: w for name, w in ranker.weights.items() if name.startswith("table_")}
    assert set(tables) == {"table_zone", "table_item", "table_a_kind"}
    other = {
        name: np.concatenate([w[:1] + 9, w[1:]]) if name in tables else w
        for name, w in ranker.weights.items()
    }
    blocks = mixed().blocks
    np.testing.assert_array_equal(
        scores(replace(ranker, weights=other), blocks), scores(ranker, blocks)
    )


def test_the_position_is_a_bias_that_serving_holds_at_its_mean():
    """Clicks halve at the second position; the items are alike, and what is served is the mean of
    both.
    """
    n, rng = 8_000, np.random.default_rng(0)
    places = (1 + np.arange(n) % 2).astype(np.int32)
    clicked = rng.random(n) < np.where(places == 1, 0.6, 0.3)
    blocks = {name: Block(n, {}, {}) for name in BLOCKS} | {
        "user": Block(n, {"flat": np.ones(n)}, {})
    }
    rows = RankingRows(
        blocks, np.arange(n), clicked, np.where(clicked, 10.0, 0), np.ones(n), places
    )
    config = CONFIG.model_copy(update={"calibration": "scale"})
    ranker, _ = trained(rows, "seconds", config, 0)
    served = scores(ranker, rows.blocks)
    assert np.ptp(served) == 0
    assert served[0] == pytest.approx(4.5, rel=0.1)
    assert trained(replace(rows, positions=places + LAST_POSITION), "seconds", config, 0)


def test_the_order_loss_is_that_of_a_loop_over_pairs_within_groups_of_neighbours(monkeypatch):
    monkeypatch.setattr(trainer_module, "PAIRED", 4)
    rng = np.random.default_rng(5)
    seconds, weights = rng.integers(0, 3, 11).astype(np.float32), rng.random(11).astype(np.float32)
    logits = rng.normal(size=11).astype(np.float32)
    total = above = 0.0
    for group in (range(4), range(4, 8)):
        for i, j in ((i, j) for i in group for j in group if seconds[i] > seconds[j]):
            weight = weights[i] * weights[j] * np.sqrt(seconds[i] - seconds[j])
            above += weight * np.log1p(np.exp(logits[j] - logits[i]))
            total += weight
    assert float(order_loss(seconds, weights, logits)) == pytest.approx(above / total, rel=1e-5)
    few = float(order_loss(seconds[:3], weights[:3], logits[:3]))
    monkeypatch.setattr(trainer_module, "PAIRED", 3)
    assert few == pytest.approx(float(order_loss(seconds[:3], weights[:3], logits[:3])))
    assert few > 0


def test_the_order_that_chooses_the_epoch_is_between_users_too():
    """Rows by user, as the log has them; no two of one user differ, so that neighbours have no
    order.
    """
    n = 4_096
    users = np.repeat(np.arange(16), 256)
    blocks = {
        "user": Block(n, {"worth": users / 16}, {}),
        "item": Block(n, {}, {}),
        "pair": Block(n, {}, {}),
    }
    timestamps_us, none = np.tile(np.arange(256), 16), np.zeros(n, np.int32)
    rows = RankingRows(blocks, timestamps_us, np.ones(n, bool), 10.0 + users, np.ones(n), none)
    losses = []
    for pairwise in (0.0, 1.0):
        _, epochs = fit(rows, pairwise=pairwise, epochs=1, validation_share=0.5)
        losses.append(epochs[0]["val_loss"])
    assert losses[1] - losses[0] > 0.2


def test_the_order_of_rows_is_learnt_beside_their_seconds_and_only_by_odds_of_seconds():
    """Two kinds of like expected seconds: one watched often and briefly, the other rarely and
    long.
    """
    rng = np.random.default_rng(6)
    often = np.arange(ROWS) % 2 == 0
    clicked = rng.random(ROWS) < np.where(often, 0.8, 0.1)
    seconds = np.where(clicked, np.where(often, 10.0, 80.0), 0.0)
    blocks = {
        "user": Block(ROWS, {}, {}),
        "item": Block(ROWS, {"often": often * 1.0}, {}),
        "pair": Block(ROWS, {}, {}),
    }
    rows = RankingRows(
        blocks, np.arange(ROWS), clicked, seconds, np.ones(ROWS), np.zeros(ROWS, np.int32)
    )

    def ratio(**choices):
        found = scores(fit(rows, epochs=20, **choices)[0], blocks)
        return found[often].mean() / found[~often].mean()

    assert ratio() == pytest.approx(1.0, abs=0.15)
    assert ratio(pairwise=3.0) > 1.3
    assert ratio(objective="value", pairwise=3.0) == pytest.approx(
        ratio(objective="value"), rel=1e-6
    )


def test_two_seeded_trainings_give_equal_weights(small):
    again, epochs = trained(mixed(), "seconds", SMALL, 1)
    assert epochs == small[1]
    for name, weights in small[0].weights.items():
        np.testing.assert_array_equal(weights, again.weights[name])


def test_normalisers_and_cap_are_fitted_on_the_earlier_rows_alone(small):
    """Whatever the last tenth of the rows by instant holds, quantiles, vocabularies and cap
    stay.
    """
    rows = mixed()
    later = rows.timestamps_us >= 270
    numbers = {
        "z": np.where(later, 1e6, rows.blocks["user"].numbers["z"]),
        "b": rows.blocks["user"].numbers["b"],
    }
    codes = {
        name: np.where(later, 99, code).astype(np.int32)
        for name, code in rows.blocks["user"].codes.items()
    }
    changed = replace(
        rows,
        blocks=rows.blocks | {"user": Block(300, numbers, codes)},
        clicked=rows.clicked | later,
        seconds=np.where(later, 5_000.0, rows.seconds),
    )
    ranker, _ = trained(changed, "seconds", SMALL.model_copy(update={"epochs": 1}), 1)
    assert ranker.spec.seconds_cap == small[0].spec.seconds_cap
    assert ranker.spec.sizes == small[0].spec.sizes
    for ours, theirs in zip(small[0].encoders.tables, ranker.encoders.tables, strict=True):
        assert ours.equals(theirs)


def test_refitted_on_all_rows_the_net_knows_the_newest_and_the_level_stays():
    """A mark that meant nothing before trebles the seconds of the last tenth."""
    rows, _ = simulated()
    newest, marked = np.arange(ROWS) >= 0.9 * ROWS, np.random.default_rng(1).random(ROWS) < 0.5
    blocks = rows.blocks | {"pair": Block(ROWS, {"mark": marked.astype(float)}, {})}
    turned = replace(
        rows, blocks=blocks, seconds=np.where(newest & marked, 3 * rows.seconds, rows.seconds)
    )
    (first, told), (again, told_again) = fit(turned), fit(turned, refit=True)
    assert told == told_again
    seconds = [scores(ranker, turned.blocks) for ranker in (first, again)]
    assert seconds[1][newest].sum() == pytest.approx(seconds[0][newest].sum(), rel=1e-3)
    worth = [each[marked].mean() / each[~marked].mean() for each in seconds]
    assert worth[1] > 1.05 * worth[0]


def test_each_epoch_is_told_and_training_lowers_the_loss():
    told = []
    _, epochs = trained(
        simulated(1_500)[0],
        "seconds",
        CONFIG.model_copy(update={"epochs": 5, "learning_rate": 0.03}),
        3,
        RankerCallbacks(told.append),
    )
    assert told == epochs
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4, 5]
    assert epochs[-1]["val_loss"] < epochs[0]["val_loss"]


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_training_that_was_killed_ends_where_one_that_was_not_does(tmp_path, after):
    """Three epochs choose one of them, and the net is trained anew: each is killed once."""
    config = SMALL.model_copy(update={"refit": True})
    calm = train_ranker(mixed(), "seconds", config, 1, RankerCallbacks(folder=tmp_path / "calm"))

    @dataclass(frozen=True)
    class Dying(RankerCallbacks):
        def keep(self, net, state):
            super().keep(net, state)
            kept.append(net)
            if len(kept) == after:
                raise Killed

    kept, told = [], []
    with pytest.raises(Killed):
        train_ranker(mixed(), "seconds", config, 1, Dying(folder=tmp_path / "killed"))
    assert kept == [*["fit"] * 3, "refit"][:after]
    going_on = RankerCallbacks(told.append, tmp_path / "killed")
    resumed = train_ranker(mixed(), "seconds", config, 1, going_on)
    assert [row["epoch"] for row in told] == [1, 2, 3][after:]
    assert resumed.epochs == calm.epochs
    for first, second in ((resumed.ranker, calm.ranker), (resumed.validation, calm.validation)):
        assert first.spec == second.spec
        np.testing.assert_equal(dict(first.weights), dict(second.weights))
    assert not list((tmp_path / "killed").glob(".*"))


def trainer_of(rows):
    ranker = untrained_ranker(rows, 9.0, "seconds", SMALL)
    return RankerTrainer(ranker.spec, build_examples(ranker, rows), SMALL, 0)


def test_an_epoch_of_a_large_log_is_so_many_steps(monkeypatch):
    monkeypatch.setattr(trainer_module, "STEPS_AN_EPOCH", 3)
    rows = mixed()
    trainer = trainer_of(rows)
    trainer.epoch()
    assert int(trainer._adam.iterations.numpy()) == 3
    small = rows.take(np.arange(100))
    trainer = trainer_of(small)
    trainer.epoch()
    assert int(trainer._adam.iterations.numpy()) == 2


def test_a_large_log_is_trained_for_so_many_steps_and_its_rate_has_fallen_by_then(monkeypatch):
    monkeypatch.setattr(trainer_module, "STEPS_AN_EPOCH", 3)
    monkeypatch.setattr(trainer_module, "MOST_STEPS", 5)
    rows, config = mixed(), SMALL.model_copy(update={"epochs": 9, "patience": 9})
    _, epochs = trained(rows, "seconds", config, 0)
    assert [row["epoch"] for row in epochs] == [1, 2]
    trainer = trainer_of(rows)
    for _ in range(trainer.epochs):
        trainer.epoch()
    assert float(trainer._adam.learning_rate.numpy()) == 0


@pytest.mark.parametrize(
    ("losses", "learnt"),
    [
        ([1.0, 0.9, 0.8], False),
        ([1.0, 0.9, 0.8, 0.7, 0.6], False),
        ([1.0, 0.5, 0.4999, 0.4998, 0.4997], False),
        ([1.0, 0.5, 0.4999, 0.4998, 0.4997, 0.4996], True),
        ([1.0, 0.5, 0.51, 0.52, 0.4994, 0.53], False),
        ([0.5, 0.6, 0.7, 0.8, 0.9], True),
    ],
)
def test_training_ends_where_patient_epochs_lower_the_loss_by_less_than_a_thousandth(
    losses, learnt
):
    assert has_learnt([{"val_loss": loss} for loss in losses], patience=4) is learnt
