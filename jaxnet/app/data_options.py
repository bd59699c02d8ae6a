"""Data by the name that an option has, and the options that say how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from jaxnet.errors import UsageError
from jaxnet.names import lookup
from jaxnet.options import Count, OnlyWith

if TYPE_CHECKING:
    from jaxnet.data import Arrays, Table, TableEncoder
    from jaxnet.data.images.by_name import ImageParts
    from jaxnet.data.tables.column_kinds import Kind
    from jaxnet.data.tables.read import TargetKind

T = TypeVar("T")

# Of training, validation and test data, where nothing else says so.
SHARES = (0.7, 0.1, 0.2)
_PARTS = ("training", "validation", "test")

# The image data that lies in files.
IMAGE_FILES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "folder")
IMAGES = ("digits", *IMAGE_FILES)
ImageSize = Annotated[Count | None, OnlyWith(data="folder")]
# What data of one's own is called, by the endings of its files.
OWN = {
    ".csv": ("csv",),
    ".parquet": ("csv",),
    ".pq": ("csv",),
    ".txt": ("text",),
    ".tsv": ("lines", "csv"),
}


def lookup_data(name: str, known: Mapping[str, T]) -> T:
    """The entry of `known` for the data called `name`.

    Raises:
        UsageError: nothing is called so. A file in the place of the name is told where it goes.

    Example:
        >>> lookup_data("csv", {"csv": 1, "digits": 2})
        1
    """
    path = Path(name)
    if name in known or not (path.suffix or path.name != name or path.exists()):
        return lookup(name, known, "data")
    every = [kind for kinds in OWN.values() for kind in kinds] + ["folder"]
    kinds = [kind for kind in OWN.get(path.suffix, ("folder",)) if kind in known]
    kinds = kinds or [kind for kind in every if kind in known]
    shown = " or ".join(f"--data {kind} --data-dir {name}" for kind in dict.fromkeys(kinds))
    raise UsageError(
        f"--data says what kind of data it is, and --data-dir where: {shown or ', '.join(known)}"
    )


def read_images(config: Any) -> ImageParts:
    """The images that a configuration names.

    Args:
        config: with the options `data`, `data_dir`, `image_size` and `seed`.

    Raises:
        UsageError: see `jaxnet.data.images.by_name.read_images`.
        InputError: likewise.
    """
    from jaxnet.data.images import by_name

    return by_name.read_images(config.data, config.data_dir, config.image_size, config.seed)


def _titanic(config: Any) -> Table:
    from jaxnet.data import load_titanic

    table = load_titanic(config.data_path("titanic.csv or the folder with it", "titanic.csv"))
    print(table.describe())
    return table


def _diabetes(config: Any) -> Arrays:
    from jaxnet.data import load_diabetes

    return load_diabetes()


# Tables whose rows have classes.
CLASS_TABLES: Mapping[str, Callable[[Any], Table]] = {
    "titanic": _titanic,
    "csv": lambda config: config.table.read(config.data_dir, config.target, "class"),
}
# Tables with a number to predict, and numbers alone.
NUMBER_TABLES: Mapping[str, Callable[[Any], Table | Arrays]] = {
    "diabetes": _diabetes,
    "csv": lambda config: config.table.read(config.data_dir, config.target, "number"),
}


def encoded_parts(table: Table, config: Any) -> tuple[Sequence[Arrays], TableEncoder]:
    """A table's training, validation and test part, and what made arrays of their columns.

    Args:
        table: the rows, but for those of a file of test data.
        config: with the options `seed`, `test_data`, `split_by_time` and `split_by_group`.

    Raises:
        UsageError: options that exclude each other.
        InputError: the table can't be cut so, or the test data isn't like it.
    """
    from jaxnet.data import fit_table

    parts = _table_parts(table, config)
    encoder = fit_table(parts[0])
    return [encoder.arrays(part) for part in parts], encoder


def _table_parts(table: Table, config: Any) -> Sequence[Table]:
    from jaxnet.data import read_table_like, split, split_by_group, split_by_time
    from jaxnet.data.split_by import check_apart

    time, group = config.split_by_time, config.split_by_group
    if time is not None and group is not None:
        raise UsageError(
            f"--split-by-time {time} and --split-by-group {group}: expected one of them"
        )
    shares, tests = SHARES, []
    if config.test_data is not None:
        tests = [read_table_like(config.test_data, table)]
        shares = tuple(share / sum(SHARES[:2]) for share in SHARES[:2])
    if group is not None:
        for test in tests:
            check_apart(table, test, group)
        parts = split_by_group(table, group, shares, config.seed)
    elif time is not None:
        parts = split_by_time(table, time, shares)
    else:
        parts = split(table, shares, seed=config.seed)
    parts = [*parts, *tests]
    rows = [f"{len(part)} {what}" for part, what in zip(parts, _PARTS, strict=True)]
    print(f"{table.name}: rows: {', '.join(rows)}")
    return parts


@dataclass(frozen=True)
class Tables:
    """What the columns of a table are, where that isn't recognised, and how they are written."""

    numbers: tuple[str, ...] = ()
    """columns to take for numbers"""
    categories: tuple[str, ...] = ()
    """columns to take for categories"""
    dates: tuple[str, ...] = ()
    """columns to take for dates"""
    drop: tuple[str, ...] = ()
    """columns to leave out"""
    gaps: tuple[str, ...] = ()
    """words that stand for a missing value, such as '?' or -999"""
    decimal: str = "."
    """what stands for the decimal point: . or ,"""
    thousands: str | None = None
    """what stands between groups of digits, such as , in 10,251"""
    units: tuple[str, ...] = ()
    """signs and words beside numbers that are taken away, such as '$', % or kg"""
    date_format: str | None = None
    """how dates are written, such as %d.%m.%Y; 2024-05-31 is always understood"""
    encoding: str | None = None
    """that of a CSV file which isn't in UTF-8, such as cp1252 or latin-1"""

    def read(self, path: Path | None, target: str | None, target_kind: TargetKind) -> Table:
        """The table of a CSV or Parquet file; prints what became of its columns.

        Raises:
            UsageError: the file, or the column to predict, wasn't said.
            InputError: the file can't be read, or isn't what was said of it.
        """
        from jaxnet.data import read_table

        if path is None:
            raise UsageError("--data csv needs --data-dir, a CSV or Parquet file")
        if target is None:
            raise UsageError(f"{path}: say which column to predict, with --target COLUMN")
        kinds: dict[str, Kind] = {
            **dict.fromkeys(self.numbers, "number"),
            **dict.fromkeys(self.categories, "category"),
            **dict.fromkeys(self.dates, "date"),
            **dict.fromkeys(self.drop, "drop"),
        }
        table = read_table(
            path,
            target,
            kinds=kinds,
            target_kind=target_kind,
            gaps=self.gaps,
            decimal=self.decimal,
            thousands=self.thousands,
            units=self.units,
            date_format=self.date_format,
            encoding=self.encoding,
        )
        print(table.describe())
        return table
