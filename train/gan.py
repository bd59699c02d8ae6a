"""Train a generative adversarial network: noise in, images like those of the data out.

    python -m train.gan                                    digits
    python -m train.gan --data mnist --epochs 5 --batch-size 64 --learning-rate 2e-4 --judge train
                                                           a classifier reads all ten digits
    python -m train.gan --data fashion_mnist --model dense --epochs 20
    python -m train.gan --model wgan_gp                    a critic with a gradient penalty
    python -m train.gan --judge train                      how many classes a classifier sees
    python -m train.gan --help                             all options

The run folder shows how the images become better: samples/epoch_N.png draws the same 64 points of
noise after every few epochs, interpolation.png what lies between two of them, real.png the data,
and losses.png both players. Neither loss says how good the images are; `--judge` does: a classifier
of real images, a bundle of train.classify or one that is trained first, reads what was generated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.recipe import ImageRun, LearningRate, Optimizer, started
from jaxnet.errors import UsageError
from jaxnet.files import expanded
from jaxnet.names import lookup
from jaxnet.options import Count, NotNegative, OnlyWith, Positive, Share, settled
from jaxnet.training.early_stopping import LAST_STEP, EarlyStopping

if TYPE_CHECKING:
    import flax.linen as nn
    import numpy as np

    from jaxnet import Bundle
    from jaxnet.data import Arrays, ImageFolder
    from jaxnet.data.images.by_name import ImageParts
    from jaxnet.training import Adversarial
    from jaxnet.training.trainer import FitResult

    Players = tuple[nn.Module, nn.Module]

PROGRAM = "python -m train.gan"
SIDE = 8
"""Rows and columns of the pictures."""
JUDGED = 2000
"""Images that the judge reads."""
TRAINED = "train"


@dataclass(frozen=True)
class Network:
    """The networks' sizes."""

    latent: Count = 100
    """how many random numbers an image is made of"""
    features: Annotated[Count | None, OnlyWith(model=("dcgan", "wgan_gp"))] = None
    """the features nearest to the image; by default 64, and 32 for one channel"""
    stages: Annotated[Count, OnlyWith(model=("dcgan", "wgan_gp"))] = 2
    """how often height and width double on the way to the image"""
    hidden: Annotated[tuple[Count, ...], OnlyWith(model="dense")] = (256, 512)
    """the width of each hidden layer of the generator; the discriminator's in reverse"""
    dropout: Annotated[Share, OnlyWith(model="dense")] = 0.3
    """the share of the discriminator's hidden units left out in training"""


@dataclass(frozen=True)
class Rules:
    """What the players play for; where nothing is said, it goes by the model."""

    game: str | None = None
    """non_saturating, minimax, wasserstein or least_squares"""
    critic_steps: Count | None = None
    """steps of the discriminator for one of the generator, each on its part of the batch"""
    gradient_penalty: NotNegative | None = None
    """how much the critic's slope has to be 1, such as 10"""
    discriminator_rate: Positive | None = None
    """the discriminator's learning rate, if it isn't the generator's"""
    ema: Share | None = None
    """generate with a moving average of the generator's weights of this decay, such as 0.999"""


@dataclass(frozen=True)
class Config(ImageRun):
    """Train a generative adversarial network, and leave pictures of what it makes."""

    model: str | None = None
    """dense, dcgan or wgan_gp; by default dcgan"""
    epochs: Count = 80
    """how often to go through the training data"""
    batch_size: Count = 50
    """examples a step; each step of the critic gets its part of them"""
    learning_rate: LearningRate = 5e-4
    """of both players"""
    judge: str | None = None
    """the folder of a classifier's run or bundle from train.classify, or 'train' to train one
    first"""
    network: Network = Network()
    rules: Rules = Rules()
    optimizer: Optimizer = Optimizer(schedule="constant", b1=0.5)
    early_stopping: EarlyStopping = LAST_STEP

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis in ("stage", "sequence", "expert"):
            if (size := getattr(self.layout, axis)) != 1:
                raise UsageError(
                    f"--layout.{axis} {size}: it shares out what is in a transformer, and the "
                    "players of a game have none; take data or fsdp"
                )

    def named_by(self) -> tuple[str, ...]:
        """The data, and that this is a game."""
        return ("gan", *super().named_by())


def _dense(config: Config, shape: tuple[int, ...]) -> Players:
    from jaxnet.models import DenseDiscriminator, DenseGenerator

    hidden = config.network.hidden
    return (
        DenseGenerator(shape, hidden),
        DenseDiscriminator(hidden[::-1], config.network.dropout),
    )


def _dcgan(config: Config, shape: tuple[int, ...], batch_norm: bool = True) -> Players:
    from jaxnet.models import DCGANDiscriminator, DCGANGenerator

    stages = config.network.stages
    features = config.network.features
    if features is None:
        features = 32 if shape[-1] == 1 else 64
    return (
        DCGANGenerator(shape, features, stages),
        DCGANDiscriminator(features, stages, batch_norm),
    )


def _wgan_gp(config: Config, shape: tuple[int, ...]) -> Players:
    return _dcgan(config, shape, batch_norm=False)


@dataclass(frozen=True)
class Model:
    """Two networks, and the rules that suit them."""

    build: Callable[[Config, tuple[int, ...]], Players]
    game: str = "non_saturating"
    critic_steps: int = 1
    gradient_penalty: float = 0.0

    def rules(self, chosen: Rules) -> Rules:
        """The rules that were chosen, and for the others those that suit."""
        names = ("game", "critic_steps", "gradient_penalty")
        usual = {name: getattr(self, name) for name in names if getattr(chosen, name) is None}
        return replace(chosen, **usual)


MODELS: Mapping[str, Model] = {
    "dense": Model(_dense),
    "dcgan": Model(_dcgan),
    "wgan_gp": Model(_wgan_gp, "wasserstein", critic_steps=5, gradient_penalty=10.0),
}


def train(config: Config, fit: run_folder.Fit = run_folder.fit) -> int:
    """Train as configured, and write the run folder."""
    name = config.model or "dcgan"
    model = lookup(name, MODELS, "model")
    config = settled(replace(config, model=name, rules=model.rules(config.rules)))
    folder = run_folder.located(config, name)
    config = replace(config, run_dir=folder)

    import numpy as np

    from jaxnet.data import fit_symmetric, sample
    from jaxnet.training.image_samples import ImageSamples
    from jaxnet.training.programs import compiled

    parts = config.read()
    if config.judge == TRAINED:
        code = _train_judge(config, folder / "judge", len(parts.train))
        if code != cli.DONE:
            return code
    judge = _judge(config, folder, parts)
    task = _task(config, model, parts.train, fit_symmetric(sample(parts.train)))
    noise = _noise(config, SIDE * SIDE)
    generate = compiled(task.predict_step)

    def draw(state: Any) -> np.ndarray:
        return _grid(np.asarray(generate(state, {"inputs": noise})))

    samples = ImageSamples(folder / "samples", draw, title=run_folder.title(folder))
    result = fit(folder, config, task, parts.train, parts.valid, callbacks=[samples])
    if result is None:
        return cli.PREEMPTED
    _draw(folder, config, result, parts, task.preprocess)
    figures = {}
    if judge is not None:
        figures = _read(judge, result.model.predict(_noise(config, JUDGED, seed=1)), task, parts)
    run_folder.finish(folder, result, result.model.evaluate(parts.test), figures=figures)
    return cli.DONE


def _task(config: Config, model: Model, train: Arrays | ImageFolder, scale: Any) -> Adversarial:
    from jaxnet.losses.adversarial import GAMES
    from jaxnet.training import Adversarial

    rules: Any = config.rules  # complete, by `Model.rules`
    rate = rules.discriminator_rate
    critic = config if rate is None else replace(config, learning_rate=rate)
    generator, discriminator = model.build(config, train.inputs.shape[1:])
    return Adversarial(
        generator,
        discriminator,
        config.optimizer_for(len(train)),
        critic.optimizer_for(len(train)),
        game=lookup(rules.game, GAMES, "game"),
        latent=config.network.latent,
        critic_steps=rules.critic_steps,
        gradient_penalty=rules.gradient_penalty,
        ema=rules.ema,
        preprocess=scale,
    )


def _noise(config: Config, count: int, seed: int = 0) -> np.ndarray:
    """(count, latent) float32, the same for equal seeds."""
    import numpy as np

    draw = np.random.default_rng((config.seed, seed))
    return draw.standard_normal((count, config.network.latent), np.float32)


def _grid(images: np.ndarray) -> np.ndarray:
    """Images from -1 to 1 as (rows, columns, H, W, C) from 0 to 1."""
    return (images.reshape(-1, SIDE, *images.shape[1:]) + 1) / 2


def _draw(folder: Path, config: Config, result: FitResult, parts: ImageParts, scale: Any) -> None:
    """The pictures at the end."""
    import numpy as np

    from jaxnet.data import sample
    from jaxnet.report.pictures import plot_together, save_grid

    noise = _noise(config, SIDE * SIDE)
    title = run_folder.title(folder)
    save_grid(_grid(result.model.predict(noise)), folder / "generated.png", f"generated: {title}")
    ends = noise[:SIDE], noise[SIDE : 2 * SIDE]
    # Along the great circle, on which the noise stays as long as what the generator knows.
    turns = np.linspace(0, np.pi / 2, SIDE, dtype=np.float32)
    way = [np.cos(t) * ends[0] + np.sin(t) * ends[1] for t in turns]
    between = np.stack(way, axis=1).reshape(-1, noise.shape[1])
    path = folder / "interpolation.png"
    save_grid(_grid(result.model.predict(between)), path, f"from noise to noise: {title}")
    real = scale(sample(parts.train, SIDE * SIDE, config.seed).inputs[: SIDE * SIDE])
    save_grid(_grid(real), folder / "real.png", f"real: {title}")
    losses = ("generator_loss", "discriminator_loss")
    plot_together(result.history, losses, folder / "losses.png", "loss", title)


def _judge(config: Config, folder: Path, parts: ImageParts) -> Bundle | None:
    """The classifier that is going to read the images."""
    if config.judge is None:
        return None
    from jaxnet import Bundle

    home = folder / "judge" if config.judge == TRAINED else expanded(config.judge)
    bundle = Bundle.load(home / "bundle" if (home / "bundle").is_dir() else home)
    seen = parts.train.inputs
    if (bundle.inputs.shape, bundle.inputs.dtype) != (seen.shape[1:], seen.dtype):
        raise UsageError(
            f"--judge {config.judge}: it reads images of shape {bundle.inputs.shape}, "
            f"{bundle.inputs.dtype}, and these are {seen.shape[1:]}, {seen.dtype}. "
            "Give the bundle of a classifier of the same data."
        )
    return bundle


def _train_judge(config: Config, home: Path, examples: int) -> int:
    """Train the classifier, unless that is done. The exit code."""
    from jaxnet.cluster import processes

    from . import classify

    if processes.from_first((home / "bundle" / "bundle.json").exists):
        return cli.DONE
    # Few epochs are enough where there are many images.
    epochs = 3 if examples > 10_000 else 30
    # About 64 examples a step, which the devices can share out as they do those of the game.
    batch_size = config.batch_size * max(1, round(64 / config.batch_size))
    keys = ("data", "data_dir", "image_size", "seed", "resume", "progress", "layout")
    same = {key: getattr(config, key) for key in keys}
    code = classify.train(
        classify.Config(**same, epochs=epochs, batch_size=batch_size, run_dir=home)
    )
    # The first process writes the bundle: the others wait until it is there.
    return processes.from_first(lambda: code)


def _read(
    judge: Bundle, generated: np.ndarray, task: Adversarial, parts: ImageParts
) -> dict[str, Any]:
    """What the judge makes of the images, beside what it makes of real ones."""
    import numpy as np

    from jaxnet.metrics.generated import judged

    images = task.preprocess.undo(generated)  # pyright: ignore[reportFunctionMemberAccess]
    dtype = judge.inputs.dtype
    if np.issubdtype(dtype, np.integer):
        images = images.round().clip(0, np.iinfo(dtype).max)
    return judged(judge.predict(images.astype(dtype)))


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
