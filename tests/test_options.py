"""Options: each is read, or refused where nothing reads it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import sys
from types import FrameType
from typing import Annotated, Any

import pytest

from jaxnet import generate, optimizers
from jaxnet import options as options_module
from jaxnet.app import config, data_options, optimizer_options
from jaxnet.data.images.by_name import IMAGE_SETS
from jaxnet.errors import UsageError
from jaxnet.options import (
    CHOSEN,
    Count,
    NeededWith,
    OnlyWith,
    Option,
    OtherThan,
    Range,
    Share,
    Without,
    _marks,
    check_choices,
    check_ranges,
    options,
    settled,
)

COMMANDS = (
    *("classify", "regress", "text", "language", "masked", "translate", "gan", "autoencode"),
    *("recommend", "tag", "vanishing"),
)
CONFIGS = {name: importlib.import_module(f"train.{name}").Config for name in COMMANDS}
CONFIGS["generate"] = generate.Config


@dataclasses.dataclass(frozen=True)
class Inner:
    """Inner."""

    width: Annotated[Count, OnlyWith(kind="wide")] = 3
    shares: tuple[Share, ...] = ()
    depth: Count | None = None
    skip: Annotated[bool, OnlyWith(depth=CHOSEN, kind="any")] = False
    on: Annotated[bool, OnlyWith(kind="lit")] = True
    steps: Annotated[int | None, NeededWith(("lazy",), kind=("stepped", "lazy"))] = None


@dataclasses.dataclass(frozen=True)
class Outer:
    """Outer."""

    kind: str = "plain"
    rates: dict[str, Annotated[float, Range(closed="neither")]] = dataclasses.field(
        default_factory=dict
    )
    inner: Inner = Inner()
    other: Annotated[Inner, OnlyWith(kind=OtherThan("plain")), Without("depth")] = Inner()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Outer(inner=Inner(shares=(0.5, 1.0))), "--inner.shares from 0 to below 1, got 1.0"),
        (Outer(inner=Inner(shares=(float("nan"),))), "--inner.shares .* got nan"),
        (Outer(other=Inner(depth=0)), "--other.depth of at least 1, got 0"),
        (Outer(rates={"a": 0.0}), "--rates above 0, got 0.0"),
    ],
)
def test_numbers_out_of_their_range_are_refused(config, message):
    with pytest.raises(UsageError, match=message):
        check_ranges(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            Outer(inner=Inner(width=4)),
            "--inner.width 4 would be ignored: it is read only with --kind wide, and this is "
            "--kind plain. Leave it out.",
        ),
        (
            Outer(inner=Inner(skip=True)),
            "--inner.skip would be ignored: it is read only with --inner.depth, or with "
            "--kind any. Leave it out.",
        ),
        (
            Outer(other=Inner(shares=(0.1, 0.2))),
            "--other.shares 0.1 0.2 would be ignored: it is read only with --kind other than "
            "plain, and this is --kind plain. Leave it out.",
        ),
        (
            Outer("stout", other=Inner(depth=2)),
            "--other.depth 2 would be ignored: this command doesn't read it. Leave it out.",
        ),
        (
            Outer(inner=Inner(on=False)),
            "--inner.no-on would be ignored: it is read only with --kind lit, and this is --kind "
            "plain. Leave it out.",
        ),
        (Outer(kind="stepped"), "--kind stepped needs --inner.steps"),
    ],
)
def test_what_nothing_reads_and_what_is_missing_is_refused(config, message):
    with pytest.raises(UsageError) as raised:
        check_choices(config)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "config",
    [
        Outer("wide", inner=Inner(width=4), other=Inner(width=5)),
        Outer(inner=Inner(skip=True, depth=2)),
        Outer("any", inner=Inner(skip=True)),
        Outer("lazy"),
    ],
)
def test_what_is_read_goes_through(config):
    check_choices(config)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command with a default of its own in a group."""

    kind: str = "wide"
    inner: Inner = Inner(width=7)


def test_what_the_command_alone_would_choose_goes_where_nothing_reads_it():
    assert settled(Command()) == Command()
    other = settled(Command("plain"))
    assert other == Command("plain", Inner())
    assert settled(other) == other  # as from the file of the run
    with pytest.raises(UsageError, match=r"--inner\.width 8 would be ignored"):
        settled(Command("plain", Inner(width=8)))


# --- the commands -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_the_defaults_of_each_command_are_sound(name):
    config = CONFIGS[name]()
    check_ranges(config)
    for option in options(config):
        for mark in _marks(type(option.scope.group))[option.field]:
            if isinstance(mark, OnlyWith):
                for reader in mark.readers:
                    option.scope.find(reader)  # which knows it


def _names(name: str, reader: str) -> set[str]:
    """The choices that there are for `--data` or `--model` of a command."""
    kind = type(CONFIGS[name]())
    return set(getattr(kind, "MODELS" if reader == "model" else "DATA", ()))


@pytest.mark.parametrize("name", COMMANDS)
def test_readers_are_choices_that_there_are(name):
    for option in options(CONFIGS[name]()):
        scope, field = option.scope, option.field
        while scope is not None:
            for mark in _marks(type(scope.group))[field]:
                for reader in ("data", "model"):
                    values = mark.readers.get(reader, ()) if isinstance(mark, OnlyWith) else ()
                    values = getattr(values, "values", values)
                    assert set(values) <= _names(name, reader), (option, values)
            field, scope = scope.field, scope.outer


def test_the_names_of_image_data_are_those_that_are_read():
    assert set(data_options.IMAGES) == set(IMAGE_SETS)


@pytest.mark.parametrize("optimizer", optimizers.OPTIMIZERS)
def test_optimizers_read_what_they_take(optimizer):
    taken = inspect.signature(optimizers.OPTIMIZERS[optimizer]).parameters
    rated = optimizer != "lbfgs"
    expected = {
        "weight_decay": "weight_decay" in taken,
        "b1": "b1" in taken,
        "b2": "b2" in taken,
        "decay": "mask" in taken,
        "schedule": rated,
    }
    group = optimizer_options.Optimizer(optimizer, weight_decay=0.1)
    scope = next(iter(options(group))).scope
    read = {name: Option(scope, name).unread() is None for name in expected}
    assert read == expected
    # Weights that an optimizer shrinks by itself may be chosen without saying by how much.
    shrinks = taken.get("weight_decay") and taken["weight_decay"].default
    own = Option(next(iter(options(optimizer_options.Optimizer(optimizer)))).scope, "decay")
    assert (own.unread() is None) == bool("mask" in taken and shrinks)


@pytest.mark.parametrize("schedule", [*optimizers.SCHEDULES, optimizer_options.PLATEAU])
def test_schedules_read_what_they_take(schedule):
    make = optimizers.SCHEDULES.get(schedule, optimizers.SCHEDULES["constant"])
    taken = inspect.signature(make).parameters
    group = optimizer_options.Optimizer(schedule=schedule)
    scope = next(iter(options(group))).scope
    for name in ("warmup_steps", "transition_steps", "decay_rate", "boundaries"):
        option = Option(scope, name)
        assert (option.unread() is None) == (name in taken), name
        needed = name in taken and taken[name].default is inspect.Parameter.empty
        assert (option.needed_by() is not None) == needed, name


# --- what is read is read -----------------------------------------------------------------------


class Stop(Exception):
    """Where a run would train."""


# Read after training, by functions that the runs below don't come to.
LATER = {"translate": {"beams"}, "recommend": {"k", "ranking", "candidates"}}
# Where a value goes through as it is: the files, the checks, and the == of a dataclass.
PASSING = {config.__file__, options_module.__file__, "<string>"}


class Reads:
    """Notes which fields of a configuration's dataclasses are read, and not merely copied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, config: Any) -> None:
        self.seen: set[tuple[type, str]] = set()
        kinds = {type(option.scope.group) for option in options(config)} | {type(config)}
        own = [kind for kind in kinds if not kind.__module__.startswith("jaxnet.training")]
        for kind in own:
            monkeypatch.setattr(kind, "__getattribute__", self._noting(kind), raising=False)

    def _noting(self, kind: type) -> Any:
        names = {field.name for field in dataclasses.fields(kind)}

        def read(group: Any, name: str) -> Any:
            if name in names and not _passes(sys._getframe(1)):
                self.seen.add((kind, name))
            return object.__getattribute__(group, name)

        return read


def _passes(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename == dataclasses.__file__:
        if frame.f_code.co_name in ("replace", "_replace"):
            return True
        frame = frame.f_back  # asdict, of whose result the caller makes something
    return frame is None or frame.f_code.co_filename in PASSING


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rows = [f"{i % 7},{'ab'[i % 2]},{i % 3 + i / 100}" for i in range(60)]
    (folder / "table.csv").write_text("\n".join(["x,y,z", *rows]) + "\n")
    pairs = [f"u{i % 10},i{(i * 7 + i // 10) % 11},{i % 5 + 1},{i}" for i in range(60)]
    (folder / "likes.csv").write_text("\n".join(["user,item,stars,when", *pairs]) + "\n")
    (folder / "text.txt").write_text("to be or not to be, that is the question. " * 40)
    lines = [
        f"{'good' if i % 2 else 'bad'}\tit was {'fine' if i % 2 else 'dull'} {i}" for i in range(40)
    ]
    (folder / "lines.tsv").write_text("\n".join(lines) + "\n")
    (folder / "a.txt").write_text("\n".join(f"say number {i}" for i in range(60)) + "\n")
    (folder / "names.conll").write_text("Ada B-PER\nwrote O\n\n" * 20)
    return folder


RUNS = [
    ("classify", "--model cnn"),
    ("classify", "--model mlp --folds 3"),
    ("classify", "--model vit_s --optimizer.name lbfgs"),
    ("classify", "--data csv --data-dir table.csv --target y --class-weights a 2"),
    ("regress", "--data csv --data-dir table.csv --target z"),
    ("text", "--data lines --data-dir lines.tsv"),
    ("text", "--data lines --data-dir lines.tsv --model encoder --folds 2"),
    ("language", "--data text --data-dir text.txt --tokens.length 8"),
    ("language", "--data text --data-dir text.txt --tokens.length 8 --model llama"),
    pytest.param(
        "masked",
        "--data text --data-dir text.txt --tokens.length 8 --tokens.vocab-size 300",
        marks=pytest.mark.slow,
    ),
    ("translate", "--data files --texts.source a.txt --texts.target a.txt --texts.vocab-size 300"),
    ("gan", "--model dcgan"),
    ("gan", "--model dense"),
    ("autoencode", "--model vae"),
    ("autoencode", "--model conv"),
    ("recommend", "--data csv --data-dir likes.csv --columns.rating stars --k 3"),
    ("tag", "--data conll --data-dir names.conll --tokens.level word"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), RUNS)
def test_every_option_of_a_run_is_read_by_it(name, words, files, monkeypatch, tmp_path):
    from jaxnet.app.command_line import from_command_line
    from jaxnet.training import Trainer

    def stop(*arguments: Any, **options: Any) -> None:
        raise Stop

    monkeypatch.chdir(files)
    monkeypatch.setattr(Trainer, "fit", stop)
    module = importlib.import_module(f"train.{name}")
    config = from_command_line(module.Config, words.split(), name)
    config = dataclasses.replace(config, run_dir=tmp_path)
    reads = Reads(monkeypatch, config)
    with contextlib.suppress(Stop):
        module.train(config)
    used = dataclasses.replace(config, model=config.model or DEFAULTS.get((name, config.data), "x"))
    unread = [
        str(option)
        for option in options(used)
        if option.unread() is None
        and (type(option.scope.group), option.field) not in reads.seen
        and not type(option.scope.group).__module__.startswith("jaxnet.training")
        and not {option.field, *option.scope.name.split(".")} & LATER.get(name, set())
    ]
    assert unread == []


DEFAULTS = {("classify", "csv"): "mlp", ("text", "lines"): "lstm", ("language", "text"): "lstm"}
