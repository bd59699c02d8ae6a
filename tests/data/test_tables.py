"""Reading tables, recognising their columns, and what is refused."""

from __future__ import annotations

import datetime
import logging
import sys

import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason="needs the extra [tables]")

from jaxnet.data import as_frame, k_fold, load_titanic, read_table, split  # noqa: E402
from jaxnet.errors import InputError, UsageError  # noqa: E402

N = 24


def frame(**more) -> pd.DataFrame:
    """A column of each kind, and a target."""
    rng = np.random.default_rng(0)
    columns = {
        "row": np.arange(100, 100 + N),
        "size": rng.normal(size=N).round(2),
        "count": rng.integers(0, 5, N),
        "colour": rng.choice(["red", "green", "blue"], N),
        "ripe": rng.choice([True, False], N),
        "day": [f"2024-02-{i + 1:02}" for i in range(N)],
        "note": [f"the note of fruit {i}" for i in range(N)],
        "seal": [f"A{i}" if i % 2 else None for i in range(N)],
        "nothing": [None] * N,
        "kind": rng.choice(["apple", "pear"], N),
    }
    return pd.DataFrame({**columns, **more})


KINDS = {
    "size": "number",
    "count": "number",
    "colour": "category",
    "ripe": "number",
    "day": "date",
    "seal": "presence",
}


def test_columns_are_recognised_and_the_others_explained(caplog):
    table = read_table(frame(), "kind")
    assert table.kinds == KINDS
    assert list(table.frame.columns) == list(KINDS)
    assert caplog.messages == [
        "table: row: it numbers the rows; left out",
        "table: note: free text or an identifier, 24 different values in 24 rows; left out",
        "table: seal: free text or an identifier, 12 different values in 12 rows; only whether "
        "there is a value is used",
        "table: nothing: it has no value at all; left out",
    ]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("ending", ["csv", "tsv", "txt", "csv.gz", "parquet"])
def test_files_hold_what_the_frame_holds(ending, tmp_path):
    path = tmp_path / f"fruit.{ending}"
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra [tables]")
        frame().to_parquet(path)
    else:
        separator = {"tsv": "\t", "txt": ";"}.get(ending, ",")
        frame().to_csv(path, index=False, sep=separator)
    table = read_table(path, "kind")
    assert table.kinds == KINDS
    assert table.name == path.name
    assert table.class_names == ("apple", "pear")
    expected = read_table(frame(), "kind")
    np.testing.assert_array_equal(table.labels, expected.labels)
    np.testing.assert_array_equal(table.frame["size"], expected.frame["size"])


def test_what_is_said_comes_before_what_is_recognised(caplog):
    kinds = {"row": "number", "count": "category", "note": "presence", "size": "drop"}
    table = read_table(frame(), "kind", kinds=kinds)
    assert (table.kinds["row"], table.kinds["count"]) == ("number", "category")
    assert table.kinds["note"] == "presence"
    assert "size" not in table.kinds
    assert not any("row" in message.split() for message in caplog.messages)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 5, 2, 9] * 6, "number"),
        ([1.5, None] * 12, "number"),
        (["1.5", "2"] * 12, "number"),
        (["true", "False"] * 12, "number"),
        ([True, None] * 12, "number"),
        (list(range(0, 2 * N, 2)), "number"),  # all different, but not row numbers
        (["1", "x", "y"] * 8, "category"),
        (["2024-05-31T12:00", None] * 12, "date"),
        ([datetime.datetime(2024, 5, 31), None] * 12, "date"),
        ([f"k{i}" for i in range(10)] * 2 + [None] * 4, "category"),
        ([f"k{i}" for i in range(13)] + ["k1"] * 11, "drop"),
        (["word " * 20, "other " * 20] * 12, "drop"),
    ],
)
def test_the_kind_of_a_column(values, kind):
    table = read_table(frame(x=values), "kind")
    assert table.kinds.get("x", "drop") == kind


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        (["b", "c", "a"], ("a", "b", "c"), [1, 2, 0]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        ([2.0, 1.0, 2.0], ("1", "2"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        ([0.5, 1.5, 2.0], None, [0.5, 1.5, 2.0]),
        (["0.5", "1.5", "0.5"], ("0.5", "1.5"), [0, 1, 0]),
    ],
)
def test_the_target_is_classes_or_numbers(values, names, labels):
    table = read_table({"x": [1.0, 2.0, 3.5], "y": values}, "y")
    assert table.class_names == names
    assert table.labels.dtype == (np.float32 if names is None else np.int32)
    assert table.labels.tolist() == labels


def test_the_target_is_what_it_is_said_to_be():
    rows = {"x": [1.0, 2.0, 3.5], "y": [1, 2, 4]}
    assert read_table(rows, "y", target_kind="number").labels.tolist() == [1.0, 2.0, 4.0]
    assert read_table(rows, "y").class_names == ("1", "2", "4")
    many = {"x": np.linspace(0, 1, 250), "y": np.arange(250) % 50}
    assert read_table(many, "y").class_names is None
    assert len(read_table(many, "y", target_kind="class").class_names or ()) == 50
    quantity = {"x": np.linspace(0, 1, 50), "y": np.arange(50) / 4}
    with pytest.raises(InputError, match=r"'y' has 50 different numbers in 50 .* train\.regress"):
        read_table(quantity, "y", target_kind="class")


def test_rows_without_a_target_are_left_out_and_counted(caplog):
    rows = {"x": [1.0, 2.0, 3.5, 4.0], "y": ["a", None, "b", ""]}
    table = read_table(rows, "y", gaps=[""])
    assert table.labels.tolist() == [0, 1]
    assert table.frame["x"].tolist() == [1.0, 3.5]
    assert caplog.messages == ["table: 2 of 4 rows have no y and are left out"]


def test_words_for_gaps_make_a_column_of_numbers():
    table = read_table({"x": ["1", "?", "3"], "y": ["a", "b", "a"]}, "y", gaps=["?"])
    assert table.kinds == {"x": "number"}
    assert table.frame["x"].isna().tolist() == [False, True, False]


def test_a_table_is_split_and_folded_as_arrays_are():
    table = read_table(frame(), "kind")
    train, test = split(table, (0.75, 0.25))
    assert (len(train), len(test)) == (18, 6)
    assert sorted([*train.frame.index, *test.frame.index]) == list(range(N))
    for part in (train, test):
        np.testing.assert_array_equal(part.labels, table.labels[part.frame.index])
    assert sum(len(fold) for _, fold in k_fold(table, 4)) == N


def test_the_titanic_is_read_as_documented(data_dir, caplog):
    table = load_titanic(data_dir)
    assert len(table) == 891
    assert table.class_names == ("died", "survived")
    assert table.labels.sum() == 342
    assert caplog.messages == []
    automatic = read_table(data_dir / "titanic.csv", "Survived")
    assert {**automatic.kinds, "Pclass": "category"} == table.kinds


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (frame(), {"target": "fruit"}, r"table: expected a column 'fruit' to predict, got row, "),
        (frame(), {"kinds": {"colours": "drop"}}, "unknown column of table 'colours'; .* 'colour'"),
        (frame(), {"kinds": {"size": "numeric"}}, "size: expected 'number' or .* got 'numeric'"),
        (frame(), {"target_kind": "label"}, "expected 'auto' or 'class' or 'number', got 'label'"),
        (frame(kind="apple"), {}, "the target 'kind' is 'apple' in all rows"),
        (frame(kind=1.5), {}, "the target 'kind' is 1.5 in all rows"),
        (frame(kind=None), {}, "the target 'kind' is missing in all rows"),
        (
            frame(),
            {"target_kind": "number"},
            "'kind': expected numbers, got '(apple|pear)' in row 0",
        ),
        (frame()[:0], {}, "expected rows, got a table with none"),
        ({"x": [None, None], "y": ["a", "b"]}, {"target": "y"}, "expected a column to learn from"),
        (
            frame(size=["1.5"] * (N - 1) + ["big"]),
            {},
            r"size: expected numbers as in 96% of the rows, got 'big' in row 23. Say gaps=",
        ),
        ({"x": [1, 2], "y": [1]}, {}, "the columns make no table: .*same length"),
        (np.zeros((3, 2)), {}, "expected a file, a data frame, .* got ndarray"),
        ([[1.0, 2.0]], {}, "expected a file, a data frame, .* got list"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "of different names, got 'a' more than"),
    ],
)
def test_what_makes_no_table(source, options, message):
    with pytest.raises(InputError, match=message):
        read_table(source, **{"target": "kind", **options})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "empty.csv: this can't be read as CSV: No columns"),
        ("header.csv", b"x,kind\n", "header.csv: expected rows, got a table with none"),
        ("torn.csv", b'x,kind\n1,"a\n', "torn.csv: this can't be read as CSV"),
        (
            "rows.csv",
            b"x,kind\n1,a\n1,2,3\n",
            "rows.csv: this can't be read as CSV: .* line 3.* ','",
        ),
        ("a.parquet", b"no parquet", "a.parquet: this can't be read as Parquet"),
    ],
)
def test_files_that_cant_be_read(name, content, message, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="needs the extra [tables]")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / name, "kind")


def test_a_file_that_isnt_there(tmp_path):
    with pytest.raises(InputError, match=r"absent.csv: No such file"):
        read_table(tmp_path / "absent.csv", "kind")
    with pytest.raises(InputError, match=r"Is a directory"):
        read_table(tmp_path, "kind")


def test_without_pandas_the_message_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="tables need pandas: pip install pandas"):
        read_table("table.csv", "y")


def test_rows_of_a_service_and_frames_of_other_libraries():
    assert as_frame({"a": 1, "b": "x"}).shape == (1, 2)
    assert as_frame([{"a": 1}, {"b": 2}]).isna().to_numpy().tolist() == [
        [False, True],
        [True, False],
    ]

    class Polars:
        def to_pandas(self):
            return pd.DataFrame({"a": [1, 2]})

    assert as_frame(Polars())["a"].tolist() == [1, 2]
