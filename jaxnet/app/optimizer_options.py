"""The options of the optimizer, and the Optax transformation that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from jaxnet.options import (
    CHOSEN,
    Count,
    NeededWith,
    NotNegative,
    OnlyWith,
    OtherThan,
    Positive,
    Share,
)
from jaxnet.training.plateau import ReduceOnPlateau

if TYPE_CHECKING:
    import optax

PLATEAU = "plateau"
# Schedules that don't go by the number of steps in all.
_ANY_LENGTH = ("constant", PLATEAU, "step", "exponential", "piecewise")
# The optimizers that take an option, by their names in `jaxnet.optimizers`; a test compares.
WITH_MOMENTS = ("adam", "adamw", "nadam", "adamax", "lamb", "lion")
WITH_MASK = ("sgd", "momentum", "nesterov", "adamw", "lamb", "lion")
WITH_DECAY = (*WITH_MASK, "adadelta")
# Those that shrink weights by themselves.
DECAYING = ("adamw", "lion")

Moment = Annotated[Share | None, OnlyWith(name=WITH_MOMENTS)]
LearningRate = Annotated[Positive, OnlyWith(**{"optimizer.name": OtherThan("lbfgs")})]


@dataclass(frozen=True)
class Optimizer:
    """The update rule and its learning rate over time."""

    name: str = "adam"
    """sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, nadam, adamax,
    lamb, lion, or lbfgs, which searches for its step and takes no learning rate"""
    schedule: Annotated[str, OnlyWith(name=OtherThan("lbfgs"))] = "cosine"
    """the learning rate over the run: constant, cosine, warmup_cosine, one_cycle, step, piecewise,
    exponential, polynomial, or plateau: constant until the validation stops improving"""
    warmup_steps: Annotated[Count | None, NeededWith(schedule="warmup_cosine")] = None
    """warm-up steps"""
    transition_steps: Annotated[Count | None, NeededWith(schedule=("step", "exponential"))] = None
    """steps in which the learning rate decays by decay_rate"""
    decay_rate: Annotated[
        Positive | None, NeededWith(("step",), schedule=("step", "exponential"))
    ] = None
    """the decay factor; for step by default 0.1"""
    boundaries: Annotated[tuple[Count, ...], NeededWith(schedule="piecewise")] = ()
    """the steps at which the learning rate is divided by ten, such as 32000 48000"""
    weight_decay: Annotated[NotNegative | None, OnlyWith(name=WITH_DECAY)] = None
    """weight decay: decoupled for adamw, lamb and lion; added to the gradient for sgd, momentum and
    nesterov"""
    b1: Moment = None
    """decay rate of the first moment, beta 1"""
    b2: Moment = None
    """decay rate of the second moment, beta 2"""
    decay: Annotated[
        tuple[str, ...], OnlyWith(name=WITH_MASK), OnlyWith(name=DECAYING, weight_decay=CHOSEN)
    ] = ()
    """paths of the parameters that weight decay shrinks; by default all. '**/*kernel' is all
    kernels (dense, convolutional, attention, recurrent ones too), without biases, the scales of
    normalisation and embeddings"""
    plateau: Annotated[ReduceOnPlateau, OnlyWith(schedule=PLATEAU)] = ReduceOnPlateau()

    @property
    def any_length(self) -> bool:
        """Whether the learning rate is the same however many epochs there are to be."""
        return self.name == "lbfgs" or self.schedule in _ANY_LENGTH

    def build(self, learning_rate: float, steps: int) -> optax.GradientTransformation:
        """The Optax transformation for a run of `steps` steps."""
        from jaxnet import optimizers
        from jaxnet.training.techniques.chosen import chosen as matched

        def given(*names: str) -> dict[str, Any]:
            values = {name: getattr(self, name) for name in names}
            return {name: value for name, value in values.items() if value not in (None, ())}

        options = given("weight_decay", "b1", "b2")
        if self.decay:
            options["mask"] = lambda params: matched("weight decay shrinks", params, *self.decay)
        if self.name == "lbfgs":
            return optimizers.by_name(self.name, **options)
        course = "constant" if self.schedule == PLATEAU else self.schedule
        steps_and_rates = given("warmup_steps", "transition_steps", "decay_rate", "boundaries")
        rate = optimizers.schedule(course, learning_rate, steps, **steps_and_rates)
        return optimizers.by_name(self.name, rate, **options)

    def apply(self, task: Any) -> Any:
        """The task with what the schedule needs besides the optimizer."""
        from jaxnet.training import reduce_on_plateau

        return reduce_on_plateau(task, self.plateau) if self.schedule == PLATEAU else task
