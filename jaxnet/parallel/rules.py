"""The sharding of each leaf of a training state, from rules over the parameters' paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from jaxnet import trees
from jaxnet.errors import UsageError
from jaxnet.parallel.axes import AXES, Axis, names

PyTree = Any
Axes = tuple[Axis, ...]
Rule = tuple[str, Axes] | tuple[str, Axes, str]

# The third entry of a rule for parameters that only some networks of a family have.
OPTIONAL = "optional"

# The key of a network's parameters in a training state, or in the state of one of several networks.
PARAMS = "params"


class _Parameter(NamedTuple):
    """A parameter: the network that owns it, its path there, its shape and its sharding."""

    owner: tuple[str, ...]
    path: tuple[str, ...]
    shape: tuple[int, ...]
    spec: PartitionSpec


def check_rules(rules: Sequence[Any]) -> None:
    """Check the form of sharding rules, without a tree.

    Raises:
        UsageError: a rule isn't `(pattern, axes)`, or names an unknown axis, or one axis twice.
    """
    for rule in rules:
        pair = isinstance(rule, tuple) and len(rule) in (2, 3) and isinstance(rule[0], str)
        if not (pair and isinstance(rule[1], tuple) and rule[2:] in ((), (OPTIONAL,))):
            raise UsageError(
                f"layout: expected a rule (pattern, axes), such as ('**/up/kernel', (None, "
                f"'tensor')), optionally with 'optional' as third entry, got {rule!r}"
            )
        used = [name for axis in rule[1] for name in names(axis)]
        for name in used:
            if name not in AXES:
                raise UsageError(
                    f"layout: the rule {rule!r} names the axis {name!r}, and the axes are "
                    f"{', '.join(AXES)}; None doesn't shard a dimension"
                )
            if used.count(name) > 1:
                raise UsageError(
                    f"layout: the rule {rule!r} names the axis {name!r} twice, and an axis can "
                    "shard one dimension only"
                )


def specs(
    tree: PyTree, rules: Sequence[Rule], sizes: Mapping[str, int], fsdp_min_size: int
) -> PyTree:
    """The same tree with a `PartitionSpec` at each leaf; axes of one device are left out.

    The tree's parameters are the leaves under a key `params`, or all leaves without such a key. The
    first rule that matches a parameter's path decides, and then the fsdp axis shards its largest
    remaining dimension that it divides. Any other leaf whose path ends with a parameter's path and
    that has its shape, such as an optimizer moment or a moving average, is sharded like that
    parameter. The remaining leaves are replicated.

    Args:
        tree: arrays or shapes.
        rules: see `Layout`.
        sizes: the number of devices along each axis.
        fsdp_min_size: the minimum number of elements of a parameter to be sharded by fsdp.

    Raises:
        UsageError: a rule matches no parameter, has more dimensions than it, or doesn't divide it.

    Example:
        >>> tree = {"params": {"up": {"kernel": np.zeros((8, 4))}}, "step": np.zeros(())}
        >>> specs(tree, [("up/kernel", (None, "tensor"))], {"tensor": 2, "fsdp": 2}, 16)
        {'params': {'up': {'kernel': P('fsdp', 'tensor')}}, 'step': P()}
    """
    if sizes.get("tensor", 1) > 1 and not any("tensor" in names(a) for r in rules for a in r[1]):
        raise UsageError(
            f"layout: tensor={sizes['tensor']} shards nothing, because no rule names it: pass the "
            "rules of the model's file, such as rules=models.gpt2.SHARDING, or your own rules"
        )
    named = _named(tree)
    parameters = _parameters(named, rules, sizes, fsdp_min_size)
    _check_all_match(rules, list(parameters.values()))
    by_path: dict[tuple[str, ...], list[_Parameter]] = {}
    for parameter in parameters.values():
        by_path.setdefault(parameter.path, []).append(parameter)
    found = [
        parameters[path].spec if path in parameters else _like_its_parameter(path, shape, by_path)
        for path, shape in named
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def _named(tree: PyTree) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Path and shape of each leaf; without a key `params`, all leaves are put under one."""
    paths = [tuple(path.split("/")) for path in jax.tree.leaves(trees.paths(tree))]
    above = () if any(PARAMS in path for path in paths) else (PARAMS,)
    shapes = map(np.shape, jax.tree.leaves(tree))
    return [((*above, *path), shape) for path, shape in zip(paths, shapes, strict=True)]


def _parameters(
    named: Sequence[tuple[tuple[str, ...], tuple[int, ...]]],
    rules: Sequence[Rule],
    sizes: Mapping[str, int],
    fsdp_min_size: int,
) -> dict[tuple[str, ...], _Parameter]:
    """The parameters by their path in the state."""
    # Some optimizer states contain `params` too, at a deeper level.
    depth = min((path.index(PARAMS) for path, _ in named if PARAMS in path), default=0)
    parameters = {}
    for path, shape in named:
        if path[depth : depth + 1] != (PARAMS,):
            continue
        owner, own = path[:depth], path[depth + 1 :]
        name = "/".join((*owner, *own))
        axes = next((rule[1] for rule in rules if trees.matches(rule[0], name)), ())
        _check_fits(name, shape, axes, sizes)
        spec = _spec(shape, axes, sizes, fsdp_min_size)
        parameters[path] = _Parameter(owner, own, shape, spec)
    return parameters


def _check_all_match(rules: Sequence[Rule], parameters: Sequence[_Parameter]) -> None:
    known = ["/".join((*p.owner, *p.path)) for p in parameters]
    for rule in rules:
        if rule[2:] != (OPTIONAL,) and not any(trees.matches(rule[0], name) for name in known):
            try:
                trees.mask(dict.fromkeys(known, 0), rule[0])
            except ValueError as error:
                raise UsageError(
                    f"layout: {error}\nCorrect the rule, or leave it out; for parameters that only "
                    "some networks have, add 'optional' to it."
                ) from None


def _check_fits(name: str, shape: tuple[int, ...], axes: Axes, sizes: Mapping[str, int]) -> None:
    if len(axes) > len(shape):
        raise UsageError(
            f"layout: the rule for {name} has {len(axes)} dimensions, {axes}, and its shape is "
            f"{shape}: give it at most {len(shape)}"
        )
    for dimension, axis in enumerate(axes):
        parts = math.prod(sizes.get(part, 1) for part in names(axis))
        if shape[dimension] % parts:
            said = " x ".join(f"{part}={sizes.get(part, 1)}" for part in names(axis))
            raise UsageError(
                f"layout: {name} of shape {shape} can't be sharded along dimension {dimension}: "
                f"{shape[dimension]} isn't divisible by {said}. Choose another size for the axis "
                f"or the layer, or replicate it: put the rule ({name!r}, ()) first "
                f"(--layout.whole {name})."
            )


def _spec(
    shape: tuple[int, ...], axes: Axes, sizes: Mapping[str, int], fsdp_min_size: int
) -> PartitionSpec:
    """The spec of a rule, without axes of one device, and with the fsdp axis added."""
    chosen = [tuple(n for n in names(axis) if sizes.get(n, 1) > 1) for axis in axes]
    chosen += [()] * (len(shape) - len(chosen))
    fsdp = sizes.get("fsdp", 1)
    said = any("fsdp" in names(axis) for axis in axes)
    if fsdp > 1 and not said and math.prod(shape) >= fsdp_min_size:
        free = [d for d, names in enumerate(chosen) if not names and shape[d] % fsdp == 0]
        if free:
            chosen[max(free, key=lambda d: shape[d])] = ("fsdp",)
    while chosen and not chosen[-1]:
        chosen.pop()
    return PartitionSpec(*(names or None for names in chosen))


def _like_its_parameter(
    path: tuple[str, ...],
    shape: tuple[int, ...],
    by_path: Mapping[tuple[str, ...], Sequence[_Parameter]],
) -> PartitionSpec:
    """The sharding of the parameter with the same shape and the longest path that ends this one."""
    for start in range(len(path)):
        same = [p for p in by_path.get(path[start:], ()) if p.shape == shape]
        if same:
            # If two networks have such a parameter, the one with the same owner is chosen.
            return max(same, key=lambda p: path[: len(p.owner)] == p.owner).spec
    return PartitionSpec()
