"""What a policy would have shown: its chances slot by slot beside a reader who goes through the log
with a pencil.
"""

import numpy as np
import pytest

from ranking import policies
from ranking.policies import Logged, Policy, draws_of, pages_of, slots_of, softmax_of_places

USERS, ITEMS, K = 6, 12, 5


@pytest.fixture(scope="module", params=[0, 1])
def world(request):
    """Lists of users 1 to 5 (user 4 has an empty one), and a log of pages that also shows user 9
    and user 6.
    """
    rng = np.random.default_rng(request.param)
    lists = np.array([rng.permutation(ITEMS)[:K] + 1 for _ in range(USERS - 1)], np.int32)
    lists[1, 3:], lists[3] = 0, 0
    chances = softmax_of_places(lists, 2.0)
    policy = Policy(
        np.arange(1, USERS, dtype=np.int32), lists, chances, rng.gamma(2, 30, lists.shape)
    )
    users = np.sort(rng.choice([1, 2, 3, 4, 5, 6, 9], 300)).astype(np.int32)
    positions = rng.choice([0, 1, 2, 3, 4, 5], 300, p=[0.1, 0.1, 0.2, 0.2, 0.2, 0.2]).astype(
        np.int32
    )
    clicked = rng.random(300) < 0.05
    seconds, propensity = np.where(clicked, rng.gamma(1, 60, 300), 0.0), rng.uniform(0.01, 1, 300)
    items = rng.integers(1, ITEMS + 1, 300).astype(np.int32)
    propensity = np.where(rng.random(300) < 0.2, np.nan, propensity)
    return policy, Logged(users, items, clicked, seconds, propensity, positions)


def by_pencil(policy, logged):
    """Chances {item: chance} of every slot, read row by row."""
    answers, page, clicked = [], set(), {}
    for i in range(len(logged)):
        user, item, position = (
            int(column[i]) for column in (logged.users, logged.items, logged.positions)
        )
        same_user = i > 0 and logged.users[i - 1] == user
        if not (same_user and position > logged.positions[i - 1] > 0):
            page = set()
        row = np.flatnonzero(policy.users == user)
        answers.append(None)
        if len(row) and not np.isnan(logged.propensity[i]):
            listed = zip(
                policy.items[row[0]].tolist(), policy.chances[row[0]].tolist(), strict=True
            )
            barred = page | clicked.get(user, set())
            left = {a: chance for a, chance in listed if a and a not in barred}
            answers[-1] = {a: chance / sum(left.values()) for a, chance in left.items()}
        page.add(item)
        if logged.clicked[i]:
            clicked.setdefault(user, set()).add(item)
    return answers


def test_places_have_softmax_chances_that_sum_to_one_and_an_empty_place_has_none():
    lists = np.array([[7, 8, 9], [7, 8, 0], [0, 0, 0]])
    np.testing.assert_allclose(
        softmax_of_places(lists, 1.0), [[6 / 11, 3 / 11, 2 / 11], [2 / 3, 1 / 3, 0], [0, 0, 0]]
    )
    scores = -np.log([1, 2, 3]) / 0.5
    np.testing.assert_allclose(
        softmax_of_places(lists, 0.5)[0], np.exp(scores) / np.exp(scores).sum()
    )
    np.testing.assert_allclose(softmax_of_places(lists, 1e9)[0], [1 / 3, 1 / 3, 1 / 3])


def test_a_page_goes_on_while_positions_rise_and_an_unknown_position_stands_alone():
    users = np.array([1, 1, 1, 1, 2, 2, 2, 2, 2], np.int32)
    positions = np.array([1, 2, 4, 1, 2, 3, 0, 0, 1], np.int32)
    assert pages_of(users, positions).tolist() == [0, 0, 0, 1, 2, 2, 3, 4, 5]
    assert pages_of(users[:0], positions[:0]).size == 0


@pytest.mark.parametrize("shard", [7, 20_000])
def test_chances_leave_out_what_stands_above_and_what_was_clicked_since(world, monkeypatch, shard):
    monkeypatch.setattr(policies, "SHARD", shard)
    policy, logged = world
    expected = by_pencil(policy, logged)
    found = [None] * len(logged)
    for slots, rows, chances in draws_of(policy, logged):
        for slot, row, chance in zip(slots, rows, chances, strict=True):
            found[slot] = {
                a: c for a, c in zip(policy.items[row].tolist(), chance.tolist(), strict=True) if c
            }
    assert [a is None for a in found] == [a is None for a in expected]
    assert any(a == {} for a in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == (None if theirs is None else pytest.approx(theirs))


def test_slots_weigh_the_logged_item_and_know_the_models_seconds_of_it_and_of_the_draw(world):
    policy, logged = world
    slots = slots_of(policy, logged)
    model = {
        (user, item): seconds
        for user, items, expected in zip(policy.users, policy.items, policy.expected, strict=True)
        for item, seconds in zip(items, expected, strict=True)
    }
    for i, answer in enumerate(by_pencil(policy, logged)):
        chances, user, item = answer or {}, logged.users[i], logged.items[i]
        weight = chances[item] / logged.propensity[i] if item in chances else 0.0
        assert slots.weights[i] == pytest.approx(weight)
        assert slots.direct[i] == pytest.approx(
            sum(chance * model[user, a] for a, chance in chances.items())
        )
        assert slots.filled[i] == bool(chances)
        if chances.get(item):
            assert slots.expected[i] == model[user, item]


def test_without_lists_nothing_is_drawn(world):
    policy, logged = world
    nobody = Policy(policy.users[:0], policy.items[:0], policy.chances[:0], policy.expected[:0])
    assert list(draws_of(nobody, logged)) == []
    slots = slots_of(nobody, logged)
    assert not slots.filled.any()
    assert not slots.weights.any()
