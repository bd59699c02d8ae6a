"""One training step twice: as a compiled program, and op by op.

The same arithmetic in another order rounds differently, so that equal bits aren't to be expected.
What differs by more than half of the digits of the type in which it is computed was computed wrong
by one of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import numerics, trees
from jaxnet.training.network import Precision
from jaxnet.training.programs import compiled
from jaxnet.training.state import TrainState, stream
from jaxnet.training.task import Batch, GradientTask, Task
from jaxnet.training.techniques.guard import WholeStep

PyTree = Any
T = TypeVar("T")

# Gradients of this share of the largest one are rounding, such as those of a bias before a norm.
LITTLE = 1e-3
# An optimizer that divides by the gradient's own size turns the rounding of gradients near 0 into
# whole steps: so updates are compared as vectors, and wrong ones are as long as they are apart.
UPDATE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Stage:
    """A part of the step that both computed.

    Attributes:
        name: `"the layer Dense_0"`, `"the gradient of Dense_0/kernel"`.
        apart: the largest difference, relative to the largest value; infinite where one of the two
            has a NaN.
        tolerance: what counts as rounding.
    """

    name: str
    apart: float
    tolerance: float

    @property
    def differs(self) -> bool:
        """Whether it is more than rounding."""
        return not self.apart <= self.tolerance


def compare(task: Task[Any], state: Any, batch: Batch) -> tuple[Stage, ...]:
    """What a step computes, in its order: layers, loss, gradients, the update.

    Args:
        task: with all its techniques; the layers and gradients of one with a step of its own, such
            as a GAN's, can't be told apart.
        state: before the step.
        batch: a batch of it.
    """
    inner = task
    while isinstance(inner, WholeStep):
        inner = inner.task
    tolerance = rounding(task, state)
    stages: list[Stage] = []
    if isinstance(inner, GradientTask) and isinstance(state, TrainState):
        stages += _layers(inner, state, batch, tolerance)
        stages += _gradients(inner, state, batch, tolerance)
    return (*stages, *_whole(task, state, batch, tolerance))


def rounding(task: Any, state: Any) -> float:
    """Half of the digits of the type in which a task computes."""
    types: dict[Precision, Any] = {"bf16": jnp.bfloat16, "fp16": jnp.float16}
    try:
        precision: Precision = task.inference(state).network.precision
    except (AttributeError, TypeError):  # a task with several networks, or none
        precision = "float32"
    epsilons = [float(jnp.finfo(types.get(precision, jnp.float32)).eps)]
    if numerics.in_force() != "highest":
        epsilons.append({"tf32": 2.0**-10, "bf16": 2.0**-7}.get(str(numerics.in_force()), 2.0**-7))
    return max(epsilons) ** 0.5


def _both(function: Callable[..., T], *arguments: Any) -> tuple[T, T]:
    """What a function gives as a program, and op by op."""
    program = jax.device_get(compiled(function)(*arguments))
    with jax.disable_jit():
        return program, jax.device_get(function(*arguments))


def _layers(
    task: GradientTask, state: TrainState, batch: Batch, tolerance: float
) -> Iterator[Stage]:
    names: list[str] = []
    key = stream(state.key, "objective", state.step)

    def outputs(state: TrainState, batch: Batch) -> list[PyTree]:
        network = task.inference(state).network
        inputs = task.network_inputs(task.prepare(state, batch))
        seen = network.layers({"params": state.params, **state.collections}, inputs, key)
        seen = [(name, output) for name, output in seen if not name.startswith("the input of")]
        names[:] = [name for name, _ in seen]
        return [output for _, output in seen]

    for name, program, plain in zip(names, *_both(outputs, state, batch), strict=False):
        yield Stage(f"the layer {name}", apart(program, plain), tolerance)


def _gradients(
    task: GradientTask, state: TrainState, batch: Batch, tolerance: float
) -> Iterator[Stage]:
    def gradients(state: TrainState, batch: Batch) -> PyTree:
        return task.gradients(task.objective, state, task.prepare(state, batch))[0]

    program, plain = _both(gradients, state, batch)
    named = trees.named(plain)
    least = LITTLE * max((_largest(leaf) for leaf in named.values()), default=0.0)
    # Backward, so that the layer next to the loss comes first.
    for name, leaf in reversed(trees.named(program).items()):
        yield Stage(f"the gradient of {name}", apart(leaf, named[name], least), tolerance)


def _whole(task: Task[Any], state: Any, batch: Batch, tolerance: float) -> Iterator[Stage]:
    (after, metrics), (plain_after, plain_metrics) = _both(task.train_step, state, batch)
    for name, plain in trees.named(plain_metrics).items():
        yield Stage(f"the metric {name}", apart(trees.named(metrics)[name], plain), tolerance)
    before, moved, plain = (
        trees.named(getattr(each, "params", each))
        for each in (jax.device_get(state), after, plain_after)
    )
    for name, start in before.items():
        if jnp.issubdtype(start.dtype, jnp.floating):
            update, plain_update = (_exact(x[name]) - _exact(start) for x in (moved, plain))
            size = max(float(np.linalg.norm(plain_update)), 1e-30)
            moved_apart = float(np.linalg.norm(update - plain_update)) / size
            yield Stage(f"the update of {name}", _number(moved_apart), UPDATE_TOLERANCE)


def apart(program: PyTree, plain: PyTree, least: float = 0.0) -> float:
    """The largest difference between the leaves of two trees, relative to a leaf's largest value.

    Args:
        program: arrays.
        plain: arrays of the same shapes; a NaN in one of the two is an infinite difference.
        least: what a leaf's largest value counts as, at least.

    Example:
        >>> apart([np.array([1.0, 4.5])], [np.array([1.0, 5.0])])
        0.1
    """
    pairs = zip(jax.tree.leaves(program), jax.tree.leaves(plain), strict=True)
    return max((_leaf_apart(_exact(x), _exact(y), least) for x, y in pairs), default=0.0)


def _leaf_apart(program: np.ndarray, plain: np.ndarray, least: float) -> float:
    if program.shape != plain.shape or not program.size:
        return 0.0 if program.shape == plain.shape else float("inf")
    same = (program == plain) | (np.isnan(program) & np.isnan(plain))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(program - plain)).max()
    return _number(float(difference) / max(_largest(plain), least, 1e-30))


def _largest(array: np.ndarray) -> float:
    finite = np.abs(_exact(array))
    return float(finite[np.isfinite(finite)].max(initial=0.0))


def _exact(array: Any) -> np.ndarray:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array).astype(np.float64)


def _number(difference: float) -> float:
    return float("inf") if np.isnan(difference) else difference
