"""Tables from files, as they are: no column is shifted, renamed or read in a wrong encoding."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxnet.data.tables.columns import needs_pandas, shown
from jaxnet.data.tables.reading import Reading
from jaxnet.errors import InputError
from jaxnet.files import marked_encoding

if TYPE_CHECKING:
    import pandas as pd

_SEPARATORS = ",;\t|"
_LOOKED_AT = 50
_EXTRA = "(extra)"
# A character that no text file has, so that a line is one field.
_NEVER = "\x1f"
# What pandas takes for a gap in a file.
_GAPS = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
        *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)


class _Layout(NamedTuple):
    """What the first lines of a CSV file tell of it.

    Attributes:
        separator: what stands between fields.
        names: of the columns, without blanks around them.
        fields: the fields of the first row.
    """

    separator: str
    names: list[str]
    fields: int


def read_file(path: Path, reading: Reading) -> pd.DataFrame:
    """The columns of a CSV or Parquet file, with rows numbered from 0.

    The separator of a CSV file, comma, semicolon, tab or bar, is that of its first lines. Rows may
    all end in one, and each may begin with a name that the header has no column for, as R writes
    them.

    Raises:
        InputError: the file can't be read, or its rows don't fit its header.
    """
    pandas = needs_pandas()
    parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        return pandas.read_parquet(path) if parquet else _read_csv(path, reading)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    except (ValueError, csv.Error) as error:  # pandas' and pyarrow's own are ValueErrors
        kind = "Parquet" if parquet else "CSV"
        raise InputError(f"{path}: this can't be read as {kind}: {error}") from error


def _read_csv(path: Path, reading: Reading) -> pd.DataFrame:
    encodings = _encodings(path, reading)
    for encoding in encodings:
        try:
            return _parsed(path, reading, encoding)
        except UnicodeDecodeError as error:
            bad = error
    raise InputError(
        f"{path}: expected text in {' or '.join(encodings)}, got the byte "
        f"{bad.object[bad.start]:#x}, which is none there. Say in which encoding the file is: "
        "encoding='cp1252' (--table.encoding cp1252) for Western European languages on Windows"
    )


def _encodings(path: Path, reading: Reading) -> list[str]:
    """In which encodings to try to read, in turn."""
    (first, *_) = _lines(path, "latin-1", 1) or [""]
    marked = marked_encoding(first.encode("latin-1"))
    if marked is not None:
        return [marked]
    if reading.encoding is None:
        return ["utf-8"]
    # Text in another encoding is hardly ever valid UTF-8 by chance, and later files may be in it;
    # but an encoding in which letters aren't those of ASCII has to be obeyed.
    first_of_both = ["utf-8"] if "a".encode(reading.encoding) == b"a" else []
    return [*first_of_both, reading.encoding]


def _lines(path: Path, encoding: str, count: int) -> list[str]:
    """The first lines that aren't empty. pandas unpacks what is compressed."""
    frame: Any = needs_pandas().read_csv(
        path,
        header=None,
        sep=_NEVER,
        quoting=csv.QUOTE_NONE,
        nrows=count,
        encoding=encoding,
        dtype=str,
        na_filter=False,
    )
    return frame[0].tolist()


def _parsed(path: Path, reading: Reading, encoding: str) -> pd.DataFrame:
    layout = _layout(path, _lines(path, encoding, _LOOKED_AT))
    more = layout.fields - len(layout.names)
    if more > 1:
        raise InputError(
            f"{path}: the header names {len(layout.names)} columns, but the first row has "
            f"{layout.fields} fields: {', '.join(layout.names[:20])}"
        )
    options: dict[str, Any] = {
        "sep": layout.separator,
        "encoding": encoding,
        "header": 0,
        "names": [*layout.names, _EXTRA] if more == 1 else layout.names,
        # With fewer names than fields pandas takes the first column for names of the rows.
        "index_col": False if more == 1 else None,
        "skipinitialspace": True,
        "low_memory": False,
    }
    # pandas takes the sign between thousands out wherever it stands: `Reading.number` looks.
    kinds = {"decimal": reading.decimal} if reading.thousands is None else {"dtype": str}
    try:
        frame = needs_pandas().read_csv(path, **options, **kinds)
    except needs_pandas().errors.ParserError as error:
        raise InputError(
            f"{path}: this can't be read as CSV: {str(error).strip()}. Its header is separated by "
            f"{layout.separator!r}: a value that holds this character has to be in quotes"
        ) from error
    frame = _stripped(frame)
    return _without_extra(path, frame, options) if more == 1 else _without_empty(frame)


def _layout(path: Path, lines: list[str]) -> _Layout:
    rows_by = {separator: _rows(lines, separator) for separator in _SEPARATORS}

    def fit(separator: str) -> tuple[float, int]:
        header, *rows = rows_by[separator]
        like = sum(len(row) - len(header) in (0, 1) for row in rows)
        return (like / len(rows) if rows else 1.0) * (len(header) > 1), len(header)

    if not any(rows_by.values()):
        raise InputError(f"{path}: expected a header and rows, got an empty file")
    separator = max(_SEPARATORS, key=fit)
    header, *rows = rows_by[separator]
    names = [name.strip() for name in header]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise InputError(
            f"{path}: expected columns of different names, got {twice[0]!r} more than once: rename "
            "one, or take it out. (The first line of the file has to be the header.)"
        )
    names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    return _Layout(separator, names, len(rows[0]) if rows else len(names))


def _rows(lines: list[str], separator: str) -> list[list[str]]:
    text = io.StringIO("\n".join(lines))
    return [row for row in csv.reader(text, delimiter=separator, skipinitialspace=True) if row]


def _stripped(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the blanks around words, of which some are gaps then."""
    for name in frame.columns:
        column: Any = frame[name]
        if isinstance(column.dtype, needs_pandas().StringDtype):
            column = column.str.strip()
        elif column.dtype == object:  # truth values with gaps, and texts in older releases
            column = column.map(lambda value: value.strip() if isinstance(value, str) else value)
        else:
            continue
        frame[name] = column.mask(column.isin(_GAPS))
    return frame


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Without columns that have neither a name nor a value: the header ends in a separator too."""
    unnamed = [name for name in frame.columns if name.startswith("Unnamed: ")]
    empty = [name for name in unnamed if frame[name].isna().to_numpy().all()]
    return frame.drop(columns=empty)


def _without_extra(path: Path, frame: pd.DataFrame, options: dict[str, Any]) -> pd.DataFrame:
    """The columns of rows that have one field more than the header has names."""
    *names, extra = frame.columns
    if frame[extra].isna().to_numpy().all():
        raw: Any = needs_pandas().read_csv(
            path, **options, usecols=[extra], dtype=str, keep_default_na=False
        )
        if raw[extra].fillna("").eq("").all():  # all rows end in a separator
            return frame.drop(columns=extra)
    first: Any = frame[frame.columns[0]]
    if not first.is_unique:
        raise InputError(
            f"{path}: the header names {len(names)} columns, the rows have {len(names) + 1} fields "
            "and don't begin with a name of their own each "
            f"({shown(first[first.duplicated()].iloc[0])} stands there twice): name all columns"
        )
    return frame.drop(columns=first.name).set_axis(names, axis=1)
