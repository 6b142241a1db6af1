"""The table of exclusions, as it is written and whatever the ids look like."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features.errors import InputError
from features.timeline import pair_keys
from features.vocabulary import Vocabulary
from funnel.steps.ordering import excluded_pairs


class Told(SimpleNamespace):
    """A run's ids, and what it was told."""

    def __init__(self, items, users):
        vocabularies = (
            Vocabulary(pa.array(ids), np.zeros(len(ids), np.int64)) for ids in (items, users)
        )
        super().__init__(
            ids=SimpleNamespace(**dict(zip(("items", "users"), vocabularies, strict=True))), said=[]
        )

    def tell(self, text):
        self.said.append(text)


TEXTS = ["7", "007", "NA", "12"], ["2", "02"]
NUMBERS = [7, 8, 9, 12], [2, 3]


def pairs(*of):
    return sorted(int(pair_keys(user, item)) for user, item in of)


def written(folder, text):
    path = folder / "exclusions.csv"
    path.write_text(text)
    return str(path)


def test_ids_that_are_text_stay_as_they_are_written(tmp_path):
    context = Told(*TEXTS)
    path = written(tmp_path, "item_id,user_id\n007,02\nNA,2\n12,\n")
    assert excluded_pairs(context, path).tolist() == pairs((2, 2), (1, 3), (0, 4))
    assert not context.said
    assert excluded_pairs(context, written(tmp_path, "item_id\n007\n")).tolist() == pairs((0, 2))


def test_ids_that_are_numbers_are_read_as_numbers_and_what_nobody_knows_is_told(tmp_path):
    context = Told(*NUMBERS)
    path = written(tmp_path, "item_id,user_id\n12,3\n99,3\n12,99\n,2\n8,\n")
    assert excluded_pairs(context, path).tolist() == pairs((2, 4), (0, 2))
    assert context.said == ["re_rank.exclusions: 3 of 5 rows name what the log does not know"]
    parquet = tmp_path / "exclusions.parquet"
    pd.DataFrame({"item_id": [12.0, 8.0], "user_id": [3.0, np.nan]}).to_parquet(parquet)
    assert excluded_pairs(context, str(parquet)).tolist() == pairs((2, 4), (0, 2))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("item_id\nseven\n", "item_id is not of the log's type, int64"),
        ("item_id,why\n7,no\n", "its columns are item_id, why"),
        ("user_id\n2\n", "its columns are user_id"),
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        excluded_pairs(Told(*NUMBERS), written(tmp_path, text))


def test_no_table_excludes_nothing_and_a_missing_one_is_refused():
    assert len(excluded_pairs(Told(*NUMBERS), None)) == 0
    with pytest.raises(InputError, match=r"nowhere\.csv: the table of exclusions cannot be read"):
        excluded_pairs(Told(*NUMBERS), "nowhere.csv")
