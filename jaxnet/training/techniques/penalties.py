"""L1 and L2 penalties on the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxnet.errors import UsageError
from jaxnet.losses import widened
from jaxnet.metrics import Mean
from jaxnet.training.state import PyTree
from jaxnet.training.task import GradientTask
from jaxnet.training.techniques.chosen import KERNELS, chosen
from jaxnet.training.techniques.transforms import Technique, require_gradients


@dataclass(frozen=True)
class _Penalize(Technique):
    patterns: tuple[str, ...]
    l1: float
    l2: float

    def init(self, key, batch):
        state = self.task.init(key, batch)
        self._chosen(state.params)  # checks the patterns
        return state

    def objective(self, params, collections, batch, key):
        loss, aux = self.task.objective(params, collections, batch, key)
        penalty = self._penalty(params).astype(loss.dtype)
        before = aux.metrics.get("penalty", Mean(jnp.zeros_like(aux.weight), aux.weight, "min"))
        # Weighted like the loss, so that micro-batches of gradient accumulation sum to it.
        total = before.total + penalty.astype(aux.weight.dtype) * aux.weight
        metrics = {**aux.metrics, "penalty": Mean(total, aux.weight, "min")}
        return loss + penalty, replace(aux, metrics=metrics)

    def _penalty(self, params: PyTree) -> jax.Array:
        marked = jax.tree.leaves(self._chosen(params))
        chosen = [p for p, m in zip(jax.tree.leaves(params), marked, strict=True) if m]
        total = jnp.zeros((), jnp.float32)
        for weights in map(widened, chosen):
            if self.l1:
                total += (self.l1 * jnp.abs(weights).sum()).astype(total.dtype)
            if self.l2:
                total += (self.l2 * jnp.square(weights).sum()).astype(total.dtype)
        return total

    def _chosen(self, params: PyTree) -> PyTree:
        return chosen("a penalty pulls at", params, *self.patterns)


def penalize(task: GradientTask, *patterns: str, l1: float = 0.0, l2: float = 0.0) -> GradientTask:
    """Add `l1 * sum |w| + l2 * sum w^2` to the loss: lasso, ridge, or elastic net with both.

    Tibshirani (1996); Hoerl and Kennard (1970); Zou and Hastie (2005). The factors are those of
    Keras's `L1` and `L2`, relative to the MEAN loss of the batch. Equivalents in other libraries,
    for n training examples:

    | there | here |
    |---|---|
    | PyTorch's SGD, `weight_decay=d` | `l2=d/2`, on all parameters: `"**"` |
    | `MLPClassifier(alpha=a)` | `l2=a/(2n)` |
    | `LogisticRegression(C=c)`, `cross_entropy` | `l2=1/(2cn)` |
    | `Ridge(alpha=a)`, `squared_error` | `l2=a/n` |
    | `ElasticNet(alpha=a, l1_ratio=r)`, `squared_error` | `l1=2ar`, `l2=a(1-r)` |

    With adaptive optimizers this is not weight decay; `optimizers.by_name("adamw", ...)` is
    (Loshchilov and Hutter 2019). Under `l1`, gradient descent brings weights close to 0 but not to
    exactly 0.

    The reported `loss` excludes the penalty, so that training and validation losses compare; the
    history has it as `penalty`. Apply `freeze` after `penalize`, so that frozen weights are
    excluded from the penalty's gradient.

    Args:
        task: a task that learns by gradient descent.
        patterns: path patterns (`jaxnet.trees`); by default `"**/*kernel"`: the weights of dense,
            convolutional and attention layers and the input and recurrent weights of recurrent
            layers, but no biases, normalisation scales or embeddings.
        l1: at least 0.
        l2: at least 0.

    Raises:
        InputError: a pattern matches no parameter (when the state is initialised).
        UsageError: a factor is negative or not finite, or the task doesn't learn by gradient
            descent.
    """
    if not (0 <= l1 < math.inf and 0 <= l2 < math.inf):
        raise UsageError(f"penalize: expected l1 and l2 of at least 0, got l1={l1}, l2={l2}")
    if not (l1 or l2):
        return task
    require_gradients(task, "penalize")
    return _Penalize(task, patterns or (KERNELS,), l1, l2)
