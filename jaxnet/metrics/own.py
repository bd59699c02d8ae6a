"""Metrics as users write them: what they may take and give, and which way they get better.

A metric of one's own takes `(outputs, labels)` or `(outputs, labels, weights)`, in jax.numpy, and
gives one of three things:

    (B,)            one number an example. Its mean is reported, weighted by the examples' weights;
                    rows of padding have weight 0.
    one number      the mean over the examples of a batch, as `jnp.mean` gives it. It is computed
                    example by example, so that weights and padding count as above. What isn't a
                    mean over examples (a root, a correlation) is refused: a mean over batches of it
                    isn't its value over the data.
    sums            a pytree with a method `compute`, such as `Score`, for all else.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import UsageError
from jaxnet.metrics.direction import Direction
from jaxnet.metrics.sums import Mean, Score, Sums

Own = Callable[..., Any]
T = TypeVar("T", bound=Own)

# A third argument of these names takes the weights even where it may be left out.
_WEIGHTS = ("weights", "weight", "sample_weight")
# The examples on which a metric is tried, and how near to equal is equal.
_TRIED, _NEAR = 4, 1e-3


@dataclass(frozen=True)
class Adapted:
    """A metric of one's own as a function of outputs, labels and weights to sums.

    Attributes:
        metric: see the module.
        name: what to call it in messages.
    """

    metric: Own
    name: str

    def __call__(self, outputs: Any, labels: Any, weights: Any) -> Sums:
        """The sums of a batch."""
        call = _three_arguments(self.metric, self.name)
        outputs, labels, weights = jax.tree.map(jnp.asarray, (outputs, labels, weights))
        value = _traced(self.name, call, outputs, labels, weights)
        better = getattr(self.metric, "better", None)
        if isinstance(value, Mean | Score):
            return replace(value, better=better or value.better)
        if isinstance(value, Sums):
            return value
        array = jnp.asarray(value)
        if array.shape == jnp.shape(weights):
            return Mean.of(array, weights, better)
        if array.ndim:
            raise UsageError(
                f"metric {self.name!r} gave an array of shape {list(array.shape)} for "
                f"{len(weights)} examples: expected one number an example, (B,), or one number, or "
                "sums (jaxnet.metrics.Score)"
            )
        _check_mean(self.name, call, outputs, labels)
        return Mean.of(_each(call, outputs, labels), weights, better)


def larger_is_better(metric: T) -> T:
    """Declare that a metric of one's own should grow, so that early stopping needs no `mode`.

    Example:
        >>> @larger_is_better
        ... def likeness(outputs, labels):
        ...     return jnp.exp(-jnp.abs(outputs[:, 0] - labels))
        >>> likeness.better
        'max'
    """
    return _declared(metric, "max")


def smaller_is_better(metric: T) -> T:
    """Declare that a metric of one's own should shrink; see `larger_is_better`."""
    return _declared(metric, "min")


def adapted(name: str, metric: Own) -> Own:
    """The metric `name` in the library's form, `(outputs, labels, weights) -> sums`.

    Args:
        name: what it is reported as.
        metric: a function as the module says.

    Raises:
        UsageError: the function can't be one.

    Example:
        >>> error = adapted("off", lambda outputs, labels: jnp.abs(outputs - labels).mean())
        >>> error(jnp.array([1.0, 3.0, 9.0]), jnp.zeros(3), jnp.array([1.0, 1.0, 0.0])).compute()
        2.0
    """
    if isinstance(metric, Adapted):
        return metric
    if not callable(metric):
        raise UsageError(
            f"metric {name!r}: expected a function of (outputs, labels) or the name of a metric, "
            f"got {metric!r}"
        )
    return Adapted(metric, name)


def _declared(metric: Own, better: Direction) -> Any:
    # Not the function itself, which may be somebody else's.
    @functools.wraps(metric)
    def same(*arguments: Any, **options: Any) -> Any:
        return metric(*arguments, **options)

    setattr(same, "better", better)  # noqa: B010, which pyright knows nothing of
    return same


def _three_arguments(metric: Own, name: str) -> Own:
    """The metric as a function of outputs, labels and weights."""
    try:
        parameters = list(inspect.signature(metric).parameters.values())
    except (TypeError, ValueError):  # a builtin, which says nothing of itself
        return metric
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in places if p.default is p.empty]
    every = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    missing = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(needed) == 3 or every or (len(places) >= 3 and places[2].name in _WEIGHTS):
        return metric
    if len(needed) <= 2 <= len(places) and not missing:
        return lambda outputs, labels, weights: metric(outputs, labels)
    raise UsageError(
        f"metric {name!r} takes ({', '.join(p.name for p in parameters)}): expected (outputs, "
        "labels) or (outputs, labels, weights); give options with functools.partial"
    )


def _traced(name: str, call: Own, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        raise UsageError(
            f"metric {name!r} is a part of the compiled step, in which there are no values yet, "
            "and NumPy, scikit-learn and Python's own numbers can't be used: write it with "
            f"jax.numpy, or measure the outputs of Trainer.predict. {error}"
        ) from error


def _each(call: Own, outputs: Any, labels: Any) -> jax.Array:
    """(B,), a metric of one number for each example by itself."""

    def one(output: Any, label: Any) -> jax.Array:
        row = jax.tree.map(lambda leaf: leaf[None], (output, label))
        return jnp.asarray(call(*row, jnp.ones(1)))

    return jax.vmap(one)(outputs, labels)


def _check_mean(name: str, call: Own, outputs: Any, labels: Any) -> None:
    """Raise `UsageError` where a metric of one number isn't the mean over its examples.

    It is tried on numbers at random, of the shapes at hand.
    """
    random = np.random.default_rng(0)
    fits = False
    for draw in (random.normal, functools.partial(random.uniform, 0.2, 0.8)):
        # The values are wanted here, while the step around this is being traced.
        with jax.ensure_compile_time_eval():
            tried = functools.partial(_tried, outputs=outputs, draw=draw, random=random)
            made = jax.tree.map(tried, outputs), jax.tree.map(tried, labels)
            whole = float(call(*made, jnp.ones(_TRIED)))
            mean = float(jnp.mean(_each(call, *made).astype(jnp.float32)))
        if np.isfinite(whole):
            fits = bool(np.isclose(whole, mean, rtol=_NEAR, atol=_NEAR))
            if not fits:
                break
    if not fits:
        raise UsageError(
            f"metric {name!r} gives one number for a batch that isn't the mean over its examples, "
            "so that what it gives for batches can't be put together for all data. Let it return "
            "one number an example, (B,), or sums and a formula (jaxnet.metrics.Score), or take "
            "one by name (jaxnet.metrics.METRICS)"
        )


def _tried(leaf: Any, outputs: Any, draw: Callable[..., Any], random: Any) -> jax.Array:
    """Random numbers in the shape of a leaf of outputs or labels, for a few examples."""
    shape = (_TRIED, *leaf.shape[1:])
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.asarray(draw(size=shape), leaf.dtype)
    first = jax.tree.leaves(outputs)[0]
    classes = first.shape[-1] if first.ndim == leaf.ndim + 1 and first.shape[-1] > 1 else 2
    return jnp.asarray(random.integers(0, classes, shape), leaf.dtype)
