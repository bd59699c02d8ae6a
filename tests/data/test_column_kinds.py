"""Columns that look like numbers or dates are never categories or left out without a word."""

from __future__ import annotations

import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason="needs the extra [tables]")

from sklearn.datasets import load_breast_cancer  # noqa: E402

from jaxnet.data import TableEncoder, fit_table, read_table  # noqa: E402
from jaxnet.errors import InputError  # noqa: E402

CANCER = load_breast_cancer(as_frame=True).frame.iloc[:120, [0, 1, 2, -1]]
RADIUS = CANCER["mean radius"]


def cancer(values, **options):
    """The table in which the first column is written as these values."""
    written = {"radius": list(values), **CANCER.iloc[:, 1:].to_dict("list")}
    return read_table(written, "target", **options)


def question_marks(share: float):
    holes = np.random.default_rng(0).random(len(RADIUS)) < share
    return ["?" if hole else f"{value}" for hole, value in zip(holes, RADIUS, strict=True)]


def days(form: str):
    return pd.date_range("2020-01-25", periods=len(RADIUS)).strftime(form)


@pytest.mark.parametrize(
    ("values", "message", "options"),
    [
        (
            [f"{value}".replace(".", ",") for value in RADIUS],
            r"table: radius: '17,99' in row 0 looks like a number, as 100% of the rows do. Say how "
            r"it is written: decimal=',' \(--table.decimal ,\) reads 17.99",
            {"decimal": ","},
        ),
        (
            [f"${value}" for value in RADIUS],
            r"'\$17.99' in row 0 .* units=\['\$'\] \(--table.units '\$'\) reads 17.99",
            {"units": ["$"]},
        ),
        (
            [f"-$ {1000 * value:,.2f}" for value in RADIUS],
            r"'-\$ 17,990.00' in row 0 .* thousands=',', units=\['\$'\] "
            r"\(--table.thousands , --table.units '\$'\) reads -17990",
            {"units": ["$"], "thousands": ","},
        ),
        (
            [f"{value} %" for value in RADIUS],
            r"'17.99 %' in row 0 .* units=\['%'\] \(--table.units %\) reads 17.99",
            {"units": ["%"]},
        ),
        (
            [f"{value}".replace(".", ",") + "\u00a0km/h" for value in RADIUS],
            r"decimal=',', units=\['km/h'\] \(--table.decimal , --table.units km/h\) reads 17.99",
            {"units": ["km/h"], "decimal": ","},
        ),
        (
            [f"{100 * value:,.0f}" for value in 10 * RADIUS],
            r"'17,990' in row 0 .* decimal=',' \(--table.decimal ,\) reads 17.99, or "
            r"thousands=',' \(--table.thousands ,\) reads 17990",
            {"thousands": ","},
        ),
        (
            [f"{1e6 * value:,.0f}".replace(",", "\u202f") for value in RADIUS],
            r"thousands=' ' \(--table.thousands ' '\) reads 17990000",
            {"thousands": " "},
        ),
        (
            question_marks(0.2),
            r"expected numbers as in 8\d% of the rows, got '\?' in row \d+. Say gaps=\['\?'\] "
            r"\(--table.gaps '\?'\) if it stands for a missing value. Or .* \(--table.categories "
            r"radius, --table.drop radius\)",
            {"gaps": ["?"]},
        ),
        (question_marks(0.3), r"as in 7\d% of the rows, got '\?'", {"gaps": ["?"]}),
        (
            [value.replace(".", ",") for value in question_marks(0.3)],
            r"as 7\d% of the rows do, and '\?' doesn't: gaps=\['\?'\] .*decimal=','",
            {"gaps": ["?"], "decimal": ","},
        ),
        (
            days("%d.%m.%Y"),
            r"'25.01.2020' in row 0 looks like a date, .* date_format='%d.%m.%Y' "
            r"\(--table.date-format %d.%m.%Y\) reads 25 January 2020",
            {"date_format": "%d.%m.%Y"},
        ),
        (days("%m/%d/%Y"), r"date_format='%m/%d/%Y'", {"date_format": "%m/%d/%Y"}),
        (days("%d/%m/%Y %H:%M"), "'%d/%m/%Y %H:%M'", {"date_format": "%d/%m/%Y %H:%M"}),
        (
            [*days("%Y-%m-%d")[:100], *["soon"] * 20],
            r"expected dates as in 83% of the rows, got 'soon' in row 100",
            {"gaps": ["soon"]},
        ),
    ],
)
def test_numbers_and_dates_in_disguise_are_asked_about(values, message, options):
    with pytest.raises(InputError, match=message):
        cancer(values)
    table = cancer(values, **options)
    kind = "date" if "date" in f"{message} {list(options)}" else "number"
    assert table.kinds["radius"] == kind
    assert cancer(values, kinds={"radius": "drop"}).left_out == ("radius",)
    encoder = fit_table(table)
    again = TableEncoder.from_dict(encoder.to_dict())
    assert again == encoder
    rows = [{"radius": value, "mean texture": 1, "mean perimeter": 1} for value in values]
    np.testing.assert_array_equal(again(rows), again(table.frame.assign(**rows_of_one())))
    if kind == "number":
        known = table.frame["radius"].notna().to_numpy()
        scaled = encoder(rows)[known, 0]
        assert abs(np.corrcoef(scaled, RADIUS[known])[0, 1]) == pytest.approx(1, abs=1e-6)


def rows_of_one():
    return {"mean texture": 1, "mean perimeter": 1}


def test_days_that_may_be_months_are_asked_about():
    with pytest.raises(InputError, match=r"'%d/%m/%Y' .* reads 2 January .*, or .* 1 February"):
        cancer(["02/01/2020", "03/05/2021"] * 60)


def test_the_minus_of_typography_is_a_minus():
    table = cancer([f"\u2212{value}" for value in RADIUS])
    assert table.kinds["radius"] == "number"
    encoder = fit_table(table)
    row = {"mean texture": 1.0, "mean perimeter": 1.0}
    np.testing.assert_array_equal(
        encoder([{"radius": "\u221217.99", **row}]), encoder([{"radius": -17.99, **row}])
    )


@pytest.mark.parametrize(
    "values",
    [
        [f"A{i}" for i in range(120)],
        [f"user {i}" for i in range(120)],
        [f"C{i % 7}" for i in range(120)],
        [f"{i}.{i}.{i}.1" for i in range(120)],
        [f"555-{1000 + i}" for i in range(120)],
        [f"{1000 + i} {'xyz'[i % 3]}{i}" for i in range(120)],
        ["2 for 1", "3 for 2", "none"] * 40,
        # Most are whole numbers, and the others are names as well.
        [f"{17599 + 7 * i}" if i % 3 else f"PC {17599 + 7 * i}" for i in range(120)],
    ],
)
def test_names_with_digits_in_them_are_no_numbers(values):
    assert cancer(values).kinds.get("radius") in (None, "category")


@pytest.mark.parametrize("gap", ["-999", "-999.0", "-9.99e2"])
@pytest.mark.parametrize(
    "values", [[1, 5, -999, 7], [1.5, 5.0, -999.0, 7.0], ["1", "5", "-999", "7 "]]
)
def test_a_number_that_stands_for_a_gap(values, gap):
    table = read_table({"x": values * 6, "y": ["a", "b", "a", "b"] * 6}, "y", gaps=[gap])
    assert table.kinds == {"x": "number"}
    encoder = fit_table(table)
    assert encoder.features == ("x", "x (missing)")
    assert encoder({"x": [-999, -999.0, "-999", " -999.0", 5]})[:, 1].tolist() == [1, 1, 1, 1, 0]


def test_what_is_said_to_be_a_number_or_a_date_has_to_be_one():
    kinds = {"radius": "number"}
    with pytest.raises(InputError, match=r"'\$17.99' in row 0 .*--table.units '\$'"):
        cancer([f"${value}" for value in RADIUS], kinds=kinds)
    with pytest.raises(InputError, match=r"radius: expected numbers, got 'big' in row 0, and 120"):
        cancer(["big"] * 120, kinds=kinds)
    with pytest.raises(InputError, match=r"radius: expected dates .* got 1700000000 in row 0"):
        cancer(range(1700000000, 1700000120), kinds={"radius": "date"})
    years = cancer(range(1900, 2020), kinds={"radius": "date"})
    assert fit_table(years).features[0] == "radius days"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2.0]] * 120, r"expected one value in a row, got \[1.0, 2.0\]"),
        ([{"a": 1}] * 120, "expected one value in a row, got {'a': 1}"),
        (np.full(120, 1 + 2j), "got complex numbers"),
        ([2**60 + i for i in range(120)], "of 120 different numbers .* can tell 1 apart"),
    ],
)
def test_values_that_no_feature_can_be_made_of(values, message):
    with pytest.raises(InputError, match=f"radius: .*{message}"):
        fit_table(cancer(values, kinds={"radius": "number"} if "tell" in message else None))


def test_lengths_of_time_are_numbers():
    table = cancer(pd.to_timedelta(RADIUS, unit="s"))
    np.testing.assert_allclose(fit_table(table)(table.frame)[:, 0].std(), 1, rtol=1e-5)


def test_words_of_digits_are_known_in_files_of_digits_alone(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("code,y\n01,a\n02,b\nx,a\nx,b\n")
    encoder = fit_table(read_table(path, "y", kinds={"code": "category"}))
    assert encoder.features == ("code=01", "code=02", "code=x")
    path.write_text("code\n02\n01\n")
    assert encoder(path).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_a_line_tells_what_became_of_the_columns():
    table = cancer(days("%Y-%m-%d"), kinds={"mean texture": "drop"})
    assert table.describe() == "table: 2 columns: 1 number, 1 date; left out: mean texture"
