"""The parts of a configuration that every entrypoint shares, and what they build.

Plain frozen dataclasses whose fields are numbers and names; JAX is imported when something is
built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, Self, TypeVar

from jaxnet import numerics
from jaxnet.app.data_options import IMAGE_FILES, IMAGES, ImageSize, Tables, lookup_data, read_images
from jaxnet.app.optimizer_options import LearningRate, Optimizer
from jaxnet.app.technique_options import Techniques
from jaxnet.errors import UsageError
from jaxnet.names import lookup
from jaxnet.options import CHOSEN, FREE, TOP, Count, NotNegative, OnlyWith, Range, check_ranges
from jaxnet.parallel.axes import AXES, Axes
from jaxnet.training.early_stopping import EarlyStopping

if TYPE_CHECKING:
    import optax

    from jaxnet.data.images.by_name import ImageParts
    from jaxnet.parallel import layout


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
    """the number of newest checkpoints to keep, each with the best one up to then"""
    every_steps: Count | None = None
    """save every N steps too, not only after epochs"""
    min_seconds: NotNegative = 5.0
    """save after an epoch only if the last save is older than this, in seconds"""

    def options(self) -> dict[str, Any]:
        """The fields, as arguments of `Checkpoints`."""
        return asdict(self)


@dataclass(frozen=True)
class Layout(Axes):
    """The mesh of devices: their number along each axis; -1, for one axis, takes all remaining."""

    fsdp_min_size: Annotated[int, OnlyWith(fsdp=CHOSEN)] = 2**14
    """fsdp replicates parameters with fewer elements"""
    micro_batches: Annotated[Count | None, OnlyWith(stage=CHOSEN)] = None
    """micro-batches per batch; by default up to four per stage"""
    whole: Annotated[
        tuple[str, ...], OnlyWith(fsdp=CHOSEN, tensor=CHOSEN, stage=CHOSEN, expert=CHOSEN)
    ] = ()
    """paths of parameters to replicate whatever the model's rules say, such as '**/embedding'"""

    def build(self, task: Any) -> layout.Layout:
        """The layout of a run, with the rules of the models in the task.

        Where several processes train together and nothing is chosen, they shard the batch.

        Raises:
            UsageError: an impossible size, or `tensor` and no rules.
        """
        from jaxnet.cluster import processes
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
class Run:
    """What to train on, for how long, and where the results go.

    Attributes:
        DATA: the names that `data` may have; what else they stand for, the entrypoint knows.
        MODELS: the names that `model` may have; the first one is the default.
    """

    DATA: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    MODELS: ClassVar[Sequence[str]] = ()

    data: str = ""
    """the name of the data"""
    data_dir: Path | None = None
    """the folder of the data's files, or the file itself"""
    model: str | None = None
    """the name of the model"""
    epochs: Count = 40
    """the maximum number of epochs"""
    batch_size: Count = 32
    """examples per training step"""
    eval_batch_size: Annotated[Count | None, FREE] = None
    """examples per batch in evaluation and prediction; by default 256, or fewer where these would
    need more memory than training does"""
    learning_rate: LearningRate = 3e-3
    """the peak learning rate"""
    seed: Annotated[int, Range()] = 0
    """the random seed of the split, the initial weights, the order of the data and dropout"""
    run_dir: Annotated[Path | None, FREE] = None
    """the folder of the results; by default runs/DATA-MODEL-seedSEED, with the target's name after
    the data's for a table of your own, and a number at the end where another run has that name"""
    resume: Annotated[bool, FREE] = True
    """resume an interrupted run in this folder"""
    progress: Annotated[bool, FREE] = True
    """show a progress bar"""
    numerics: AtTheTop = Numerics()
    optimizer: Optimizer = Optimizer()
    techniques: Techniques = Techniques()
    early_stopping: EarlyStopping = EarlyStopping(monitor="val_loss", patience=10)
    checkpoints: Saving = Saving()
    layout: Annotated[Layout, FREE] = Layout()

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.layout.stage != 1 and self.optimizer.name == "lamb":
            raise UsageError(
                "lamb scales the step of each parameter by its norm, and in stages those of all "
                "blocks are one: take another optimizer (--optimizer.name), or leave out the "
                "stages (--layout.stage 1)"
            )

    def with_defaults(self) -> Self:
        """The configuration with what it leaves open filled in: here the model.

        Raises:
            UsageError: the data or the model has an unknown name.
        """
        lookup_data(self.data, self.DATA)
        name = self.model or self.MODELS[0]
        lookup(name, dict.fromkeys(self.MODELS), "model")
        return replace(self, model=name)

    def data_path(self, what: str, *usual: str) -> Path:
        """The file or folder of the data: `data_dir`, or what JAXNET_DATA_DIR holds.

        Args:
            what: what it has to be, for the message.
            usual: what it may be called in the folder that JAXNET_DATA_DIR names.

        Raises:
            UsageError: it wasn't said, and there is none of these.
        """
        from jaxnet.data.at_hand import at_hand

        found = self.data_dir or at_hand(*usual)
        if found is None:
            raise UsageError(f"--data {self.data} needs --data-dir, {what}")
        return found

    @property
    def variant(self) -> str:
        """What the default run folder is called by after the data: the model."""
        return self.model or ""

    def named_by(self) -> tuple[str, ...]:
        """What the default run folder is called by: the data, or the file where it is your own."""
        if self.data in OWN_DATA and self.data_dir is not None:
            return (self.data_dir.resolve().stem,)
        return (self.data,)

    def optimizer_for(self, examples: int) -> optax.GradientTransformation:
        """The optimizer of a run over this number of training examples."""
        return self.optimizer.build(self.learning_rate, self.steps_for(examples))

    def steps_for(self, examples: int) -> int:
        """The maximum number of steps of a run over this number of training examples."""
        return self.epochs * -(-examples // self.batch_size)


@dataclass(frozen=True)
class ImageRun(Run):
    """A run over images whose classes don't matter."""

    DATA = dict.fromkeys(IMAGES)

    data: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, cifar100, or folder for images of your own in a
    sub-folder for each class"""
    data_dir: Annotated[Path | None, OnlyWith(data=IMAGE_FILES)] = None
    """the folder of the data's files; by default what JAXNET_DATA_DIR holds, or else the original
    images are downloaded"""
    image_size: ImageSize = None
    """height and width to which images are resized, if they aren't all of one size"""

    def read(self) -> ImageParts:
        """The images; errors are those of `jaxnet.data.images.by_name.read_images`."""
        return read_images(self)


@dataclass(frozen=True)
class ProseRun(Run):
    """A run over one long text."""

    DATA = dict.fromkeys(("python", "text"))

    data: str = "python"
    """python, the language reference, or text for a file of your own"""
    data_dir: Annotated[Path | None, OnlyWith(data="text")] = None
    """the text file"""

    def read(self, *cuts: float) -> tuple[str, ...]:
        """The text in parts; errors are those of `jaxnet.data.text.corpora.read_prose` and `cut`.

        Args:
            cuts: the shares of the text after which it is cut, in their order.
        """
        from jaxnet.data.text.corpora import cut, read_prose

        return cut(read_prose(self.data, self.data_dir), *cuts)


FoldCount = Annotated[int, Range(2)]


@dataclass(frozen=True)
class CrossValidated(Run):
    """A run that may be repeated over the folds of its data."""

    folds: FoldCount | None = None
    """k-fold cross-validation with this k, instead of one split into training and test data"""
    checkpoints: Annotated[Saving, OnlyWith(folds=None)] = Saving()


@dataclass(frozen=True)
class Tabular(CrossValidated):
    """A run whose data may be a table."""

    target: Annotated[str | None, OnlyWith(data="csv")] = None
    """the column to predict"""
    test_data: Annotated[Path | None, OnlyWith(data="csv"), OnlyWith(folds=None)] = None
    """a file with the same columns to test on; by default a part of the table"""
    split_by_time: Annotated[str | None, OnlyWith(data="csv"), OnlyWith(folds=None)] = None
    """a column of times or numbers: train on the oldest rows, test on the newest"""
    split_by_group: Annotated[str | None, OnlyWith(data="csv"), OnlyWith(folds=None)] = None
    """a column, such as that of the patient, each of whose values is in one part alone; it is no
    input"""
    table: Annotated[Tables, OnlyWith(data="csv")] = Tables()

    def named_by(self) -> tuple[str, ...]:
        """The data, and of a table of your own the column to predict."""
        return (*super().named_by(), *((self.target,) if self.target is not None else ()))


# Names of data that stand for files of your own.
OWN_DATA = ("conll", "csv", "folder", "lines", "text")
