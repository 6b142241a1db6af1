"""The re-watch generator names what was seen, and only that."""

from recall.generators.rewatch import Rewatch


def test_what_was_watched_often_or_lately_comes_first(asked):
    named = (
        Rewatch()
        .answer(asked([[3, 1, 2, 1], [4, 0, 0, 0]], seen=((0, 1), (0, 2), (0, 3), (1, 4))))
        .named(3)
    )
    assert named.items.tolist() == [[1, 3, 2], [4, 0, 0]]


def test_a_user_without_watches_is_named_nothing(asked):
    assert Rewatch().answer(asked([[0, 0]])).named(2).items.tolist() == [[0, 0]]
