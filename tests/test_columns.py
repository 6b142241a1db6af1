"""What an ablation leaves out: by name or by pattern, refused where nothing is called so or nothing would be left."""

import numpy as np
import pytest

from features.errors import Refused
from features.ledger import Block
from ranking.columns import Columns, columns_of

NUMBER, CODE = np.zeros(2), np.zeros(2, np.int32)
BLOCKS = {
    "user": Block(2, {"user_age": NUMBER}, {"user_country": CODE}),
    "item": Block(2, {"item_shown": NUMBER, "item_click_rate": NUMBER}, {"item": CODE}),
    "pair": Block(2, {"user_topic_shown": NUMBER, "user_channel_shown": NUMBER}, {}),
}


def test_all_columns_are_read_where_nothing_is_left_out():
    assert columns_of(BLOCKS, []) == Columns(
        {
            "user": ("user_age",),
            "item": ("item_shown", "item_click_rate"),
            "pair": ("user_topic_shown", "user_channel_shown"),
        },
        {"user": ("user_country",), "item": ("item",), "pair": ()},
    )


def test_a_name_leaves_out_itself_alone_and_a_pattern_what_is_like_it():
    read = columns_of(BLOCKS, ["item", "user_[tc]*_shown"])
    assert read.codes == {"user": ("user_country",), "item": (), "pair": ()}
    assert read.numbers == {"user": ("user_age",), "item": ("item_shown", "item_click_rate"), "pair": ()}


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (["user_topc_shown"], "did you mean user_topic_shown?"),
        (["zzz*"], "there are user_age, item_shown"),
        (["User_age"], "did you mean user_age?"),
        (["user_history_00"], "no column of the ranking rows is called so"),
        (["user*", "item*"], "leaves the ranker no column"),
    ],
)
def test_a_pattern_that_names_nothing_or_everything_is_refused(without, said):
    with pytest.raises(Refused) as refused:
        columns_of(BLOCKS, without)
    assert said in str(refused.value)


def test_rows_without_any_column_are_not_what_a_pattern_did():
    nothing = {name: Block(2, {}, {}) for name in BLOCKS}
    assert columns_of(nothing, []).numbers == {"user": (), "item": (), "pair": ()}
