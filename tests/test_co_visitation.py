"""Co-visitation against a loop over every pair of watches."""

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.histories import histories_of
from recall.generators import co_visitation as module
from recall.generators.co_visitation import BACKWARD, WINDOW, count_co_visits
from recall.generators.popular import HOUR

ITEMS, AS_OF = 7, 20
WATCH = st.tuples(st.integers(1, 4), st.integers(0, 25), st.integers(1, ITEMS - 1))


def histories(events, users=5):
    rows = np.array(sorted(events), np.int64).reshape(-1, 3)
    return histories_of(rows[:, 0], rows[:, 2], rows[:, 1] * HOUR, users)


def brute_force(events, half_life):
    """Normalised co-visitation [ITEMS, ITEMS], pair by pair."""
    counts = np.zeros((ITEMS, ITEMS))
    for user in {user for user, _, _ in events}:
        watches = [
            (hour, item) for who, hour, item in sorted(events) if who == user and hour < AS_OF
        ]
        for (first, (_, earlier)), (last, (hour, later)) in combinations(enumerate(watches), 2):
            if last - first <= WINDOW and earlier != later:
                weight = (
                    1
                    / (last - first)
                    * (1 if half_life is None else 0.5 ** ((AS_OF - hour) / half_life))
                )
                counts[earlier, later] += weight
                counts[later, earlier] += weight * BACKWARD
    rows, columns = np.maximum(counts.sum(axis=1), 1e-9), np.maximum(counts.sum(axis=0), 1e-9)
    return counts / rows[:, None] / np.sqrt(columns / columns.sum())


@given(events=st.lists(WATCH, max_size=40), half_life=st.sampled_from([None, 3.0]))
def test_weights_are_what_a_loop_over_all_pairs_of_watches_counts(events, half_life):
    found = count_co_visits(histories(events), ITEMS, AS_OF * HOUR, half_life).weights.toarray()
    np.testing.assert_allclose(found, brute_force(events, half_life), rtol=1e-4)


def test_watches_at_or_after_the_instant_change_nothing():
    early = [(1, 1, 1), (1, 2, 2), (2, 3, 2), (2, 4, 3)]
    late = [(1, AS_OF, 5), (2, AS_OF + 1, 6)]
    before, after = (
        count_co_visits(histories(e), ITEMS, AS_OF * HOUR, 3.0).weights
        for e in (early, early + late)
    )
    np.testing.assert_array_equal(before.toarray(), after.toarray())


def test_each_item_keeps_its_strongest_neighbours_only(monkeypatch):
    monkeypatch.setattr(module, "NEIGHBOURS", 2)
    events = [(user, hour, item) for user in (1, 2, 3) for hour, item in enumerate([user, 4, 5, 6])]
    weights = count_co_visits(histories(events), ITEMS, AS_OF * HOUR, None).weights.toarray()
    assert ((weights > 0).sum(axis=1) <= 2).all()
    strongest = np.sort(whole := brute_force(events, None), axis=1)[:, -2:]
    np.testing.assert_allclose(np.where(weights > 0, whole, 0).sum(axis=1), strongest.sum(axis=1))


def test_even_users_are_offered_even_items(asked):
    events = [
        (user, hour, 2 * (hour % 3) + 2 - user % 2) for user in (1, 2, 3, 4) for hour in range(9)
    ]
    generator = count_co_visits(histories(events), ITEMS, AS_OF * HOUR, None)
    named = generator.answer(asked([[2, 0], [1, 0]])).named(3)
    assert set(named.items[0]) - {0} == {4, 6}
    assert set(named.items[1]) - {0} == {3, 5}
