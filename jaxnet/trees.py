"""Path patterns over pytrees, and comparison and size of trees.

A leaf's path is its keys joined by `/`: `"Dense_0/kernel"`. A pattern is a glob over such paths:
`*` matches within one segment, `**` any number of whole segments (none included), and `?` and
`[...]` one character. Everything that selects leaves by path (freezing, layouts, decay masks,
learning rates) uses this module, so that one syntax works everywhere.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np

from jaxnet.errors import InputError

_LISTED_PATHS = 20


def paths(tree: Any) -> Any:
    """The same tree with every leaf replaced by its path.

    Example:
        >>> paths({"Dense_0": {"bias": 0.0, "kernel": 1.0}})
        {'Dense_0': {'bias': 'Dense_0/bias', 'kernel': 'Dense_0/kernel'}}
    """
    return jax.tree_util.tree_map_with_path(lambda keys, _: _path(keys), tree)


def named(tree: Any) -> dict[str, Any]:
    """The leaves by their paths.

    Example:
        >>> named({"Dense_0": {"bias": 0.0, "kernel": 1.0}})
        {'Dense_0/bias': 0.0, 'Dense_0/kernel': 1.0}
    """
    return {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def matches(pattern: str, path: str) -> bool:
    """Whether `pattern` matches the whole of `path`.

    Example:
        >>> matches("*/kernel", "Dense_0/kernel"), matches("*/kernel", "encoder/Dense_0/kernel")
        (True, False)
        >>> matches("**/kernel", "kernel"), matches("encoder/**", "encoder/Dense_0/kernel")
        (True, True)
    """
    return _segments_match(pattern.split("/"), path.split("/"))


def mask(tree: Any, *patterns: str) -> Any:
    """The same tree with `True` at the leaves whose path matches one of `patterns`.

    Raises:
        InputError: a pattern matches no leaf; the message lists the paths, nearest first.

    Example:
        >>> mask({"Dense_0": {"bias": 0.0, "kernel": 1.0}}, "**/kernel")
        {'Dense_0': {'bias': False, 'kernel': True}}
    """
    named = paths(tree)
    known = jax.tree.leaves(named)
    for pattern in patterns:
        if not any(matches(pattern, path) for path in known):
            raise InputError(_matches_nothing(pattern, known))
    return jax.tree.map(lambda path: any(matches(p, path) for p in patterns), named)


def matching(tree: Any, *patterns: str) -> list[str]:
    """The paths of the leaves that match one of `patterns`.

    Example:
        >>> matching({"Dense_0": {"bias": 0.0, "kernel": 1.0}}, "**/kernel", "**/scale")
        ['Dense_0/kernel']
    """
    return [path for path in named(tree) if any(matches(pattern, path) for pattern in patterns)]


def differences(expected: Any, got: Any) -> list[str]:
    """The differences between two trees in structure, shape and dtype, one line per leaf.

    The leaves are arrays or anything with a shape and a dtype (`jax.ShapeDtypeStruct`); their
    values are not compared. The list is empty exactly when `got` can replace `expected`.

    Example:
        >>> zeros = np.zeros
        >>> for line in differences({"a": zeros(2), "b": zeros(3)}, {"b": zeros(4), "c": zeros(5)}):
        ...     print(line)
        - a float64[2] (expected, missing)
        ! b expected float64[3], got float64[4]
        + c float64[5] (not expected)
    """
    wanted, found = _described(expected), _described(got)
    lines = []
    for path, leaf in wanted.items():
        if path not in found:
            lines.append(f"- {path} {leaf} (expected, missing)")
        elif found[path] != leaf:
            lines.append(f"! {path} expected {leaf}, got {found[path]}")
    lines += [
        f"+ {path} {leaf} (not expected)" for path, leaf in found.items() if path not in wanted
    ]
    if not lines and jax.tree.structure(expected) != jax.tree.structure(got):
        # The same leaves under other containers: a list for a tuple, a dict for a named tuple.
        lines.append(f"! containers expected {_containers(expected)}, got {_containers(got)}")
    return lines


def count(tree: Any) -> int:
    """The number of scalars in the tree's arrays.

    Example:
        >>> count({"kernel": np.zeros((784, 300)), "bias": np.zeros(300)})
        235500
    """
    return sum(math.prod(_shape_dtype(leaf)[0]) for leaf in jax.tree.leaves(tree))


def size_bytes(tree: Any) -> int:
    """The memory of the tree's arrays in bytes, over all shards.

    Example:
        >>> size_bytes({"kernel": np.zeros((784, 300), np.float32), "step": np.int32(0)})
        940804
    """
    described = (_shape_dtype(leaf) for leaf in jax.tree.leaves(tree))
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in described)


def _path(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _segments_match(pattern: Sequence[str], path: Sequence[str]) -> bool:
    if not pattern:
        return not path
    head, rest = pattern[0], pattern[1:]
    if head == "**":
        return any(_segments_match(rest, path[start:]) for start in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], head) and _segments_match(rest, path[1:])


def _matches_nothing(pattern: str, known: Sequence[str]) -> str:
    if not known:
        return f"pattern {pattern!r} matches nothing: the tree has no leaves"
    near = sorted(known, key=lambda path: -difflib.SequenceMatcher(None, pattern, path).ratio())
    listed = "".join(f"\n  {path}" for path in near[:_LISTED_PATHS])
    more = len(near) - _LISTED_PATHS
    tail = f"\n  ... and {more} more" if more > 0 else ""
    return f"pattern {pattern!r} matches none of these {len(known)} paths:{listed}{tail}"


def _shape_dtype(leaf: Any) -> tuple[tuple[int, ...], Any]:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return tuple(leaf.shape), leaf.dtype
    array = np.asarray(leaf)
    return array.shape, array.dtype


def _described(tree: Any) -> dict[str, str]:
    described = {}
    for path, leaf in named(tree).items():
        shape, dtype = _shape_dtype(leaf)
        described[path] = f"{dtype}[{','.join(map(str, shape))}]"
    return described


def _containers(tree: Any) -> str:
    return str(jax.tree.structure(tree)).removeprefix("PyTreeDef(").removesuffix(")")
