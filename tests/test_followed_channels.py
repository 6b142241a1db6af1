"""More from the channels a user watched: shares of a channel's watches, known by hand."""

import numpy as np

from recall.generators.followed_channels import offer_channels

CHANNELS = np.array([0, 1, 1, 1, 2, 2, 0], np.int32)
WATCHES = np.array([0.0, 5.0, 2.0, 0.0, 4.0, 0.0, 9.0])
NEW = np.array([False, False, False, True, False, False, False])


def test_each_channel_offers_its_items_by_their_share_a_new_one_as_if_watched_once():
    offered = offer_channels(CHANNELS, WATCHES, NEW).offered.toarray()
    expected = [[0] * 7, [0, 5 / 8, 2 / 8, 1 / 8, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0]]
    np.testing.assert_allclose(offered, expected, rtol=1e-6)


def test_a_user_is_offered_the_unseen_of_the_channels_watched_the_latest_channel_first(asked):
    channel = offer_channels(CHANNELS, WATCHES, NEW)
    requests = asked([[5, 1, 0], [6, 0, 0], [0, 0, 0]], seen=((0, 5), (0, 1)))
    named = channel.answer(requests).named(4)
    assert named.items.tolist() == [[4, 2, 3, 0], [0] * 4, [0] * 4]
