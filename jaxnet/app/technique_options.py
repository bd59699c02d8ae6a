"""The options of what is done to images and to the task besides plain training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxnet.options import (
    CHOSEN,
    Count,
    NotNegative,
    OnlyWith,
    Positive,
    Probability,
    Range,
    Share,
)

if TYPE_CHECKING:
    from jaxnet.data.augmentation import Augmentation
    from jaxnet.training.task import Task


@dataclass(frozen=True)
class Augment:
    """How training images are varied; amounts are the most that is drawn, 0 is off."""

    auto: Annotated[bool, OnlyWith(data="cifar10")] = True
    """where nothing else is chosen, take what suits the data: for cifar10 crop 4 and flip"""
    flip: bool = False
    """flip left and right with probability 0.5"""
    flip_up_down: bool = False
    """flip upside down with probability 0.5"""
    crop: Annotated[int, Range()] = 0
    """pad by this number of pixels and crop at a random place"""
    reflect: Annotated[
        bool, OnlyWith(crop=CHOSEN, rotate=CHOSEN, translate=CHOSEN, zoom=CHOSEN, shear=CHOSEN)
    ] = False
    """pad with the mirrored image instead of zeros"""
    resized_crop: Probability = 0.0
    """random resized crop of at least this share of the area, such as 0.25"""
    rotate: NotNegative = 0.0
    """maximum angle of a random rotation, in degrees"""
    translate: NotNegative = 0.0
    """maximum random shift, as a share of height and width"""
    zoom: Share = 0.0
    """random zoom; 0.1: by factors from 0.9 to 1.1"""
    shear: NotNegative = 0.0
    """maximum angle of a random shear, in degrees"""
    brightness: NotNegative = 0.0
    """random brightness; 0.2: by factors from 0.8 to 1.2"""
    contrast: NotNegative = 0.0
    """random contrast, as brightness"""
    saturation: NotNegative = 0.0
    """random saturation, as brightness"""
    hue: Annotated[float, Range(0, 0.5, "both")] = 0.0
    """maximum random shift of the hue, as a share of the colour circle, at most 0.5"""
    grayscale: Probability = 0.0
    """probability of conversion to greyscale"""
    noise: NotNegative = 0.0
    """standard deviation of Gaussian noise, in units of the data (8-bit images: 0 to 255)"""
    cutout: Annotated[int, Range()] = 0
    """cutout: the side of the square that is hidden, in pixels"""
    erase: Probability = 0.0
    """random erasing: the probability that a rectangle is hidden"""
    mixup: NotNegative = 0.0
    """mixup: alpha of the beta distribution, such as 0.2"""
    cutmix: NotNegative = 0.0
    """CutMix: alpha of the beta distribution, such as 1; alternates with mixup"""

    def suited(self, usual: Augment | None) -> Augment:
        """`usual`, what suits the data, where nothing was chosen and that is wanted."""
        return usual if usual is not None and self.auto and not self.functions() else self

    def functions(self) -> tuple[Augmentation, ...]:
        """What was chosen, in the order in which it is applied."""
        from jaxnet.data import augmentation as aug

        border = "reflect" if self.reflect else "zero"
        affine = {"rotation": self.rotate, "translation": self.translate, "zoom": self.zoom}
        affine["shear"] = self.shear
        mixing = [
            make(alpha)
            for make, alpha in ((aug.mixup, self.mixup), (aug.cutmix, self.cutmix))
            if alpha
        ]
        chosen = (
            (self.flip, aug.flip_left_right),
            (self.flip_up_down, aug.flip_up_down),
            (self.crop, lambda: aug.crop(self.crop, border)),
            (self.resized_crop, lambda: aug.resized_crop((self.resized_crop, 1.0))),
            (any(affine.values()), lambda: aug.affine(**affine, border=border)),
            (self.brightness, lambda: aug.brightness(self.brightness)),
            (self.contrast, lambda: aug.contrast(self.contrast)),
            (self.saturation, lambda: aug.saturation(self.saturation)),
            (self.hue, lambda: aug.hue(self.hue)),
            (self.grayscale, lambda: aug.grayscale(self.grayscale)),
            (self.noise, lambda: aug.gaussian_noise(self.noise)),
            (self.cutout, lambda: aug.cutout(self.cutout)),
            (self.erase, lambda: aug.erase(self.erase)),
            (mixing, lambda: aug.one_of(*mixing)),
        )
        return tuple(make() for wanted, make in chosen if wanted)

    def apply(self, task: Any) -> Any:
        """The task with these augmentations."""
        from jaxnet.training import augment

        return augment(task, *self.functions())


@dataclass(frozen=True)
class Techniques:
    """What is done to the task besides plain training."""

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """the type in which the network computes, of its weights and of what runs through it; the
    precision of products of float32 numbers is another thing: --matmul-precision"""
    accumulate: Count = 1
    """gradient accumulation steps per batch, to save memory"""
    clip: Positive | None = None
    """clip gradients to this global norm"""
    clip_values: Positive | None = None
    """clip each element of the gradients to this value"""
    rates: dict[str, Positive] = field(default_factory=dict)
    """learning-rate factors by parameter path, such as 'Conv_0/**' 0.1"""
    ema: Share | None = None
    """evaluate an exponential moving average of the weights with this decay, such as 0.999"""
    l1: NotNegative = 0.0
    """L1 regularisation of all kernels (parameters '**/*kernel': dense, convolutional, attention,
    recurrent), not of biases and embeddings"""
    l2: NotNegative = 0.0
    """add so much times the sum of the squared weights to the loss: of the same"""
    freeze: tuple[str, ...] = ()
    """paths of parameters to freeze, such as 'Conv_0/**'"""
    remat: bool = False
    """rematerialise activations in the backward pass (gradient checkpointing), to save memory"""
    local_sgd_replicas: Count = 1
    """local SGD: the number of replicas, each of which trains on its shard of every batch"""
    local_sgd_period: Annotated[Count, OnlyWith(local_sgd_replicas=CHOSEN)] = 16
    """local SGD: steps between averages of the replicas"""
    norms: bool = False
    """log and plot the norms of each layer's gradients and activations"""
    nonfinite: Literal["ignore", "stop", "skip", "raise"] = "stop"
    """what to do with a step whose loss or gradient isn't finite"""

    def apply(self, task: Any) -> Task[Any]:
        """The task with these techniques around it.

        Raises:
            UsageError: the task can't take one of them.
        """
        from jaxnet.training.techniques import (
            ema,
            freezing,
            guard,
            local_sgd,
            norms,
            penalties,
            transforms,
            updates,
        )

        task = transforms.mixed_precision(task, self.precision)
        task = penalties.penalize(task, l1=self.l1, l2=self.l2)
        if self.clip is not None:
            task = transforms.clip(task, self.clip)
        if self.clip_values is not None:
            task = updates.clip_values(task, self.clip_values)
        if self.rates:
            task = updates.scale_by_path(task, self.rates)
        if self.freeze:
            task = freezing.freeze(task, *self.freeze)
        if self.remat:
            task = transforms.remat(task)
        task = transforms.accumulate(task, self.accumulate)
        if self.norms:
            task = norms.log_norms(task)
        if self.ema is not None:
            task = ema.with_ema(task, self.ema)
        task = local_sgd.local_sgd(task, self.local_sgd_replicas, self.local_sgd_period)
        if self.nonfinite == "ignore":
            return task
        return guard.guard_nonfinite(task, self.nonfinite)
