"""Every published layout in small: the files exactly as they are published, the whole tables that
come out.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.data.formats import SOURCES, read, source_files
from features.errors import InputError
from features.tables import Tables, engine

DATA = Path(__file__).parents[2] / "shared" / "data"


def folder(place: Path, **files: str) -> Path:
    for name, text in files.items():
        (place / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return place


def tables(source: str, data: Path) -> Tables:
    return read(source, data, engine())


def rows(table: ir.Table | None, by: str | None = None) -> list[tuple[Any, ...]]:
    assert table is not None
    ordered = table.order_by(by) if by else table
    return [tuple(row.values()) for row in ordered.to_pyarrow().to_pylist()]


def types(table: ir.Table) -> dict[str, str]:
    return {name: str(kind) for name, kind in table.schema().items()}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


KUAIRAND_LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
KUAIRAND_VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
    "server_height,music_id,music_type,tag\n"
)


def kuairand(place: Path) -> Path:
    return folder(
        place,
        log_standard_4_08_to_4_21_pure__csv=KUAIRAND_LOG
        + "0,10,20220408,0,1649346288441,1,0,0,0,0,0,1,19435,18983,0,0,0,0,1\n"
        + "0,11,20220408,0,1649346289000,0,0,0,0,0,0,0,3000,0,0,0,0,0,4\n",
        log_random_4_22_to_5_08_pure__csv=KUAIRAND_LOG
        + "2,12,20220422,1200,1650600000000,1,0,0,0,0,0,0,5000,27566,0,0,0,1,1\n"
        + "2,13,20220422,1200,1650600001000,0,0,0,0,0,0,0,900,20000,0,0,0,1,1\n"
        + "0,13,20220422,1200,1650600002000,0,0,0,0,0,0,0,900,20000,0,0,0,1,1\n",
        video_features_basic_pure__csv=KUAIRAND_VIDEOS
        + '10,7349781,NORMAL,2022-04-08,LongImport,0.0,,720.0,1280.0,1,9.0,"39,2"\n'
        + "11,2103883,AD,2022-04-09,Kmovie,0.0,218066.0,720.0,1280.0,2,9.0,\n",
        user_features_pure__csv="user_id,user_active_degree,fans_user_num,onehot_feat0,onehot_feat1\n"
        + "0,full_active,150,1,\n2,high_active,20,0,7\n",
    )


def test_kuairand_logs_are_joined_and_rows_shown_at_random_have_the_chance_of_one_in_the_random_videos(
    tmp_path: Path,
) -> None:
    log = tables("kuairand", kuairand(tmp_path)).interactions
    assert types(log) == {
        "user_id": "int64",
        "item_id": "int64",
        "timestamp": "timestamp('UTC')",
        "clicked": "boolean",
        "watch_seconds": "float64",
        "surface": "string",
        "is_rand": "string",
        "propensity": "float64",
    }
    assert rows(log, "timestamp") == [
        (0, 10, at("2022-04-07T15:44:48.441"), True, 19.435, "1", "0", None),
        (0, 11, at("2022-04-07T15:44:49"), False, 3.0, "4", "0", None),
        (2, 12, at("2022-04-22T04:00:00"), True, 5.0, "1", "1", 0.5),
        (2, 13, at("2022-04-22T04:00:01"), False, 0.9, "1", "1", 0.5),
        (0, 13, at("2022-04-22T04:00:02"), False, 0.9, "1", "1", 0.5),
    ]


def test_a_kuairand_log_without_random_rows_has_no_propensities(tmp_path: Path) -> None:
    kuairand(tmp_path)
    (tmp_path / "log_random_4_22_to_5_08_pure.csv").unlink()
    log = tables("kuairand", tmp_path).interactions
    assert [row[-1] for row in rows(log, "timestamp")] == [None, None]


def test_kuairand_videos_take_the_length_the_log_gives_and_the_day_as_beijings(
    tmp_path: Path,
) -> None:
    side = tables("kuairand", kuairand(tmp_path))
    assert rows(side.items, "item_id") == [
        (10, at("2022-04-07T16:00"), 18.983, "7349781", ["39", "2"], "NORMAL", "LongImport"),
        (11, at("2022-04-08T16:00"), 218.066, "2103883", None, "AD", "Kmovie"),
        (12, None, 27.566, None, None, None, None),
        (13, None, 20.0, None, None, None, None),
    ]
    assert rows(side.users, "user_id") == [(0, "1", None), (2, "0", "7")]


@pytest.mark.parametrize("size", ["1k", "27k"])
def test_kuairand_file_names_of_the_larger_sizes_are_found(tmp_path: Path, size: str) -> None:
    names = [f"log_standard_4_08_to_4_21_{size}_part1.csv", f"log_random_4_22_to_5_08_{size}.csv"]
    for name in names:
        (tmp_path / name).write_text(
            KUAIRAND_LOG + "0,1,20220408,0,1649346288441,1,0,0,0,0,0,1,1,1,0,0,0,0,1\n"
        )
    (tmp_path / f"video_features_statistic_{size}.csv").write_text("video_id,counts\n1,2\n")
    assert [path.name for path in source_files("kuairand", tmp_path)] == sorted(names)


KUAIREC_LOG = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
KUAIREC_DAYS = "video_id,date,author_id,video_type,upload_dt,upload_type,video_duration,show_cnt\n"


def test_kuairec_reads_the_big_matrix_and_the_first_day_of_each_video(tmp_path: Path) -> None:
    folder(
        tmp_path,
        big_matrix__csv=KUAIREC_LOG
        + "0,148,4381,6067,2020-07-05 05:27:48.378,20200705,1593898068.378,0.72\n"
        + "0,183,0,0,2020-07-05 05:28:00.057,20200705,1593898080.057,0.0\n",
        small_matrix__csv=KUAIREC_LOG + "14,148,1,1,,,,1.0\n",
        item_daily_features__csv=KUAIREC_DAYS
        + "148,20200705,5,NORMAL,2020-03-30,Short,6067.0,900\n",
        item_categories__csv='video_id,feat\n148,"[27, 9]"\n183,[8]\n',
        user_features__csv="user_id,user_active_degree,onehot_feat0\n0,high_active,3\n",
    )
    side = tables("kuairec", tmp_path)
    assert rows(side.interactions, "item_id") == [
        (0, 148, at("2020-07-04T21:27:48.378"), 4.381, True),
        (0, 183, at("2020-07-04T21:28:00.057"), 0.0, True),
    ]
    assert rows(side.items, "item_id") == [
        (148, at("2020-03-29T16:00"), 6.067, "5", "NORMAL", ["27", "9"]),
        (183, None, None, None, None, ["8"]),
    ]
    assert rows(side.users) == [(0, "3")]


def test_kuairec_takes_the_caption_categories_where_there_are_no_tags(tmp_path: Path) -> None:
    levels = "first_level_category_id,first_level_category_name,second_level_category_id,second_level_category_name"
    folder(
        tmp_path,
        small_matrix__csv=KUAIREC_LOG
        + "14,148,4381,6067,2020-07-05 05:27:48,20200705,1593898068,0.7\n",
        kuairec_caption_category__csv=f"video_id,manual_cover_text,caption,topic_tag,{levels}\n"
        "148,UNKNOWN,a caption,[],8,Photos,673,Landscape\n"
        "149,UNKNOWN,a caption that\nbreaks its line,[],8,Photos,673,Landscape\n"
        "150,UNKNOWN,UNKNOWN,[],11,Pets,-124,UNKNOWN\n",
    )
    items = tables("kuairec", tmp_path).items
    assert items is not None
    named = items.filter(items["item_id"].notnull()).select("item_id", "topics", "title")
    assert rows(named, "item_id") == [
        (148, ["Photos", "Landscape"], "a caption"),
        (150, ["Pets"], None),
    ]


def test_kuairec_tags_without_their_column_are_refused(tmp_path: Path) -> None:
    folder(
        tmp_path,
        big_matrix__csv=KUAIREC_LOG + "0,148,4381,,2020-07-05,20200705,1593898068.378,0.72\n",
        item_categories__csv="video_id,tags\n148,[8]\n",
    )
    with pytest.raises(InputError, match="feat"):
        tables("kuairec", tmp_path)


def test_kuairec_takes_captions_as_titles_beside_the_tags(tmp_path: Path) -> None:
    folder(
        tmp_path,
        big_matrix__csv=KUAIREC_LOG + "0,148,4381,,2020-07-05,20200705,1593898068.378,0.72\n",
        item_categories__csv='video_id,feat\n148,"[27, 9]"\n183,[8]\n',
        kuairec_caption_category__csv="video_id,caption,first_level_category_name\n"
        "148,a caption,Photos\n183,UNKNOWN,Pets\n",
    )
    items = tables("kuairec", tmp_path).items
    assert items is not None
    assert rows(items.select("item_id", "topics", "title"), "item_id") == [
        (148, ["27", "9"], "a caption"),
        (183, ["8"], None),
    ]


def test_movielens_1m_is_latin_1_between_double_colons(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n2::661::3::978302109\n")
    (tmp_path / "movies.dat").write_bytes(
        '661::Misérables, Les (1995)::Drama|Musical\n1193::It\'s "Quoted" (1975)::Drama\n'.encode(
            "latin-1"
        )
    )
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::02138\n")
    side = tables("movielens", tmp_path)
    assert rows(side.interactions, "user_id") == [
        (1, 1193, at("2000-12-31T22:12:40"), True, None),
        (2, 661, at("2000-12-31T22:35:09"), True, None),
    ]
    assert rows(side.items, "item_id") == [
        (661, "Misérables, Les (1995)", ["Drama", "Musical"], at("1995-01-01")),
        (1193, 'It\'s "Quoted" (1975)', ["Drama"], at("1975-01-01")),
    ]
    assert rows(side.users, "user_id") == [
        (1, "F", 1.0, "10", "48067"),
        (2, "M", 56.0, "16", "02138"),
    ]


def test_movielens_100k_genres_are_nineteen_flags(tmp_path: Path) -> None:
    flags = "|".join("1" if n in (3, 5) else "0" for n in range(19))
    unknown = "|".join("1" if n == 0 else "0" for n in range(19))
    (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n")
    (tmp_path / "u.item").write_text(
        f"242|Kolya (1996)|24-Jan-1997||http://x|{flags}\n267|unknown||||{unknown}\n",
        encoding="latin-1",
    )
    (tmp_path / "u.user").write_text("196|49|M|writer|55105\n")
    side = tables("movielens", tmp_path)
    assert rows(side.interactions) == [(196, 242, at("1997-12-04T15:55:49"), True, None)]
    assert rows(side.items, "item_id") == [
        (242, "Kolya (1996)", ["Animation", "Comedy"], at("1996-01-01")),
        (267, "unknown", [], None),
    ]
    assert rows(side.users) == [(196, "M", 49.0, "writer", "55105")]


def test_movielens_25m_titles_may_hold_commas(tmp_path: Path) -> None:
    folder(
        tmp_path,
        ratings__csv="userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n",
        movies__csv='movieId,title,genres\n296,"American President, The (1995)",Comedy|Drama\n'
        "297,No Year,(no genres listed)\n",
    )
    side = tables("movielens", tmp_path)
    assert rows(side.interactions) == [(1, 296, at("2006-05-17T15:34:04"), True, None)]
    assert rows(side.items, "item_id") == [
        (296, "American President, The (1995)", ["Comedy", "Drama"], at("1995-01-01")),
        (297, "No Year", [], None),
    ]
    assert side.users is None


def test_recbole_headers_lose_their_types_and_integer_tokens_come_back_as_integers(
    tmp_path: Path,
) -> None:
    folder(
        tmp_path,
        x__inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\ti242\t3\t881250949\n",
        x__item="item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "i242\tKolya\t1996\tComedy Drama\n7\tNew\t\t\n",
        x__user="user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n196\t49\tM\twriter\t02138\n",
    )
    side = tables("recbole", tmp_path)
    assert rows(side.interactions) == [(196, "i242", at("1997-12-04T15:55:49"), True, None)]
    assert rows(side.items, "item_id") == [
        ("7", None, "New", None),
        ("i242", ["Comedy", "Drama"], "Kolya", at("1996-01-01")),
    ]
    assert rows(side.users) == [(196, 49.0, "M", "writer", "02138")]


GLOBO = (
    "user_id,session_id,session_start,session_size,click_article_id,click_timestamp,click_environment,"
    "click_deviceGroup,click_os,click_country,click_region,click_referrer_type\n"
)


def globo_click(user: int, session: int, article: int, milliseconds: int) -> str:
    return f"{user},{session},1506826800000,2,{article},{1_506_826_800_000 + milliseconds},4,1,17,1,25,2\n"


def test_globo_seconds_are_the_gap_to_the_next_click_but_for_a_sessions_last_two(
    tmp_path: Path,
) -> None:
    folder(
        tmp_path,
        clicks_hour_000__csv=GLOBO
        + globo_click(7, 1, 100, 0)
        + globo_click(7, 1, 101, 75_373)
        + globo_click(7, 1, 102, 75_373 + 1_800_001),
        clicks_hour_001__csv=GLOBO
        + globo_click(7, 1, 103, 1_900_000)
        + globo_click(7, 1, 104, 1_930_000)
        + globo_click(7, 2, 105, 1_940_000)
        + globo_click(8, 3, 106, 0)
        + globo_click(8, 3, 107, 30_000),
        articles_metadata__csv="article_id,category_id,created_at_ts,publisher_id,words_count\n"
        "100,0,1506800000000,0,168\n",
    )
    side = tables("globo", tmp_path)
    log = side.interactions
    assert rows(log.select("user_id", "item_id", "watch_seconds", "clicked"), "item_id") == [
        (7, 100, 75.373, True),
        (7, 101, None, True),
        (7, 102, 24.626, True),
        (7, 103, None, True),
        (7, 104, None, True),
        (7, 105, None, True),
        (8, 106, None, True),
        (8, 107, None, True),
    ]
    assert rows(
        log.select("device", "environment", "os", "country", "region", "referrer").distinct()
    ) == [("1", "4", "17", "1", "25", "2")]
    assert rows(side.items) == [(100, at("2017-09-30T19:33:20"), "0", ["0"])]


def test_globo_parquet_has_the_same_columns(tmp_path: Path) -> None:
    names = GLOBO.strip().split(",")
    cells = [
        [int(cell) for cell in globo_click(7, 1, 100 + n, n * 1000).strip().split(",")]
        for n in range(3)
    ]
    columns = {name: [row[index] for row in cells] for index, name in enumerate(names)}
    pq.write_table(pa.table(columns), tmp_path / "clicks_oct_01_12.parquet")
    log = tables("globo", tmp_path).interactions
    assert rows(log.select("item_id", "watch_seconds"), "item_id") == [
        (100, 1.0),
        (101, None),
        (102, None),
    ]


def test_news_has_no_headers_and_takes_the_likeliest_age_and_gender(tmp_path: Path) -> None:
    folder(
        tmp_path,
        train_data__txt="1000541010\t464467760\t1624843756147\t2\t0\t13\t1\t28\n"
        "1000541010\t463850913\t1624843756147\t2\t0\t14\t0\t0\n",
        user_info__txt="1000541010\tV2054A\tAndroid\tShanghai\tShanghai\t"
        "A_0_24:0.404616,A_25_29:0.059027,A_30_39:0.516056,A_40+:0.020301\tfemale:0.051339,male:0.948661\n"
        "17\t\t\t\t\t\t\n",
        doc_info__txt="464467760\tA "
        '"title\t1624800000000\t3\tEntertainment\tEntertainment/Stars\tstar:8.6\n'
        "463850913\tOther\t1624800000001\t0\tSport\tSport\t\n",
    )
    side = tables("news", tmp_path)
    when = at("2021-06-28T01:29:16.147")
    assert rows(side.interactions, "position") == [
        (1000541010, 464467760, when, "2", 0.0, 13.0, True, 28.0),
        (1000541010, 463850913, when, "2", 0.0, 14.0, False, 0.0),
    ]
    assert rows(side.users, "user_id") == [
        (17, None, None, None, None, None, None),
        (1000541010, "V2054A", "Android", "Shanghai", "Shanghai", 30.0, "male"),
    ]
    assert rows(side.items, "item_id") == [
        (463850913, "Other", at("2021-06-27T13:20:00.001"), ["Sport"]),
        (464467760, 'A "title', at("2021-06-27T13:20"), ["Entertainment", "Entertainment/Stars"]),
    ]


CANONICAL = (
    "user_id,item_id,timestamp,clicked,watch_seconds,surface\n"
    "u1,7,2024-05-01T10:00:00+02:00,1,12.5,home\n"
    "u1,8,2024-05-01 08:30:00,false,,home\n"
    "u2,7,1714550400,true,3,\n"
)


def test_canonical_csv_takes_iso_text_in_any_zone_and_epoch_seconds(tmp_path: Path) -> None:
    folder(
        tmp_path,
        interactions__csv=CANONICAL,
        items__csv="item_id,published_at,duration_seconds,topics,title\n7,2024-01-01,60,a| "
        "b,Seven\n8,,,,\n",
        searches__csv="user_id,timestamp,query\nu1,1714550400,blue whale\n",
    )
    side = tables("canonical", tmp_path)
    assert rows(side.interactions) == [
        ("u1", 7, at("2024-05-01T08:00"), True, 12.5, "home"),
        ("u1", 8, at("2024-05-01T08:30"), False, None, "home"),
        ("u2", 7, at("2024-05-01T08:00"), True, 3.0, None),
    ]
    assert rows(side.items, "item_id") == [
        (7, "Seven", at("2024-01-01"), 60.0, ["a", "b"]),
        (8, None, None, None, None),
    ]
    assert rows(side.searches) == [("u1", at("2024-05-01T08:00"), "blue whale")]


@pytest.mark.parametrize("zone", [None, "UTC", "America/Sao_Paulo"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_canonical_parquet_takes_instants_of_every_unit_and_zone(
    tmp_path: Path, unit: str, zone: str | None
) -> None:
    timestamps_us = pa.array([datetime(2024, 5, 1)], pa.timestamp(unit, zone))
    table = pa.table({"user_id": [1], "item_id": [5], "timestamp": timestamps_us})
    pq.write_table(table, tmp_path / "interactions.parquet")
    assert rows(tables("canonical", tmp_path).interactions) == [
        (1, 5, at("2024-05-01"), True, None)
    ]


def test_canonical_parquet_keeps_its_ids_and_ignores_other_folders(tmp_path: Path) -> None:
    timestamps_us = pa.array([datetime(2024, 5, 1), datetime(2024, 5, 2)], pa.timestamp("ns"))
    pq.write_table(
        pa.table({"user_id": ["1", "2"], "item_id": [5, 6], "timestamp": timestamps_us}),
        tmp_path / "interactions.parquet",
    )
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "items.parquet").write_text("not ours")
    side = tables("simulated", tmp_path)
    assert rows(side.interactions) == [
        ("1", 5, at("2024-05-01"), True, None),
        ("2", 6, at("2024-05-02"), True, None),
    ]
    assert (side.items, side.users, side.searches) == (None, None, None)
    assert [path.name for path in source_files("simulated", tmp_path)] == ["interactions.parquet"]


def test_ids_with_leading_zeros_stay_strings_in_every_table(tmp_path: Path) -> None:
    folder(
        tmp_path,
        interactions__csv="user_id,item_id,timestamp\n7,1,1714550400\n",
        users__csv="user_id,country\n007,FR\n7,DE\n",
    )
    side = tables("canonical", tmp_path)
    assert rows(side.interactions) == [("7", 1, at("2024-05-01T08:00"), True, None)]
    assert rows(side.users, "country") == [("7", "DE"), ("007", "FR")]


def test_an_unknown_source_is_refused_by_naming_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=f"'netflix' is unknown; choose one of {', '.join(SOURCES)}"
    ):
        read("netflix", tmp_path, engine())


@pytest.mark.parametrize(
    ("source", "place", "expected"),
    [
        ("kuairand", "kuairand", (35_716, 663, 7_942, 35_716)),
        ("canonical", "ml-1m", (999_611, 6_040, 3_416, 0)),
        ("recbole", "ml-100k", (100_000, 943, 1_682, 0)),
    ],
)
def test_the_real_logs_are_read_whole(source: str, place: str, expected: tuple[int, ...]) -> None:
    if not (DATA / place).is_dir():
        pytest.skip(f"the real log {place} is not on this machine")
    log = tables(source, DATA / place).interactions
    counts = log.agg(
        rows=log.count(),
        users=log["user_id"].nunique(),
        items=log["item_id"].nunique(),
        known=log["watch_seconds"].count(),
    )
    assert rows(counts) == [expected]
