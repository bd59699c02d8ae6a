"""What an option of a command may hold, and which choices read it.

A configuration is a frozen dataclass, and its groups of options are dataclasses in it. What a field
may hold and when it is read is said beside its type, once for the help, the check and the tests:

    hidden: Annotated[tuple[Count, ...], OnlyWith(model="mlp")] = (64,)
    dropout: Share = 0.0

`check_ranges` refuses a number that can't be, and `check_choices` a value that nothing would read
and one that is missing.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from jaxnet.errors import UsageError

C = TypeVar("C")

CHOSEN = object()
"""For `OnlyWith`: any other value than the one that an option has where nothing is chosen."""


@dataclass(frozen=True)
class Range:
    """The numbers between two bounds; in a tuple or a dictionary each of them is meant.

    Attributes:
        low: the lower bound.
        high: the upper one.
        closed: which of the bounds are among them, in the terms of pandas' `Interval`.

    Example:
        >>> 0.5 in Range(0, 1), 1.0 in Range(0, 1), float("nan") in Range(0, 1)
        (True, False, False)
        >>> str(Range(0, 1)), str(Range(0, closed="neither"))
        ('from 0 to below 1', 'above 0')
    """

    low: float = 0
    high: float = math.inf
    closed: Literal["left", "right", "both", "neither"] = "left"

    def __contains__(self, number: float) -> bool:
        above = number >= self.low if self.closed in ("left", "both") else number > self.low
        below = number <= self.high if self.closed in ("right", "both") else number < self.high
        return above and below

    def __str__(self) -> str:
        lower = self.closed in ("left", "both")
        if self.high == math.inf:
            return f"of at least {self.low:g}" if lower else f"above {self.low:g}"
        to = "to" if self.closed in ("right", "both") else "to below"
        return f"{'from' if lower else 'above'} {self.low:g} {to} {self.high:g}"


Count = Annotated[int, Range(1)]
"""How many of something there are, at least one."""
Positive = Annotated[float, Range(closed="neither")]
"""A number above 0."""
NotNegative = Annotated[float, Range()]
"""A number of at least 0."""
Share = Annotated[float, Range(0, 1)]
"""A part of a whole that leaves some of it, such as the share of units that are dropped out."""
Probability = Annotated[float, Range(0, 1, "both")]
"""A number from 0 to 1."""


TOP = object()
"""Of a group: its options have no prefix on the command line."""


FREE = object()
"""Of a field: it doesn't decide what is learnt, and may change when a run is resumed."""


def free_fields(kind: type) -> tuple[str, ...]:
    """The fields of a configuration that are marked `FREE`.

    Example:
        >>> @dataclass
        ... class Run:
        ...     epochs: int = 1
        ...     progress: Annotated[bool, FREE] = True
        >>> free_fields(Run)
        ('progress',)
    """
    return tuple(name for name, marks in _marks(kind).items() if FREE in marks)


class OtherThan:
    """For `OnlyWith`: any value but these."""

    def __init__(self, *values: Any) -> None:
        self.values = values


class OnlyWith:
    """An option is read only where one of some others has one of these values.

    Args:
        readers: the other options by name, each with the value or the tuple of values, `OtherThan`
            some, or `CHOSEN`. A name is looked for in the group of the option, then in those around
            it; `"optimizer.name"` goes into a group. Several marks on a field must all hold.

    Example:
        >>> str(OnlyWith(model=("gpt", "llama"))), str(OnlyWith(folds=None, crop=CHOSEN))
        ('only with model gpt, llama', 'only without folds, or with crop')
        >>> str(OnlyWith(name=OtherThan("lbfgs")))
        'only with name other than lbfgs'
    """

    def __init__(self, **readers: Any) -> None:
        kinds = (tuple, OtherThan)
        self.readers: Mapping[str, Any] = {
            name: values if values is CHOSEN or isinstance(values, kinds) else (values,)
            for name, values in readers.items()
        }

    def __str__(self) -> str:
        return "only " + ", or ".join(_with(name, values) for name, values in self.readers.items())


class NeededWith(OnlyWith):
    """The same, and there it has no default.

    Args:
        optional: of the readers' values those that do without.
        readers: see `OnlyWith`.
    """

    def __init__(self, optional: tuple[str, ...] = (), **readers: Any) -> None:
        super().__init__(**readers)
        self.optional = optional


class Without:
    """Of a group of options, a command doesn't read these fields."""

    def __init__(self, *fields: str) -> None:
        self.fields = fields


@dataclass(frozen=True)
class Scope:
    """A group of options, and those around it.

    Attributes:
        name: what stands before the names of its options: `"network."`; the whole has `""`.
        field: the field of the group around it that it is.
        group: the dataclass.
        usual: the same of a configuration in which nothing was chosen.
        outer: the group that it is in.
    """

    name: str
    field: str
    group: Any
    usual: Any
    outer: Scope | None = None

    def inner(self, name: str) -> Scope:
        """A group of this one."""
        group, usual = getattr(self.group, name), getattr(self.usual, name)
        top = TOP in _marks(type(self.group))[name]
        return Scope(self.name if top else f"{self.name}{name}.", name, group, usual, self)

    def find(self, name: str) -> Option:
        """The option that a mark of this group means.

        Raises:
            KeyError: there is none.
        """
        head, _, rest = name.partition(".")
        if head in _marks(type(self.group)):
            return self.inner(head).find(rest) if rest else Option(self, head)
        if self.outer is None:
            raise KeyError(f"{name} is no option")
        return self.outer.find(name)


@dataclass(frozen=True)
class Option:
    """A field of a configuration that is no group."""

    scope: Scope
    field: str

    def __str__(self) -> str:
        return f"--{self.scope.name}{self.field}".replace("_", "-")

    @property
    def typed(self) -> str:
        """The option with its value, as on the command line."""
        if isinstance(self.value, bool):
            *group, name = str(self).removeprefix("--").split(".")
            return "--" + ".".join([*group, name if self.value else f"no-{name}"])
        return f"{self} {shown(self.value)}".rstrip()

    @property
    def value(self) -> Any:
        """What it is set to."""
        return getattr(self.scope.group, self.field)

    @property
    def chosen(self) -> bool:
        """Whether it has another value than the command, or its group, has by itself."""
        own = _plain_default(type(self.scope.group), self.field)
        return self.value not in (getattr(self.scope.usual, self.field), own)

    @property
    def ranges(self) -> list[Range]:
        """What its numbers have to be in."""
        return [m for m in _marks(type(self.scope.group))[self.field] if isinstance(m, Range)]

    def unread(self) -> str | None:
        """Why nothing reads it, in the words of the command, by the marks on it and its groups."""
        scope: Scope | None = self.scope
        name, inner = self.field, ""
        while scope is not None:
            for mark in _marks(type(scope.group))[name]:
                if isinstance(mark, OnlyWith) and not _holds(mark, scope):
                    return f"it is read {_in_command(mark, scope)}"
                if isinstance(mark, Without) and inner in mark.fields:
                    return "this command doesn't read it"
            name, inner = scope.field, name
            scope = scope.outer
        return None

    def needed_by(self) -> Option | None:
        """The option whose value needs this one, where it is missing."""
        for mark in _marks(type(self.scope.group))[self.field]:
            if isinstance(mark, NeededWith) and self.value in (None, ()) and not self.unread():
                reader = self.scope.find(*mark.readers)
                return None if reader.value in mark.optional else reader
        return None


def options(config: Any) -> Iterator[Option]:
    """All options of a configuration, in the order of the help."""
    yield from _options(Scope("", "", config, type(config)()))


def check_ranges(config: Any) -> None:
    """Refuse numbers that are out of their range.

    Raises:
        UsageError: a number is; the message names the option as on the command line.
    """
    for option in _options(Scope("", "", config, config)):
        for number in _numbers(option.value):
            for wanted in option.ranges:
                if number not in wanted:
                    raise UsageError(f"expected {option} {wanted}, got {number}")


def check_choices(config: Any) -> None:
    """Refuse values that were chosen and that nothing reads, and such as are missing.

    Raises:
        UsageError: there is one; the message says what would read it, or what needs it.
    """
    for option in options(config):
        if needing := option.needed_by():
            raise UsageError(f"{needing.typed} needs {option}")
        if option.chosen and (why := option.unread()):
            raise UsageError(f"{option.typed} would be ignored: {why}. Leave it out.")


def settled(config: C) -> C:
    """The configuration, checked by `check_choices`, without what the command alone would choose.

    Some commands have defaults of their own in a group. Where a user's choice reads none of them,
    as SGD has no `b1`, they are those of the group.

    Raises:
        UsageError: see `check_choices`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Rule:
        ...     name: str = "sgd"
        ...     b1: Annotated[float | None, OnlyWith(name="adam")] = None
        >>> @dataclass(frozen=True)
        ... class Config:
        ...     rule: Any = Rule("adam", b1=0.5)
        >>> settled(Config(Rule("sgd", b1=0.5))).rule
        Rule(name='sgd', b1=None)
    """
    check_choices(config)

    def reset(scope: Scope) -> Any:
        changes = {}
        for name in _marks(type(scope.group)):
            value = getattr(scope.group, name)
            if is_dataclass(value):
                changes[name] = reset(scope.inner(name))
            elif Option(scope, name).unread():
                changes[name] = _plain_default(type(scope.group), name)
        return replace(scope.group, **changes)

    return reset(Scope("", "", config, type(config)()))


def shown(value: Any) -> str:
    """A value as it is typed.

    Example:
        >>> shown((8, 16)), shown(0.5), shown({"a": 2.0})
        ('8 16', '0.5', 'a 2.0')
    """
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return str(value)


def _options(scope: Scope) -> Iterator[Option]:
    for name in _marks(type(scope.group)):
        if is_dataclass(getattr(scope.group, name)):
            yield from _options(scope.inner(name))
        else:
            yield Option(scope, name)


@cache
def _marks(kind: type) -> dict[str, tuple[Any, ...]]:
    """What stands beside the types of a dataclass's fields, by their names."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: tuple(_beside(hints[field.name])) for field in fields(kind)}


def _beside(hint: Any) -> Iterator[Any]:
    yield from getattr(hint, "__metadata__", ())
    for part in (hint.__origin__,) if hasattr(hint, "__metadata__") else typing.get_args(hint):
        yield from _beside(part)


def _holds(mark: OnlyWith, scope: Scope) -> bool:
    def reads(option: Option, values: Any) -> bool:
        if values is CHOSEN:
            return option.value != _plain_default(type(option.scope.group), option.field)
        if isinstance(values, OtherThan):
            return option.value not in values.values
        return option.value in values

    return any(reads(scope.find(name), values) for name, values in mark.readers.items())


def _plain_default(kind: type, name: str) -> Any:
    """The default of a field where a group is made by itself."""
    field = next(field for field in fields(kind) if field.name == name)
    return field.default_factory() if field.default is MISSING else field.default  # pyright: ignore[reportCallIssue]


def _with(name: str, values: Any) -> str:
    if values is CHOSEN:
        return f"with {name}"
    if isinstance(values, OtherThan):
        return f"with {name} other than {', '.join(map(str, values.values))}"
    return f"without {name}" if values == (None,) else f"with {name} {', '.join(map(str, values))}"


def _in_command(mark: OnlyWith, scope: Scope) -> str:
    """The mark in the words of the command, and what is chosen instead."""
    found = [(scope.find(name), values) for name, values in mark.readers.items()]
    words = "only " + ", or ".join(_with(str(option), values) for option, values in found)
    if len(found) > 1 or found[0][1] is CHOSEN or found[0][1] == (None,):
        return words
    return f"{words}, and this is {found[0][0].typed}"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
