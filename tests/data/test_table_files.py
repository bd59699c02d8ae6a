"""Files as people have them: separators, headers, encodings; no column is shifted or renamed."""

from __future__ import annotations

import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason="needs the extra [tables]")

from sklearn.datasets import load_diabetes, load_wine  # noqa: E402

from jaxnet.data import fit_table, read_table  # noqa: E402
from jaxnet.errors import InputError, UsageError  # noqa: E402

WINE = load_wine(as_frame=True).frame.rename(columns={"od280/od315_of_diluted_wines": "od280"})
INPUTS = WINE.drop(columns="target")


def wine(path, **reading):
    """The wine of a file, which has to be that of scikit-learn."""
    table = read_table(path, "target", target_kind="class", **reading)
    assert dict.fromkeys(table.kinds) == dict.fromkeys(INPUTS.columns)
    assert set(table.kinds.values()) == {"number"}
    np.testing.assert_array_equal(table.labels, WINE["target"])
    encoder = fit_table(table)
    np.testing.assert_allclose(encoder(path), encoder(INPUTS), rtol=1e-6)
    np.testing.assert_allclose(
        encoder(INPUTS), (INPUTS - INPUTS.mean()) / INPUTS.std(ddof=0), rtol=1e-5, atol=1e-6
    )
    return table


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_rows_that_end_in_a_separator_shift_nothing(separator, tmp_path):
    lines = WINE.to_csv(index=False, sep=separator).splitlines()
    path = tmp_path / "wine.csv"
    path.write_text("\n".join([lines[0], *(line + separator for line in lines[1:])]))
    wine(path)
    path.write_text("\n".join(line + separator for line in lines))  # the header too
    wine(path)


def test_names_of_rows_as_r_writes_them_are_no_column(tmp_path):
    path = tmp_path / "wine.csv"
    lines = WINE.to_csv(index=False).splitlines()
    path.write_text("\n".join([lines[0], *(f'"{i}",{line}' for i, line in enumerate(lines[1:]))]))
    wine(path)
    path.write_text("a,y\nr1,NA,NA\nr2,NA,NA\n")  # gaps at the end aren't an end of rows
    with pytest.raises(InputError, match="the target 'y' is missing in all rows"):
        read_table(path, "y")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,y\n1,2,3\n1,5,6\n", r"names 2 columns, the rows have 3 fields .* \(1 stands there"),
        ("a,y\n1,2,3,4\n5,6,7,8\n", "names 2 columns, but the first row has 4 fields"),
        ("x,y,y\n1,2,3\n", "expected columns of different names, got 'y' more than once"),
        ("x, y ,y\n1,2,3\n", "expected columns of different names, got 'y' more than once"),
        ("\n\n", "No columns"),
    ],
)
def test_headers_that_dont_fit_are_refused(content, message, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.csv", "y")


def test_a_column_name_twice_is_refused_in_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="needs the extra [tables]")
    from pyarrow import parquet

    twice = pa.table([pa.array([1, 2]), pa.array([3, 4])], names=["y", "y"])
    parquet.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet: .*\by\b"):
        read_table(tmp_path / "t.parquet", "y")
    with pytest.raises(InputError, match="got 'y' more than once"):
        read_table(twice, "y")


def test_blanks_around_names_and_words_dont_count(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("size , colour, y\n1.5 ,red , a\n ? ,red, b \nNA ,blue,b\n2, blue ,a\n" * 6)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(line for line in lines if "size" not in line)]))
    table = read_table(path, "y", gaps=["?"])
    assert table.kinds == {"size": "number", "colour": "category"}
    assert table.class_names == ("a", "b")
    encoder = fit_table(table)
    assert encoder.features == ("size", "size (missing)", "colour=blue", "colour=red")
    assert encoder(path)[:4, 1].tolist() == [0, 1, 1, 0]


def test_decimal_commas_and_thousands_are_read_as_numbers(tmp_path):
    path = tmp_path / "wine.csv"
    WINE.to_csv(path, index=False, sep=";", decimal=",")
    wine(path, decimal=",")
    written = WINE.assign(proline=[f"{value:,.2f}" for value in WINE["proline"]])
    written.to_csv(path, index=False)
    wine(path, thousands=",")


def test_whole_numbers_first_and_decimal_commas_later(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x;y\n" + "1;2\n" * 60 + "1,5;2\n3;7\n")
    table = read_table(path, "y", decimal=",")
    assert table.frame["x"].tolist()[-3:] == [1.0, 1.5, 3.0]


def test_a_sign_of_thousands_is_one_only_where_it_stands_between_thousands(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x;y\n1.234,5;a\n1.234.567;b\n7;a\n")
    table = read_table(path, "y", decimal=",", thousands=".")
    encoder = fit_table(table)
    expected = encoder([{"x": 1234.5}, {"x": 1234567}, {"x": 7}])
    np.testing.assert_array_equal(encoder(path), expected)
    for value in ("1.5", "31.01.2020", "1,5,6", "1.2345"):
        with pytest.raises(InputError, match=f"x: expected numbers, got '{value}'"):
            encoder([{"x": value}])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be-bom", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(encoding, tmp_path):
    text = "größe,y\n1,ä\n2,ö\n"
    if encoding == "utf-16-be-bom":
        content = "\ufeff".encode("utf-16-be") + text.encode("utf-16-be")
    else:
        content = text.encode(encoding)
    (tmp_path / "t.csv").write_bytes(content)
    for said in (None, "latin-1"):
        table = read_table(tmp_path / "t.csv", "y", encoding=said)
        assert (list(table.kinds), table.class_names) == (["größe"], ("ä", "ö"))


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le"])
def test_another_encoding_is_asked_for_and_kept_by_the_encoder(encoding, tmp_path):
    rows = "größe,stadt,y\n1,Köln,a\n2,Ulm,b\n3,Köln,b\n"
    path, later = tmp_path / "t.csv", tmp_path / "later.csv"
    path.write_bytes(rows.encode(encoding))
    if encoding != "utf-16-le":
        with pytest.raises(InputError, match=r"got the byte 0xf6, .* \(--table.encoding cp1252\)"):
            read_table(path, "y")
    encoder = fit_table(read_table(path, "y", encoding=encoding))
    assert encoder.features == ("größe", "stadt=Köln", "stadt=Ulm")
    later.write_bytes(rows.encode("utf-8" if encoding != "utf-16-le" else encoding))
    np.testing.assert_array_equal(encoder(later), encoder(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "latin-99"}, "unknown encoding 'latin-99'"),
        ({"decimal": ":"}, "expected decimal '.' or ','"),
        ({"thousands": "k"}, "expected thousands such as ','"),
        ({"thousands": "."}, "decimal and thousands are both '.'"),
        ({"date_format": "dd.mm.yyyy"}, "expected date_format such as '%d.%m.%Y'"),
        ({"gaps": "?"}, r"expected gaps such as \['\?'\]"),
        ({"units": [" "]}, r"expected units such as '\$'"),
    ],
)
def test_ways_of_writing_that_are_none(options, message):
    with pytest.raises(UsageError, match=message):
        read_table([{"x": 1, "y": "a"}, {"x": 2, "y": "b"}], "y", **options)


def test_a_target_with_decimal_commas(tmp_path):
    frame = load_diabetes(as_frame=True, scaled=False).frame
    path = tmp_path / "diabetes.csv"
    (frame / 1000).to_csv(path, sep=";", decimal=",", index=False)
    with pytest.raises(InputError, match=r"the target 'target': '0,151' in row 0 .* decimal=','"):
        read_table(path, "target", target_kind="number")
    table = read_table(path, "target", target_kind="number", decimal=",")
    np.testing.assert_allclose(table.labels, frame["target"] / 1000, rtol=1e-6)
