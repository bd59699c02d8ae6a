"""What devices send to each other in a step: read from a compiled program's text.

| kind | size: bytes of | a device sends, in a ring of n |
|---|---|---|
| all-reduce | the array that all add up | 2 (n - 1) / n of it |
| all-gather | the whole that the pieces make up | (n - 1) / n of it |
| reduce-scatter | the array that is added up and cut | (n - 1) / n of it |
| all-to-all | what a device has for all others and itself | (n - 1) / n of it |
| collective-permute | what a device hands on | all of it |

The algorithms are those of Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for
clusters of workstations": no other sends less.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from jaxnet.errors import InputError

Kind = Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"]
KINDS: tuple[Kind, ...] = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)


@dataclass(frozen=True)
class Collective:
    """One kind of exchange between devices, of one size.

    Attributes:
        kind: see the table above.
        size: bytes, see the table above.
        group: the numbers of the devices that take part, those of one group of many that do the
            same side by side; for a collective-permute one device and that to which it sends.
        count: how many times in a step.
        unbounded: whether it is in a loop of which nobody knows how often it turns. Then it is
            counted for one turn.
    """

    kind: Kind
    size: int
    group: tuple[int, ...]
    count: int = 1
    unbounded: bool = False

    @property
    def moved(self) -> float:
        """The bytes that a device sends in a step.

        Example:
            >>> Collective("all-reduce", 1000, (0, 1, 2, 3)).moved
            1500.0
        """
        n = len(self.group)
        if self.kind == "collective-permute":
            return float(self.count * self.size)
        turns = 2 if self.kind == "all-reduce" else 1
        return self.count * self.size * turns * (n - 1) / n


def read(program: str) -> tuple[Collective, ...]:
    """The collectives of a compiled program, as its `as_text()` gives it.

    What is in the body of a loop counts as often as the loop turns, where the compiler knows that
    (`known_trip_count`), and of the branches of a condition that counts which sends most. Groups of
    one device send nothing and are left out.

    Example:
        >>> text = '''HloModule step, num_partitions=4
        ... ENTRY %main (x: f32[8,2]) -> f32[8,2] {
        ...   %x = f32[8,2]{1,0} parameter(0)
        ...   ROOT %sum = f32[8,2]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add
        ... }'''
        >>> read(text)
        (Collective(kind='all-reduce', size=64, group=(0, 1), count=1, unbounded=False),)

    Raises:
        InputError: a newer compiler writes groups of devices in a way that isn't known here.
    """
    bodies, entry = _computations(program)
    head = program.partition("\n")[0]
    counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", head)
    devices = math.prod(int(number) for number in counts)
    known: dict[str, tuple[Collective, ...]] = {}

    def within(name: str) -> tuple[Collective, ...]:
        if name not in known:
            known[name] = ()  # programs don't call themselves; a wrong text must not hang
            found = (one for line in bodies.get(name, ()) for one in of_line(line))
            known[name] = merged(found)
        return known[name]

    def of_line(line: str) -> Iterable[Collective]:
        own = _collective(line, devices)
        if own is not None:
            return (own,) if len(own.group) > 1 else ()
        if _DONE.search(line):
            return ()
        branches = _branches(line)
        if branches:
            return max((within(name) for name in branches), key=moved)
        inner = [one for name in _CALLED.findall(line) for one in within(name)]
        if " while(" not in line:
            return inner
        turns = _TURNS.search(line)
        if turns is None:
            return [replace(one, unbounded=True) for one in inner]
        return [replace(one, count=one.count * int(turns[1])) for one in inner]

    return within(entry)


def moved(collectives: Iterable[Collective]) -> float:
    """The bytes that a device sends in all."""
    return sum(one.moved for one in collectives)


def merged(collectives: Iterable[Collective]) -> tuple[Collective, ...]:
    """The same, with equal ones counted together, in the order in which they first come."""
    found: dict[Collective, int] = {}
    for one in collectives:
        key = replace(one, count=0)
        found[key] = found.get(key, 0) + one.count
    return tuple(replace(key, count=count) for key, count in found.items())


def by_kind(collectives: Iterable[Collective]) -> dict[str, tuple[int, float]]:
    """How often each kind comes in a step, and the bytes that a device sends in it.

    Example:
        >>> by_kind([Collective("all-reduce", 8, (0, 1), 3), Collective("all-reduce", 4, (0, 1))])
        {'all-reduce': (4, 28.0)}
    """
    found: dict[str, tuple[int, float]] = {}
    for one in collectives:
        count, sent = found.get(one.kind, (0, 0.0))
        found[one.kind] = (count + one.count, sent + one.moved)
    return found


def group(sizes: Mapping[str, int], axes: Iterable[str]) -> tuple[int, ...]:
    """The devices that differ in their place along some axes of a mesh only, the first such group.

    Args:
        sizes: the number of devices along each axis, the innermost last.
        axes: those along which the group lies.

    Example:
        >>> group({"data": 2, "tensor": 4}, ["tensor"]), group({"data": 2, "tensor": 4}, ["data"])
        ((0, 1, 2, 3), (0, 4))
    """
    chosen = set(axes)
    numbers = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    picked = numbers[tuple(slice(None) if name in chosen else 0 for name in sizes)]
    return tuple(int(number) for number in np.ravel(picked))


def axes_of(devices: Sequence[int], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of a mesh along which devices differ: the reverse of `group`.

    Example:
        >>> axes_of((1, 5), {"data": 2, "tensor": 4})
        ('data',)
    """
    places = np.unravel_index(np.asarray(devices), tuple(sizes.values()))
    return tuple(
        name for name, place in zip(sizes, places, strict=True) if len(np.unique(place)) > 1
    )


_BYTES = {"pred": 1, "bf16": 2, "c64": 8, "c128": 16}
_OPERATION = re.compile(rf"=\s(?P<type>.*?)\s(?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_SHAPE = re.compile(r"\b(pred|bf16|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(?P<entry>ENTRY\s+)?%?(?P<name>[\w.\-]+)\s*\(.*\{\s*$")
_CALLED = re.compile(r"\b(?:body|condition|calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_TURNS = re.compile(r'known_trip_count[^\d]*"(\d+)"')
# The second half of what was started: it names the same computation, which must not count twice.
_DONE = re.compile(r"\s(?:async-done|async-update)\(")
_PAIRS = re.compile(r"source_target_pairs=\{(.*?)\}\}")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")

_NAMED = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{((?:'[^']*',?)+)\}"
)
_AXIS = re.compile(r"'([^']*)'=(\d+)")
_AXIS_NAME = re.compile(r"'([^']*)'")


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the one where all begins."""
    bodies: dict[str, list[str]] = {}
    entry, name = "", ""
    for line in program.splitlines():
        header = _HEADER.match(line)
        if header and not line.startswith("HloModule"):
            name = header["name"]
            bodies[name] = []
            entry = name if header["entry"] else entry
        elif line.startswith("}"):
            name = ""
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _collective(line: str, devices: int) -> Collective | None:
    """The collective that a line is, if it is one."""
    found = _OPERATION.search(line)
    if found is None:
        return None
    kind: Kind = found["kind"]  # type: ignore[assignment]
    sizes = [_size(dtype, shape) for dtype, shape in _SHAPE.findall(found["type"])]
    if found["start"] and kind == "all-gather":
        sizes = sizes[len(sizes) // 2 :]  # the pieces come first, then the wholes
    if found["start"] and kind == "collective-permute":
        sizes = sizes[1:2]
    members = _pair(line) if kind == "collective-permute" else _members(line, devices)
    size = sum(sizes) * (len(members) if kind == "reduce-scatter" else 1)
    return Collective(kind, size, members)


def _size(dtype: str, shape: str) -> int:
    bits = re.search(r"\d+", dtype)
    each = _BYTES.get(dtype) or (int(bits[0]) if bits else 0) / 8
    return math.ceil(each * math.prod(int(n) for n in shape.split(",") if n))


def _members(line: str, devices: int) -> tuple[int, ...]:
    """The first of the groups, in whichever of the compiler's ways they are written.

    As lists, `{{0,1},{2,3}}`; by counting, `[2,4]<=[4,2]T(1,0)`; by axes of a mesh,
    `mesh['a'=4,'b'=2] {'a'}`, perhaps with the devices in another order, counted as before:
    `mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}`. None written is one group of all.
    """
    if listed := _LISTED.search(line):
        return _numbers(listed[1])
    if counted := _COUNTED.search(line):
        shape, dims = _numbers(counted[1]), _numbers(counted[2])
        numbers = np.arange(math.prod(dims)).reshape(dims)
        if counted[3]:
            numbers = numbers.transpose(_numbers(counted[3]))
        return tuple(int(number) for number in numbers.reshape(shape)[0])
    if named := _NAMED.search(line):
        sizes = {name: int(size) for name, size in _AXIS.findall(named[1])}
        places = group(sizes, _AXIS_NAME.findall(named[4]))
        if not named[2]:
            return places
        order = np.arange(math.prod(sizes.values())).reshape(_numbers(named[2]))
        if named[3]:
            order = order.transpose(_numbers(named[3]))
        return tuple(int(number) for number in order.ravel()[list(places)])
    if "replica_groups=" in line and "replica_groups={}" not in line:
        raise InputError(f"the groups of devices are written in an unknown way: {line.strip()}")
    return tuple(range(devices))


def _pair(line: str) -> tuple[int, ...]:
    """Of the pairs of sender and receiver that which is furthest apart."""
    pairs = _PAIRS.search(line)
    found = re.findall(r"(\d+),(\d+)", pairs[1] + "}") if pairs else []
    apart = [(int(a), int(b)) for a, b in found if a != b]
    return max(apart, key=lambda pair: abs(pair[0] - pair[1]), default=())


def _branches(line: str) -> list[str]:
    if " conditional(" not in line:
        return []
    found = _BRANCHES.findall(line)
    return [
        name.strip().lstrip("%") for listed, one in found for name in (listed or one).split(",")
    ]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
