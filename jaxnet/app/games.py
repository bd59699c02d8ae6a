"""What belongs to a generative adversarial game: its rules, its task, its pictures, its judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.app.networks import network
from jaxnet.app.problem import Tested
from jaxnet.app.run_folder import title
from jaxnet.errors import UsageError
from jaxnet.names import lookup
from jaxnet.options import Count, NotNegative, Positive, Share

if TYPE_CHECKING:
    import flax.linen as nn
    import numpy as np

    from jaxnet.app.run_options import Layout
    from jaxnet.bundle import Bundle
    from jaxnet.data import Arrays, ImageFolder
    from jaxnet.training import Adversarial, FitResult
    from jaxnet.training.task import Task

# Images that a judge reads.
JUDGED = 2000


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

    def suited(self, model: str) -> Rules:
        """The rules that were chosen, and for the others those that suit a model."""
        wasserstein = {"game": "wasserstein", "critic_steps": 5, "gradient_penalty": 10.0}
        plain = {"game": "non_saturating", "critic_steps": 1, "gradient_penalty": 0.0}
        chosen = {name: value for name, value in asdict(self).items() if value is not None}
        return Rules(**{**(wasserstein if model == "wgan_gp" else plain), **chosen})


def players(model: str, size: Any, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator.

    Args:
        model: dense, dcgan or wgan_gp.
        size: `hidden` and `dropout`, or `features` and `stages`.
        shape: of an image, (height, width, channels).
    """
    if model == "dense":
        critic = {"hidden": size.hidden[::-1], "dropout": size.dropout}
        made = {"shape": shape, "hidden": size.hidden}
        return network("gan:DenseGenerator", made), network("gan:DenseDiscriminator", critic)
    features = (32 if shape[-1] == 1 else 64) if size.features is None else size.features
    sizes = {"features": features, "stages": size.stages}
    critic = network("gan:DCGANDiscriminator", {**sizes, "batch_norm": model == "dcgan"})
    return network("gan:DCGANGenerator", {"shape": shape, **sizes}), critic


def check_layout(layout: Layout) -> None:
    """Refuse axes that cut transformers.

    Raises:
        UsageError: one is chosen.
    """
    for axis in ("stage", "sequence", "expert"):
        if (size := getattr(layout, axis)) != 1:
            raise UsageError(
                f"--layout.{axis} {size}: it shares out what is in a transformer, and the "
                "players of a game have none; take data or fsdp"
            )


def game_of(
    config: Any, players: tuple[nn.Module, nn.Module], train: Arrays | ImageFolder, scale: Any
) -> Adversarial:
    """The task of two players.

    Args:
        config: a `Run` with complete `rules` and `network.latent`.
        players: the generator and the discriminator.
        train: the training images.
        scale: what brings them to the scale of what is generated.

    Raises:
        UsageError: the game is unknown.
    """
    from jaxnet.losses.adversarial import GAMES
    from jaxnet.training import Adversarial

    rules, rate = config.rules, config.rules.discriminator_rate
    critic = config if rate is None else replace(config, learning_rate=rate)
    return Adversarial(
        *players,
        config.optimizer_for(len(train)),
        critic.optimizer_for(len(train)),
        game=lookup(rules.game, GAMES, "game"),
        latent=config.network.latent,
        critic_steps=rules.critic_steps,
        gradient_penalty=rules.gradient_penalty,
        ema=rules.ema,
        preprocess=scale,
    )


def noise_of(config: Any, count: int, seed: int = 0) -> np.ndarray:
    """(count, latent) float32, the same for equal seeds."""
    import numpy as np

    draw = np.random.default_rng((config.seed, seed))
    return draw.standard_normal((count, config.network.latent), np.float32)


def sampled(config: Any, folder: Path, task: Task[Any]) -> list[Any]:
    """The callback that draws what is made of the same noise, every few epochs."""
    import numpy as np

    from jaxnet.report.generated import SIDE, symmetric_grid
    from jaxnet.training.image_samples import ImageSamples
    from jaxnet.training.programs import compiled

    noise, generate = noise_of(config, SIDE**2), compiled(task.predict_step)

    def draw(state: Any) -> np.ndarray:
        return symmetric_grid(np.asarray(generate(state, {"inputs": noise})))

    return [ImageSamples(folder / "samples", draw, title=title(folder))]


def report_game(
    config: Any,
    train: Arrays | ImageFolder,
    test: Arrays | ImageFolder,
    scale: Any,
    judge: Bundle | None,
) -> Callable[[Path, FitResult], Tested]:
    """The report of a game: pictures, both players' losses, and what a judge reads."""

    def report(folder: Path, result: FitResult) -> Tested:
        from jaxnet.data import sample
        from jaxnet.report.generated import SIDE, draw_generated
        from jaxnet.report.pictures import plot_together

        model, above, figures = result.model, title(folder), {}
        real = scale(sample(train, SIDE**2, config.seed).inputs[: SIDE**2])
        draw_generated(folder, model.predict, noise_of(config, SIDE**2), real, above)
        losses = ("generator_loss", "discriminator_loss")
        plot_together(result.history, losses, folder / "losses.png", "loss", above)
        if judge is not None:
            figures = judged_images(judge, model.predict(noise_of(config, JUDGED, 1)), scale.undo)
        return Tested(model.evaluate(test), figures)

    return report


def judge_options(config: Any, examples: int) -> Mapping[str, Any]:
    """The options of `train.classify` for the classifier that is to judge a game.

    Args:
        config: that of the game.
        examples: the number of training images; few epochs are enough where there are many.
    """
    # About 64 examples per step, a number that can be sharded like the batches of the GAN.
    batch_size = config.batch_size * max(1, round(64 / config.batch_size))
    keys = ("data", "data_dir", "image_size", "seed", "resume", "progress", "layout")
    same = {key: getattr(config, key) for key in keys}
    return {**same, "epochs": 3 if examples > 10_000 else 30, "batch_size": batch_size}


def load_judge(folder: Path, train: Arrays | ImageFolder) -> Bundle:
    """The classifier in a folder, of a run or a bundle, for images like the training ones.

    Raises:
        InputError: there is no bundle, or it can't be read.
        UsageError: it reads images of another shape or type.
    """
    from jaxnet.bundle import Bundle

    bundle = Bundle.load(folder / "bundle" if (folder / "bundle").is_dir() else folder)
    seen = train.inputs
    if (bundle.inputs.shape, bundle.inputs.dtype) != (seen.shape[1:], seen.dtype):
        raise UsageError(
            f"--judge {folder}: it reads images of shape {bundle.inputs.shape}, "
            f"{bundle.inputs.dtype}, and these are {seen.shape[1:]}, {seen.dtype}. "
            "Give the bundle of a classifier of the same data."
        )
    return bundle


def judged_images(
    judge: Bundle, generated: np.ndarray, undo: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """How varied and how clear generated images are to a classifier; see `metrics.generated`.

    Args:
        judge: the classifier.
        generated: (n, H, W, C).
        undo: brings them back to the scale of the data.
    """
    import numpy as np

    from jaxnet.metrics.generated import judged

    images, dtype = undo(generated), judge.inputs.dtype
    if np.issubdtype(dtype, np.integer):
        images = images.round().clip(0, np.iinfo(dtype).max)
    return judged(judge.predict(images.astype(dtype)))
