"""The parts of a configuration that every entrypoint shares, and what they build.

Plain frozen dataclasses whose fields are numbers and names; JAX is imported when something is
built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar

from jaxnet import numerics
from jaxnet.errors import UsageError
from jaxnet.names import lookup
from jaxnet.options import (
    CHOSEN,
    TOP,
    Count,
    NeededWith,
    NotNegative,
    OnlyWith,
    OtherThan,
    Positive,
    Probability,
    Range,
    Share,
    check_ranges,
)
from jaxnet.training.early_stopping import EarlyStopping
from jaxnet.training.plateau import ReduceOnPlateau

if TYPE_CHECKING:
    import optax

    from jaxnet.data import Table
    from jaxnet.data.augmentation import Augmentation
    from jaxnet.data.images.by_name import ImageParts
    from jaxnet.data.tables.column_kinds import Kind
    from jaxnet.data.tables.table import TargetKind
    from jaxnet.parallel import layout
    from jaxnet.training.task import Task


T = TypeVar("T")

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
    """how many steps the learning rate goes up"""
    transition_steps: Annotated[Count | None, NeededWith(schedule=("step", "exponential"))] = None
    """the learning rate falls by decay_rate in so many steps"""
    decay_rate: Annotated[
        Positive | None, NeededWith(("step",), schedule=("step", "exponential"))
    ] = None
    """the factor by which it falls; for step by default 0.1"""
    boundaries: Annotated[tuple[Count, ...], NeededWith(schedule="piecewise")] = ()
    """the steps from which on the learning rate is a tenth of before, such as 32000 48000"""
    weight_decay: Annotated[NotNegative | None, OnlyWith(name=WITH_DECAY)] = None
    """weight decay: decoupled for adamw, lamb and lion; added to the gradient for sgd, momentum and
    nesterov"""
    b1: Moment = None
    """decay of the mean of the gradients"""
    b2: Moment = None
    """decay of the mean of their squares"""
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


@dataclass(frozen=True)
class Augment:
    """How training images are varied; amounts are the most that is drawn, 0 is off."""

    auto: Annotated[bool, OnlyWith(data="cifar10")] = True
    """where nothing else is chosen, take what suits the data: for cifar10 crop 4 and flip"""
    flip: bool = False
    """mirror left and right, one time in two"""
    flip_up_down: bool = False
    """turn upside down, one time in two"""
    crop: Annotated[int, Range()] = 0
    """pad by so many pixels and cut out at a random place"""
    reflect: Annotated[
        bool, OnlyWith(crop=CHOSEN, rotate=CHOSEN, translate=CHOSEN, zoom=CHOSEN, shear=CHOSEN)
    ] = False
    """what lies beyond the image is its mirror image, and not zeros"""
    resized_crop: Probability = 0.0
    """cut out a rectangle of at least this share of the area, such as 0.25, and stretch it"""
    rotate: NotNegative = 0.0
    """degrees"""
    translate: NotNegative = 0.0
    """share of the image's height and width"""
    zoom: Share = 0.0
    """0.1: by factors from 0.9 to 1.1"""
    shear: NotNegative = 0.0
    """degrees"""
    brightness: NotNegative = 0.0
    """0.2: by factors from 0.8 to 1.2"""
    contrast: NotNegative = 0.0
    """as brightness"""
    saturation: NotNegative = 0.0
    """as brightness"""
    hue: Annotated[float, Range(0, 0.5, "both")] = 0.0
    """share of the colour circle, at most 0.5"""
    grayscale: Probability = 0.0
    """probability of losing the colour"""
    noise: NotNegative = 0.0
    """standard deviation, in units of the data (for 8-bit images 0 to 255)"""
    cutout: Annotated[int, Range()] = 0
    """hide a square of so many pixels"""
    erase: Probability = 0.0
    """probability of hiding a random rectangle"""
    mixup: NotNegative = 0.0
    """alpha of mixing two examples, such as 0.2"""
    cutmix: NotNegative = 0.0
    """alpha of pasting a part of another example, such as 1; with mixup they take turns"""

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
    """compute the gradient of a batch in so many parts, to save memory"""
    clip: Positive | None = None
    """scale the gradient down to this global norm"""
    clip_values: Positive | None = None
    """cut each element of the gradient off here"""
    rates: dict[str, Positive] = field(default_factory=dict)
    """factors on the learning rate by path, such as 'Conv_0/**' 0.1"""
    ema: Share | None = None
    """evaluate with a moving average of the weights of this decay, such as 0.999"""
    l1: NotNegative = 0.0
    """add so much times the sum of the absolute weights to the loss: of all kernels (parameters
    '**/*kernel': dense, convolutional, attention, recurrent), not of biases and embeddings"""
    l2: NotNegative = 0.0
    """add so much times the sum of the squared weights to the loss: of the same"""
    freeze: tuple[str, ...] = ()
    """paths of parameters to keep as they are, such as 'Conv_0/**'"""
    remat: bool = False
    """keep no activations for the backward pass, to save memory"""
    local_sgd_replicas: Count = 1
    """so many replicas learn by themselves, each from its part of every batch, and are averaged"""
    local_sgd_period: Annotated[Count, OnlyWith(local_sgd_replicas=CHOSEN)] = 16
    """the steps from one average of the replicas to the next"""
    norms: bool = False
    """log the norms of each layer's gradient and activations, and draw them"""
    nonfinite: Literal["ignore", "stop", "skip", "raise"] = "stop"
    """what to do with a step that gives a NaN or an infinity"""

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


@dataclass(frozen=True)
class Numerics:
    """How JAX computes."""

    matmul_precision: numerics.MatmulPrecision | None = None
    """the precision of matrix products of float32 numbers: highest is float32, tf32 has 11 bits in
    the place of 24, bf16 has 8; by default the device chooses. On NVIDIA's GPUs from Ampere on JAX
    takes TF32, and PyTorch doesn't; processors always take float32. The type in which the network
    computes is another thing: --techniques.precision"""
    deterministic: bool = False
    """give the same bits each time on GPUs too, more slowly; sets XLA's flag
    xla_gpu_deterministic_ops before JAX starts. Operations that can't are refused"""

    def start(self) -> None:
        """Set this process up, before JAX starts; see `jaxnet.numerics.start`."""
        numerics.start(self.matmul_precision, self.deterministic)

    def check(self) -> None:
        """Refuse a process that computes otherwise; see `jaxnet.numerics.check_started`."""
        numerics.check_started(self.matmul_precision, self.deterministic)


# The prefix of nested options is left out: --deterministic.
AtTheTop = Annotated[Numerics, TOP]


class _HasNumerics(Protocol):
    @property
    def numerics(self) -> Numerics: ...


Configured = TypeVar("Configured", bound=_HasNumerics)


def started(config: Configured) -> Configured:
    """The configuration of a command, when this process was set up to compute as it says."""
    config.numerics.start()
    return config


@dataclass(frozen=True)
class Saving:
    """How often checkpoints are written."""

    keep: Count = 2
    """the number of newest checkpoints to keep, and with each the one that was the best by then"""
    every_steps: Count | None = None
    """save after so many steps too, and not only after epochs"""
    min_seconds: NotNegative = 5.0
    """after an epoch, save only where the last save is older than this"""

    def options(self) -> dict[str, Any]:
        """The fields, as arguments of `Checkpoints`."""
        return asdict(self)


@dataclass(frozen=True)
class Layout:
    """On how many devices to train: the product of the axes; -1 for one takes all that are left."""

    data: int = 1
    """the examples of a batch"""
    fsdp: int = 1
    """the examples too, and parameters, gradients and optimizer state"""
    tensor: int = 1
    """heads of attention, hidden units and the vocabulary, by the rules of the model"""
    stage: int = 1
    """the blocks of a transformer, one part after the other"""
    sequence: int = 1
    """the tokens of each example, which attend in a ring"""
    expert: int = 1
    """the examples too, and the experts of mixtures"""
    fsdp_min_size: Annotated[int, OnlyWith(fsdp=CHOSEN)] = 2**14
    """fsdp leaves parameters with fewer elements whole"""
    micro_batches: Annotated[Count | None, OnlyWith(stage=CHOSEN)] = None
    """into how many parts a batch is cut; by default up to four for each stage"""
    whole: Annotated[
        tuple[str, ...], OnlyWith(fsdp=CHOSEN, tensor=CHOSEN, stage=CHOSEN, expert=CHOSEN)
    ] = ()
    """paths of parameters to leave whole whatever the model's rules say, such as
    '**/embedding'"""

    def build(self, task: Any) -> layout.Layout:
        """The layout of a run, with the rules of the models in the task.

        Where several processes train together and nothing is chosen, they share out each batch.

        Raises:
            UsageError: an impossible size, or `tensor` and no rules.
        """
        from jaxnet.cluster import processes
        from jaxnet.parallel.axes import AXES
        from jaxnet.parallel.layout import Layout
        from jaxnet.parallel.model_rules import family_rules, model_files

        options = asdict(self)
        if processes.several() and Layout(**{axis: options[axis] for axis in AXES}).one_device:
            options["data"] = -1
        whole: tuple[Any, ...] = tuple((pattern, ()) for pattern in options.pop("whole"))
        rules = family_rules(task)
        if self.tensor != 1 and not rules:
            raise UsageError(
                f"layout: tensor={self.tensor} cuts what rules say, and "
                f"{' and '.join(model_files(task)) or 'this network'} ends without any: leave out "
                "the axis (--layout.tensor 1), or give the file SHARDING = ((pattern, axes), ...)"
            )
        return Layout(**options, rules=(*whole, *rules))


@dataclass(frozen=True)
class Tables:
    """What the columns of a table are, where that isn't recognised, and how they are written."""

    numbers: tuple[str, ...] = ()
    """columns to take for numbers"""
    categories: tuple[str, ...] = ()
    """columns to take for categories"""
    dates: tuple[str, ...] = ()
    """columns to take for dates"""
    drop: tuple[str, ...] = ()
    """columns to leave out"""
    gaps: tuple[str, ...] = ()
    """words that stand for a missing value, such as '?' or -999"""
    decimal: str = "."
    """what stands for the decimal point: . or ,"""
    thousands: str | None = None
    """what stands between groups of digits, such as , in 10,251"""
    units: tuple[str, ...] = ()
    """signs and words beside numbers that are taken away, such as '$', % or kg"""
    date_format: str | None = None
    """how dates are written, such as %d.%m.%Y; 2024-05-31 is always understood"""
    encoding: str | None = None
    """that of a CSV file which isn't in UTF-8, such as cp1252 or latin-1"""

    def read(self, path: Path | None, target: str | None, target_kind: TargetKind) -> Table:
        """The table of a CSV or Parquet file; prints what became of its columns.

        Raises:
            UsageError: the file, or the column to predict, wasn't said.
            InputError: the file can't be read, or isn't what was said of it.
        """
        from jaxnet.data import read_table

        if path is None:
            raise UsageError("--data csv needs --data-dir, a CSV or Parquet file")
        if target is None:
            raise UsageError(f"{path}: say which column to predict, with --target COLUMN")
        kinds: dict[str, Kind] = {
            **dict.fromkeys(self.numbers, "number"),
            **dict.fromkeys(self.categories, "category"),
            **dict.fromkeys(self.dates, "date"),
            **dict.fromkeys(self.drop, "drop"),
        }
        table = read_table(
            path,
            target,
            kinds=kinds,
            target_kind=target_kind,
            gaps=self.gaps,
            decimal=self.decimal,
            thousands=self.thousands,
            units=self.units,
            date_format=self.date_format,
            encoding=self.encoding,
        )
        print(table.describe())
        return table


# What data of one's own is called, by the endings of its files.
OWN = {".csv": "csv", ".parquet": "csv", ".pq": "csv", ".txt": "text", ".tsv": "lines"}


def lookup_data(name: str, known: Mapping[str, T]) -> T:
    """The entry of `known` for the data called `name`.

    Raises:
        UsageError: nothing is called so. A file in the place of the name is told where it goes.

    Example:
        >>> lookup_data("csv", {"csv": 1, "digits": 2})
        1
    """
    path = Path(name)
    if name in known or not (path.suffix or path.name != name or path.exists()):
        return lookup(name, known, "data")
    kind = OWN.get(path.suffix, "folder")
    kinds = [kind] if kind in known else [k for k in (*OWN.values(), "folder") if k in known]
    shown = " or ".join(f"--data {kind} --data-dir {name}" for kind in dict.fromkeys(kinds))
    raise UsageError(
        f"--data says what kind of data it is, and --data-dir where: {shown or ', '.join(known)}"
    )


@dataclass(frozen=True)
class Run:
    """What to train on, for how long, and where the results go."""

    data: str = ""
    """the name of the data"""
    data_dir: Path | None = None
    """the folder of the data's files, or the file itself"""
    model: str | None = None
    """the name of the model"""
    epochs: Count = 40
    """how often to go through the training data, at most"""
    batch_size: Count = 32
    """examples a step"""
    eval_batch_size: Count | None = None
    """examples at a time in evaluation and prediction, which decide the memory and the speed; by
    default 256, or fewer where these would take more memory than training does"""
    learning_rate: LearningRate = 3e-3
    """the largest learning rate"""
    seed: Annotated[int, Range()] = 0
    """of the split, the weights, the order of the data and dropout"""
    run_dir: Path | None = None
    """where to put the results; by default runs/DATA-MODEL-seedSEED, with the target's name after
    the data's for a table of your own, and a number at the end where another run has that name"""
    resume: bool = True
    """go on with a run that was cut short in this folder"""
    progress: bool = True
    """show a progress bar"""
    numerics: AtTheTop = Numerics()
    optimizer: Optimizer = Optimizer()
    techniques: Techniques = Techniques()
    early_stopping: EarlyStopping = EarlyStopping(monitor="val_loss", patience=10)
    checkpoints: Saving = Saving()
    layout: Layout = Layout()

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.layout.stage != 1 and self.optimizer.name == "lamb":
            raise UsageError(
                "lamb scales the step of each parameter by its norm, and in stages those of all "
                "blocks are one: take another optimizer (--optimizer.name), or leave out the "
                "stages (--layout.stage 1)"
            )

    def named_by(self) -> tuple[str, ...]:
        """What the default run folder is called by: the data, or the file where it is your own."""
        if self.data in OWN_DATA and self.data_dir is not None:
            return (self.data_dir.resolve().stem,)
        return (self.data,)

    def optimizer_for(self, examples: int) -> optax.GradientTransformation:
        """The optimizer of a run over so many training examples."""
        return self.optimizer.build(self.learning_rate, self.steps_for(examples))

    def steps_for(self, examples: int) -> int:
        """The steps of a run over so many training examples, at most."""
        return self.epochs * -(-examples // self.batch_size)


# The image data that lies in files.
IMAGE_FILES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "folder")
IMAGES = ("digits", *IMAGE_FILES)
ImageSize = Annotated[Count | None, OnlyWith(data="folder")]


@dataclass(frozen=True)
class ImageRun(Run):
    """A run over images whose classes don't matter."""

    data: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, cifar100, or folder for images of your own in a
    sub-folder for each class"""
    data_dir: Annotated[Path | None, OnlyWith(data=IMAGE_FILES)] = None
    """the folder of the data's files; by default what JAXNET_DATA_DIR holds, or else the original
    images are downloaded"""
    image_size: ImageSize = None
    """height and width to which images are resized, if they aren't all of one size"""

    def __post_init__(self) -> None:
        super().__post_init__()
        lookup_data(self.data, dict.fromkeys(IMAGES))

    def read(self) -> ImageParts:
        """The images; errors are those of `jaxnet.data.images.by_name.read_images`."""
        from jaxnet.data.images.by_name import read_images

        return read_images(self.data, self.data_dir, self.image_size, self.seed)


@dataclass(frozen=True)
class ProseRun(Run):
    """A run over one long text."""

    data: str = "python"
    """python, the language reference, or text for a file of your own"""
    data_dir: Annotated[Path | None, OnlyWith(data="text")] = None
    """the text file"""

    def __post_init__(self) -> None:
        super().__post_init__()
        lookup_data(self.data, dict.fromkeys(("python", "text")))

    def read(self, *cuts: float) -> tuple[str, ...]:
        """The text in parts; errors are those of `jaxnet.data.text.corpora.read_prose` and `cut`.

        Args:
            cuts: the shares of the text after which it is cut, in their order.
        """
        from jaxnet.data.text.corpora import cut, read_prose

        return cut(read_prose(self.data, self.data_dir), *cuts)


Folds = Annotated[int, Range(2)]


@dataclass(frozen=True)
class CrossValidated(Run):
    """A run that may be repeated over the folds of its data."""

    folds: Folds | None = None
    """cross-validate with so many folds, instead of one split into training and test data"""
    checkpoints: Annotated[Saving, OnlyWith(folds=None)] = Saving()


@dataclass(frozen=True)
class Tabular(CrossValidated):
    """A run whose data may be a table."""

    target: Annotated[str | None, OnlyWith(data="csv")] = None
    """the column to predict"""
    table: Annotated[Tables, OnlyWith(data="csv")] = Tables()

    def named_by(self) -> tuple[str, ...]:
        """The data, and of a table of your own the column to predict."""
        return (*super().named_by(), *((self.target,) if self.target is not None else ()))


# Names of data that stand for files of your own.
OWN_DATA = ("csv", "folder", "lines", "text")
# Fields of a `Run`, and of its kinds, that don't decide what is learnt.
FREE = ("run_dir", "resume", "progress", "layout", "eval_batch_size", "writing", "users", "k")
