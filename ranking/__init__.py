"""From candidates to an ordered few, by expected watch seconds (Covington et al. 2016, section 4).

Rows of features and what became of them train a ranker; it says for how long an item is watched if
it is shown:

>>> import numpy as np
>>> from features.asof_features import Block
>>> from ranking import ListOrder, RankingConfig, RankingRows, train_ranker
>>> n = 2_000
>>> is_film = np.arange(n) % 2 == 0
>>> clicked = np.arange(n) % 4 < 2
>>> seconds = np.where(clicked, np.where(is_film, 80.0, 20.0), 0.0)
>>> blocks = {
...     "user": Block(n, {}, {}),
...     "item": Block(n, {"item_is_film": is_film.astype(np.float64)}, {}),
...     "pair": Block(n, {}, {}),
... }
>>> rows = RankingRows(blocks, np.arange(n), clicked, seconds, np.ones(n), np.zeros(n, np.int32))
>>> config = RankingConfig(hidden=(), batch=100, learning_rate=0.05)
>>> ranker = train_ranker(rows, "seconds", config, seed=0).ranker
>>> expected = ranker.scores(blocks["user"], blocks["item"], blocks["pair"])[:2]
>>> expected.round(-1)
array([40., 10.])

Lists are ordered by those seconds and by the chance that an item is watched next:

>>> order = ListOrder(chance_weight=1.0)
>>> int(order.scores(np.log(expected), np.log([0.1, 0.9])).argmax())
1

`fit_recommender` makes such rows of a data set's impressions, refuses features that look ahead
(`check_leakage`), and recommends from `Lists` of candidates as of an instant.
"""

from typing import TYPE_CHECKING

from features.lazy import lazy_names

if TYPE_CHECKING:
    from ranking.config import RankingConfig
    from ranking.examples import RankingRows
    from ranking.leakage_check import check_leakage
    from ranking.list_order import ListOrder
    from ranking.recommend import Lists, Recommender
    from ranking.train import fit_recommender, train_ranker

__all__ = [
    "ListOrder",
    "Lists",
    "RankingConfig",
    "RankingRows",
    "Recommender",
    "check_leakage",
    "fit_recommender",
    "train_ranker",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ListOrder": "ranking.list_order",
        "Lists": "ranking.recommend",
        "RankingConfig": "ranking.config",
        "RankingRows": "ranking.examples",
        "Recommender": "ranking.recommend",
        "check_leakage": "ranking.leakage_check",
        "fit_recommender": "ranking.train",
        "train_ranker": "ranking.train",
    },
)
