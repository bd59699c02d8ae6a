"""What a table becomes, against scikit-learn's transformers; and that only training data counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

pd = pytest.importorskip("pandas", reason="needs the extra [tables]")

from jaxnet.data import TableEncoder, fit_table, read_table, split  # noqa: E402
from jaxnet.errors import InputError, UsageError  # noqa: E402

N = 400


def mixed(seed: int = 0) -> pd.DataFrame:
    """Numbers of very different sizes and categories, a tenth of them missing."""
    rng = np.random.default_rng(seed)

    def gaps(values):
        return pd.Series(values).mask(rng.random(N) < 0.1)

    return pd.DataFrame(
        {
            "small": gaps(rng.normal(1e-3, 1e-5, N)),
            "large": gaps(rng.lognormal(10, 2, N)),
            "whole": rng.integers(0, 9, N),
            "colour": gaps(rng.choice(["red", "green", "blue"], N, p=[0.6, 0.3, 0.1])),
            "level": gaps(rng.choice([1, 2, 10], N)),
            "y": rng.choice(["no", "yes"], N),
        }
    )


def table(**columns):
    length = max(map(len, columns.values()))
    columns["y"] = ["a", "b"] * (length // 2) + ["a"] * (length % 2)
    return read_table(columns, "y")


@pytest.mark.parametrize("number_gaps", ["median", "mean"])
@pytest.mark.parametrize("category_gaps", ["own", "most_frequent"])
@pytest.mark.parametrize("indicate_gaps", [True, False])
def test_encodes_as_scikit_learn_does(number_gaps, category_gaps, indicate_gaps):
    whole = read_table(mixed(), "y", kinds={"level": "category"})
    train, test = split(whole, (0.7, 0.3))
    encoder = fit_table(
        train,
        number_gaps=number_gaps,
        category_gaps=category_gaps,
        indicate_gaps=indicate_gaps,
    )
    numbers, categories = ["small", "large", "whole"], ["colour", "level"]
    own = category_gaps == "own"
    filler = (
        SimpleImputer(strategy="constant", fill_value="~")
        if own
        else SimpleImputer(strategy="most_frequent")
    )
    reference = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(SimpleImputer(strategy=number_gaps), StandardScaler()),
                numbers,
            ),
            ("categories", make_pipeline(filler, OneHotEncoder(sparse_output=False)), categories),
        ]
    )

    def plain(part):
        frame = part.frame.copy()
        frame["level"] = frame["level"].map({1.0: "01", 2.0: "02", 10.0: "10"})
        return frame.astype(dict.fromkeys(categories, object)).where(frame.notna(), np.nan)

    reference.fit(plain(train))
    kept = [i for i, name in enumerate(encoder.features) if name not in INDICATORS]
    for part in (train, test):
        ours = encoder(part.frame)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(
            ours[:, kept], reference.transform(plain(part)), rtol=2e-6, atol=2e-6
        )
        for name in INDICATORS:
            assert (name in encoder.features) == indicate_gaps
            if indicate_gaps:
                column = name.removesuffix(" (missing)")
                np.testing.assert_array_equal(
                    ours[:, encoder.features.index(name)], part.frame[column].isna()
                )


INDICATORS = ("small (missing)", "large (missing)")


def test_only_the_training_part_counts():
    whole = read_table(mixed(), "y")
    train, test = split(whole, (0.7, 0.3))
    encoder = fit_table(train)
    inputs = encoder.arrays(train).inputs
    assert inputs[:, encoder.features.index("large")].mean() == pytest.approx(0, abs=1e-6)
    assert inputs[:, encoder.features.index("large")].std() == pytest.approx(1, abs=1e-5)
    changed = mixed()
    changed.loc[test.frame.index, ["large", "colour"]] = [1e9, "purple"]
    again, _ = split(read_table(changed, "y"), (0.7, 0.3))
    assert fit_table(again) == encoder


def test_the_order_of_rows_and_columns_and_further_columns_dont_matter():
    encoder = fit_table(read_table(mixed(), "y"))
    expected = encoder(mixed())
    shuffled = mixed()[["y", "level", "colour", "large", "whole", "small"]].iloc[::-1]
    np.testing.assert_array_equal(encoder(shuffled), expected[::-1])


def test_an_encoder_is_plain_data():
    encoder = fit_table(
        table(x=[1.0, None, 3.0], c=["a", "b", None], d=["2024-01-01"] * 2 + [None])
    )
    values = json.loads(json.dumps(encoder.to_dict()))
    assert TableEncoder.from_dict(values) == encoder
    assert hash(TableEncoder.from_dict(values)) == hash(encoder)


@pytest.mark.parametrize("sources", [["rows"], ["columns"], ["frame"], ["csv"], ["parquet"]])
def test_all_forms_of_the_same_rows_give_the_same_inputs(sources, tmp_path):
    train = {"x": [1, 2, 4], "c": [1, 2, 2], "t": [True, False, True], "y": ["a", "b", "a"]}
    kinds = {"c": "category"}
    encoder = fit_table(read_table(train, "y", kinds=kinds))
    assert encoder.features == ("x", "c=1", "c=2", "t")
    expected = encoder([{"x": 2, "c": 2, "t": False}, {"x": None, "c": None, "t": None}])
    frame = pd.DataFrame({"x": [2, None], "c": [2.0, None], "t": ["false", None]})
    if sources == ["parquet"]:
        pytest.importorskip("pyarrow", reason="needs the extra [tables]")
        frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    forms = {
        "rows": frame.to_dict("records"),
        "columns": {name: list(column) for name, column in frame.items()},
        "frame": frame.astype({"x": "Int64", "c": "Int64", "t": "category"}),
        "csv": tmp_path / "t.csv",
        "parquet": str(tmp_path / "t.parquet"),
    }
    for source in sources:
        np.testing.assert_array_equal(encoder(forms[source]), expected)


def test_a_category_never_seen_is_none_or_the_rest():
    values = ["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["d"]
    few = fit_table(table(c=values), max_categories=2)
    assert few.features == ("c=a", "c=b", "c=(other)")
    assert few({"c": ["b", "d", "new", None]}).tolist() == [
        [0, 1, 0],
        [0, 0, 1],
        [0, 0, 1],
        [0, 0, 0],
    ]
    every = fit_table(table(c=values))
    assert every({"c": ["new", None]}).sum() == 0


def test_a_gap_is_a_category_of_its_own_or_the_most_frequent_one():
    rows = table(c=["a", "b", "b", None])
    assert fit_table(rows).features == ("c=a", "c=b", "c=(missing)")
    assert fit_table(rows)({"c": [None, "a"]}).tolist() == [[0, 0, 1], [1, 0, 0]]
    filled = fit_table(rows, category_gaps="most_frequent")
    assert filled.features == ("c=a", "c=b")
    assert filled({"c": [None, "a"]}).tolist() == [[0, 1], [1, 0]]


def test_gaps_that_the_training_part_didnt_have_are_filled():
    encoder = fit_table(table(x=[1.0, 2.0, 6.0]))
    assert encoder.features == ("x",)
    np.testing.assert_array_equal(encoder({"x": [None]}), encoder({"x": [2.0]}))


def test_dates_are_days_and_the_places_in_year_and_week():
    days = pd.date_range("2023-01-01", "2024-12-30", freq="h")[::7]
    encoder = fit_table(table(d=days))
    assert encoder.features == (
        "d days",
        "d year sine",
        "d year cosine",
        "d week sine",
        "d week cosine",
    )
    day = encoder({"d": ["2024-03-01", "2024-03-08", "2025-03-01", "2024-03-01T00:00+00:00"]})
    np.testing.assert_allclose(day[0, 3:], day[1, 3:], atol=1e-5)  # a week later
    np.testing.assert_allclose(day[0, 1:3], day[2, 1:3], atol=0.01)  # a year later
    np.testing.assert_array_equal(day[0], day[3])
    assert day[1, 0] - day[0, 0] == pytest.approx(7 / days.to_series().std(ddof=0).days, rel=0.01)


def test_a_constant_column_is_left_out_with_a_message(caplog):
    encoder = fit_table(table(x=[1.0, 2.0, 2.0], c=["a"] * 3, k=[0.1] * 3, day=["2024-01-01"] * 3))
    assert encoder.features == ("x",)
    for name in ("c", "k", "day"):
        assert f"table: {name}: the same in all rows of the training part; left out" in caplog.text


def test_one_value_or_none_counts_as_presence():
    encoder = fit_table(table(x=[5.0, None, 5.0], y2=[None, None, 1.0]))
    assert encoder.features == ("x (present)", "y2 (present)")
    assert encoder({"x": [5.0, None], "y2": [None, 3.0]}).tolist() == [[1, 0], [0, 1]]


def test_a_column_all_missing_in_the_training_part_is_left_out(caplog):
    whole = table(x=[1.0, 2.0, 3.0, 5.0], gone=[None, None, 1.0, 2.0], never=[None, None, "a", "b"])
    encoder = fit_table(whole.take(np.array([0, 1])))
    assert encoder.features == ("x",)
    assert "gone: the same in all rows" in caplog.text
    assert "never: the same in all rows" in caplog.text


def test_nothing_but_constants_is_refused():
    with pytest.raises(InputError, match="every column is the same in all rows"):
        fit_table(table(x=[1.0, 2.0], c=["a", "b"]).take(np.array([0, 0])))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": 1.0}], r"the table lacks c, d; expected the columns x, c, d"),
        ([{"x": "tall", "c": "a", "d": None}], r"x: expected numbers, got 'tall' in row 0"),
        ({"x": [1.0, np.inf], "c": "a", "d": None}, r"x: 1 values are infinite, .* row 1"),
        ([{"x": 1.0, "c": "a", "d": "soon"}], r"d: expected dates such as .* 'soon' in row 0"),
        ({"x": [], "c": [], "d": []}, "expected rows, got a table with none"),
        (np.zeros((2, 3)), "expected a file, a data frame"),
    ],
)
def test_rows_that_are_refused_at_prediction(rows, message):
    encoder = fit_table(table(x=[1.0, 2.0], c=["a", "b"], d=["2024-01-01", "2024-01-02"]))
    with pytest.raises(InputError, match=message):
        encoder(rows)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"columns": [], "gaps": None},
        {"columns": [{"encoding": "pickle"}], "gaps": []},
        {"columns": [{"encoding": "presence", "name": "x", "more": 1}], "gaps": []},
    ],
)
def test_values_of_something_else_make_no_encoder(values):
    with pytest.raises(InputError, match="describe no TableEncoder"):
        TableEncoder.from_dict(values)


@pytest.mark.parametrize(
    "options", [{"number_gaps": "mode"}, {"category_gaps": "drop"}, {"max_categories": 0}]
)
def test_options_that_are_none(options):
    with pytest.raises(UsageError, match=f"expected {next(iter(options))}"):
        fit_table(table(x=[1.0, 2.0]), **options)


def test_groups_are_the_ranges_of_the_categories():
    encoder = fit_table(
        table(x=[1.0, None, 2.0], c=["a", "b", "a"], z=[1.0, 2.0, 3.5], d=["u", "v", "w"])
    )
    assert encoder.groups == ((2, 4), (5, 8))
    assert [encoder.features[a:b] for a, b in encoder.groups] == [
        ("c=a", "c=b"),
        ("d=u", "d=v", "d=w"),
    ]


def test_a_large_offset_costs_an_input_nothing_and_is_refused_in_a_target():
    rows = {"time": 1_700_000_000 + np.arange(100), "y": np.arange(100) % 7 / 2}
    encoder = fit_table(read_table(rows, "y", kinds={"time": "number"}))
    expected = StandardScaler().fit_transform(np.arange(100.0)[:, None])
    np.testing.assert_allclose(encoder(rows), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"target 'time': of 100 .* 2 apart: subtract a fixed"):
        read_table(rows, "time")
