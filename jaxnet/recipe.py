"""The parts of a configuration that every entrypoint shares, and what they build.

Plain frozen dataclasses whose fields are numbers and names; JAX is imported when something is
built.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import optax

    from jaxnet.training.task import GradientTask, Task


@dataclass(frozen=True)
class Optimizer:
    """The update rule and its learning rate over time."""

    name: str = "adam"
    """sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, nadam, adamax,
    lamb or lion"""
    schedule: str = "cosine"
    """the learning rate over the run: constant, cosine, warmup_cosine, one_cycle, step"""
    weight_decay: float | None = None
    """decoupled weight decay, for the optimizers that have it (adamw, lamb, lion)"""

    def build(self, learning_rate: float, steps: int) -> optax.GradientTransformation:
        """The Optax transformation for a run of `steps` steps."""
        from jaxnet import optimizers

        rate = optimizers.schedule(self.schedule, learning_rate, steps)
        options = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
        return optimizers.by_name(self.name, rate, **options)


@dataclass(frozen=True)
class Techniques:
    """What is done to the task besides plain training."""

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """the type in which the network computes"""
    accumulate: int = 1
    """compute the gradient of a batch in so many parts, to save memory"""
    clip: float | None = None
    """scale the gradient down to this global norm"""
    ema: float | None = None
    """evaluate with a moving average of the weights of this decay, such as 0.999"""
    freeze: tuple[str, ...] = ()
    """paths of parameters to keep as they are, such as 'Conv_0/**'"""
    remat: bool = False
    """keep no activations for the backward pass, to save memory"""
    nonfinite: Literal["ignore", "stop", "skip", "raise"] = "stop"
    """what to do with a step that gives a NaN or an infinity"""

    def apply(self, task: GradientTask) -> Task[Any]:
        """The task with these techniques around it."""
        from jaxnet.training import guard, transforms

        task = transforms.mixed_precision(task, self.precision)
        if self.clip is not None:
            task = transforms.clip(task, self.clip)
        if self.freeze:
            task = transforms.freeze(task, *self.freeze)
        if self.remat:
            task = transforms.remat(task)
        task = transforms.accumulate(task, self.accumulate)
        if self.ema is not None:
            task = transforms.with_ema(task, self.ema)
        if self.nonfinite == "ignore":
            return task
        return guard.guard_nonfinite(task, self.nonfinite)


@dataclass(frozen=True)
class Saving:
    """How often checkpoints are written."""

    keep: int = 2
    """the number of newest checkpoints to keep, besides the best one"""
    every_steps: int | None = None
    """save after so many steps too, and not only after epochs"""

    def options(self) -> dict[str, Any]:
        """The fields, as arguments of `Checkpoints`."""
        return asdict(self)
