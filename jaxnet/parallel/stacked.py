"""A `jaxnet.layers.Stack` with its blocks distributed over the stages of a pipeline.

Its parameters have two forms. The plain form has a subtree per block, `stack/blocks_0/...`,
`stack/blocks_1/...`; it is used on one device, in bundles, and wherever parameters are read by
name. The stacked form has `stack/blocks/...`, each leaf with the block as leading axis, which the
`stage` axis shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnet import trees
from jaxnet.errors import UsageError
from jaxnet.layers import Stack
from jaxnet.layers.experts import LOSSES
from jaxnet.parallel.pipeline_stages import gpipe, micro_batches_of
from jaxnet.parallel.rules import OPTIONAL, Rule
from jaxnet.parallel.shard_map_utils import AnyMesh, free_axes

PyTree = Any

STACKED = "blocks"
"""The key of the stacked form, in place of `blocks_0`, `blocks_1`, ..."""

STAGES = (("**/blocks/**", ("stage",)),)
"""The sharding rule of the stacked form, which stores each block on its stage."""


def from_plain(tree: PyTree) -> PyTree:
    """The stacked form of parameters, or of a tree that contains them, such as a training state.

    Raises:
        UsageError: the blocks of a stack differ in structure, shape or dtype.

    Example:
        >>> from_plain({"stack": {"blocks_0": {"bias": 1.0}, "blocks_1": {"bias": 2.0}}})
        {'stack': {'blocks': {'bias': Array([1., 2.], dtype=float32, weak_type=True)}}}
    """
    return _converted(tree, _is_plain, _stacked)


def to_plain(tree: PyTree) -> PyTree:
    """The plain form; the inverse of `from_plain`.

    Example:
        >>> to_plain({"stack": {"blocks": {"bias": jnp.array([1.0, 2.0])}}})["stack"]["blocks_1"]
        {'bias': Array(2., dtype=float32)}
    """
    return _converted(tree, _is_stacked, _apart)


def _converted(tree: PyTree, is_form: Any, convert: Any) -> PyTree:
    return jax.tree.map(
        lambda node: convert(node) if is_form(node) else node, tree, is_leaf=is_form
    )


def _is_plain(node: Any) -> bool:
    names = {f"{STACKED}_{i}" for i in range(len(node))} if isinstance(node, Mapping) else set()
    return bool(names) and names == set(node)


def _is_stacked(node: Any) -> bool:
    return isinstance(node, Mapping) and set(node) == {STACKED}


def _stacked(node: Mapping[str, PyTree]) -> dict[str, PyTree]:
    first, *others = [node[f"{STACKED}_{i}"] for i in range(len(node))]
    for number, block in enumerate(others, start=1):
        if lines := trees.differences(first, block):
            raise UsageError(
                f"pipeline: all blocks of a stack must be alike, and {STACKED}_{number} is not as "
                f"{STACKED}_0:\n" + "\n".join(lines)
            )
    return {STACKED: jax.tree.map(lambda *leaves: jnp.stack(leaves), first, *others)}


def _apart(node: Mapping[str, PyTree]) -> dict[str, PyTree]:
    (leaves, structure) = jax.tree.flatten(node[STACKED])
    count = len(leaves[0]) if leaves else 0
    return {
        f"{STACKED}_{i}": jax.tree.unflatten(structure, [leaf[i] for leaf in leaves])
        for i in range(count)
    }


def stage_rules(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """A model's sharding rules for its stacked form, with the `stage` axis added.

    Args:
        rules: rules for the plain form; those whose pattern begins with `**/` also apply to blocks.

    Example:
        >>> for rule in stage_rules([("**/up/kernel", (None, "tensor"))]):
        ...     print(rule)
        ('**/blocks/**/up/kernel', ('stage', None, 'tensor'), 'optional')
        ('**/blocks/**', ('stage',))
        ('**/up/kernel', (None, 'tensor'))
    """
    stacked = [
        (f"**/{STACKED}/{pattern}", ("stage", *axes), OPTIONAL)
        for pattern, axes, *_ in rules
        if pattern.startswith("**/")
    ]
    return (*stacked, *STAGES, *rules)


def in_stages(
    micro_batches: int | None = None,
    *,
    remat: bool = True,
    mesh: AnyMesh | None = None,
    axis: str = "stage",
) -> Any:
    """An interceptor (`flax.linen.intercept_methods`) that runs each stacked `Stack` as a pipeline.

    Without a mesh, or with one device along the axis, the blocks run sequentially. Dropout masks
    are sampled per block and micro-batch, and so differ from those of the plain form.

    Args:
        micro_batches: the number of micro-batches; if None, and always in evaluation, whose batch
            size may differ, it is chosen by `micro_batches_of`.
        remat: see `gpipe`.
        mesh: None for the ambient one.
        axis: the mesh axis of the pipeline stages.

    Raises:
        UsageError: (when the network is traced) see `gpipe`; or the blocks have variables besides
            their parameters, or a cache.
    """

    def interceptor(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
        module = context.module
        stack = isinstance(module, Stack) and context.method_name == "__call__"
        if not stack or STACKED not in module.variables.get("params", {}):
            return call(*args, **kwargs)
        options = {"micro_batches": micro_batches, "remat": remat, "mesh": mesh, "axis": axis}
        return _run(module, options, *args, **kwargs)

    return interceptor


def _run(
    module: Any,
    options: dict[str, Any],
    x: jax.Array,
    mask: jax.Array | None = None,
    *,
    positions: jax.Array | None = None,
    cache: Any = None,
    train: bool = False,
) -> jax.Array:
    name = "/".join(module.path) or type(module).__name__
    others = [kind for kind in module.variables if kind not in ("params", LOSSES)]
    if cache is not None or others:
        what = "a cache" if cache is not None else f"variables of the kind {others[0]!r}"
        raise UsageError(
            f"{name}: blocks in a pipeline can't have {what}. Use the parameters in their plain "
            "form (jaxnet.parallel.to_plain), without the pipeline."
        )
    if positions is not None:
        positions = jnp.broadcast_to(positions, x.shape[:2])
    block, sows = module.block(parent=None), []

    def layer(carry: Any, params: PyTree, side: Any, key: jax.Array | None) -> Any:
        x, added = carry
        mask, positions = side
        rngs = {} if key is None else {"dropout": key}
        variables, inputs = {"params": params}, (x, mask)
        x, sown = block.apply(
            variables, *inputs, positions=positions, train=train, rngs=rngs, mutable=[LOSSES]
        )
        sows.extend(each := jax.tree.leaves(sown))
        return x, sum(each, start=added)

    def stage(params: PyTree, carry: Any, side: Any, key: jax.Array | None) -> Any:
        count = len(jax.tree.leaves(params)[0])
        keys = None if key is None else jax.random.split(key, count)

        def step(carry: Any, given: Any) -> Any:
            return layer(carry, given[0], side, given[1]), None

        return jax.lax.scan(step, carry, (params, keys))[0]

    key = module.make_rng("dropout") if train and module.has_rng("dropout") else None
    params = module.variables["params"][STACKED]
    carry, side = (x, jnp.zeros(len(x), jnp.float32)), (mask, positions)
    if free_axes(options["mesh"]).get(options["axis"], 1) == 1:
        run = jax.checkpoint(stage) if options["remat"] else stage
        x, added = run(params, carry, side, key)
    else:
        if options["micro_batches"] is None or not train:
            options["micro_batches"] = micro_batches_of(
                len(x), options["micro_batches"], options["mesh"], options["axis"]
            )
        x, added = gpipe(stage, params, carry, side, key, **options)
    if sows:
        module.sow(LOSSES, "blocks", added)
    return x
