r"""Train an autoencoder: a network that gives images back through a short code.

    python -m train.autoencode                             digits
    python -m train.autoencode --model vae --latent 2      a variational one, with its plane
    python -m train.autoencode --noise 0.5                 one that removes noise
    python -m train.autoencode --data mnist --model conv --epochs 10
    python -m train.autoencode --data mnist --model vae --network.hidden 400 --batch-size 100 \
        --epochs 30 --learning-rate 1e-3                   -99.5 nats a test image
    python -m train.autoencode --help                      all options

The run folder shows reconstructions.png, real images above reconstructed ones (with noise between
them where it is to be removed), latent.png, where the images lie by their codes, and samples/, what
the network makes of the same after every few epochs. A variational one draws images of its own,
generated.png, and with two latent dimensions all that there are, plane.png.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.recipe import Augment, ImageRun, LearningRate, started
from jaxnet.names import lookup
from jaxnet.options import Count, NotNegative, OnlyWith, Without, settled

if TYPE_CHECKING:
    import flax.linen as nn
    import numpy as np

    from jaxnet.data import Arrays, ImageFolder
    from jaxnet.training.tasks.reconstruction import Reconstruction
    from jaxnet.training.trainer import FitResult

PROGRAM = "python -m train.autoencode"
SHOWN = 16
"""Images in the picture of reconstructions."""
SIDE = 8
"""Rows and columns of the pictures of what was drawn."""
PLANE = 16
"""Rows and columns of the picture of the plane."""
PLACED = 5000
"""Images in the picture of the codes, at most."""


@dataclass(frozen=True)
class Network:
    """The encoder's size; the decoder is its mirror image."""

    hidden: Annotated[tuple[Count, ...], OnlyWith(model=("dense", "vae"))] = (256, 128)
    """the width of each hidden layer"""
    filters: Annotated[tuple[Count, ...], OnlyWith(model=("conv", "conv_vae"))] = (32, 64)
    """the filters of each convolution, which halves height and width"""


@dataclass(frozen=True)
class Variation:
    """What only the variational ones have."""

    beta: NotNegative = 1.0
    """the weight of the codes' divergence from the normal distribution"""
    binarize: Literal["stochastic", "fixed", "none"] = "stochastic"
    """how grey becomes black or white: anew by chance each time, above one half, or not at all:
    then grey is the probability of white"""


@dataclass(frozen=True)
class Config(ImageRun):
    """Train an autoencoder, and leave pictures of what it makes."""

    model: str | None = None
    """dense, conv, vae or conv_vae; by default dense"""
    latent: Count | None = None
    """the length of the code; by default 32, for digits 8, and for vae 20, for digits 8"""
    noise: NotNegative = 0.0
    """standard deviation of the noise that is to be removed, where white is 1 and black 0"""
    epochs: Count = 60
    """how often to go through the training data, at most"""
    learning_rate: LearningRate = 2e-3
    """the largest learning rate"""
    network: Network = Network()
    vae: Annotated[Variation, OnlyWith(model=("vae", "conv_vae"))] = Variation()
    augment: Annotated[Augment, Without("auto")] = Augment()

    @property
    def varies(self) -> bool:
        """Whether the model is a variational one."""
        return self.model in ("vae", "conv_vae")


def _dense(config: Config, outputs: int, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    from jaxnet.models import DenseDecoder, DenseEncoder

    hidden = config.network.hidden
    return DenseEncoder(outputs, hidden), DenseDecoder(shape, hidden[::-1])


def _conv(config: Config, outputs: int, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    from jaxnet.models import ConvDecoder, ConvEncoder

    filters = config.network.filters
    return ConvEncoder(outputs, filters), ConvDecoder(shape, filters[::-1])


MODELS: Mapping[str, Callable[..., tuple[nn.Module, nn.Module]]] = {
    "dense": _dense,
    "conv": _conv,
    "vae": _dense,
    "conv_vae": _conv,
}


def train(config: Config, fit: run_folder.Fit = run_folder.fit) -> int:
    """Train as configured, and write the run folder."""
    name = config.model or "dense"
    build = lookup(name, MODELS, "model")
    usual = 8 if config.data == "digits" else 20 if name.endswith("vae") else 32
    latent = config.latent or usual
    kind = f"{name}{latent}" + (f"-noise{config.noise:g}" if config.noise else "")
    config = settled(replace(config, model=name, latent=latent))
    folder = run_folder.located(config, kind)
    config = replace(config, run_dir=folder)

    import numpy as np

    from jaxnet.data import sample
    from jaxnet.training.image_samples import ImageSamples
    from jaxnet.training.programs import compiled

    parts = config.read()
    task = _task(config, build, parts.train)
    test = sample(parts.test, PLACED)
    draw = compiled(
        lambda state: _rows(config, *_evaluated(config, task, state), test.inputs[:SHOWN])
    )
    samples = ImageSamples(
        folder / "samples", lambda state: np.asarray(draw(state)), title=run_folder.title(folder)
    )
    result = fit(
        folder, config, task, parts.train, parts.valid, config.augment, callbacks=[samples]
    )
    if result is None:
        return cli.PREEMPTED
    _draw(folder, config, task, result, test)
    run_folder.finish(folder, result, result.model.evaluate(parts.test))
    return cli.DONE


def _task(config: Config, build: Callable[..., Any], train: Arrays | ImageFolder) -> Reconstruction:
    from jaxnet import losses, metrics
    from jaxnet.data import fit_range, sample
    from jaxnet.losses.density import bernoulli
    from jaxnet.models import VAE, Autoencoder
    from jaxnet.training.tasks import variational
    from jaxnet.training.tasks.reconstruction import GaussianNoise, Reconstruction, nothing

    # A variational one's code has a mean and a variance for each dimension.
    outputs = (config.latent or 1) * (2 if config.varies else 1)
    encoder, decoder = build(config, outputs, train.inputs.shape[1:])
    optimizer = config.optimizer_for(len(train))
    options: dict[str, Any] = {
        "preprocess": fit_range(sample(train)),
        "noise": GaussianNoise(config.noise) if config.noise else nothing,
    }
    if not config.varies:
        mse = {"mse": metrics.mean_squared_error}
        model = Autoencoder(encoder, decoder)
        return Reconstruction(model, losses.squared_error, optimizer, eval_metrics=mse, **options)
    binarize = {
        "stochastic": variational.stochastic_binarization,
        "fixed": variational.fixed_binarization,
        "none": nothing,
    }
    return variational.Variational(
        VAE(encoder, decoder),
        bernoulli,
        optimizer,
        beta=config.vae.beta,
        observe=binarize[config.vae.binarize],
        **options,
    )


def _evaluated(config: Config, task: Reconstruction, state: Any) -> tuple[Reconstruction, Any]:
    """The task and a state of it that the run evaluates, whatever its techniques hold in theirs."""
    whole: Any = config.techniques.apply(task)
    network, _, variables = whole.inference(state)
    others = {name: value for name, value in variables.items() if name != "params"}
    return (
        replace(task, model=network),
        replace(state, params=variables["params"], collections=others),
    )


def _rows(config: Config, task: Reconstruction, state: Any, images: Any) -> Any:
    """(rows, n, H, W, C) in [0, 1]: real images, noisy ones if any, and what comes of them."""
    import jax.numpy as jnp

    images = jnp.asarray(images)
    inputs = task.spoilt(state, images)
    network, _, variables = task.inference(state)
    outputs = network.apply(variables, inputs, False, None)[0]
    return jnp.stack([task.preprocess(images), *([inputs] if config.noise else []), outputs])


def _draw(
    folder: Path, config: Config, task: Reconstruction, result: FitResult, test: Arrays
) -> None:
    """The pictures at the end."""
    import jax
    import numpy as np

    from jaxnet.cluster import processes
    from jaxnet.report.pictures import plot_labelled_points, save_grid
    from jaxnet.training.programs import compiled
    from jaxnet.training.tasks.variational import Variational

    # Of several processes each may have a part of the state, and the first one draws.
    whole = processes.on_host(result.state) if processes.several() else result.state
    if not processes.is_first():
        return
    task, state = _evaluated(config, task, whole)

    def made(function: Callable[..., Any], *inputs: Any) -> np.ndarray:
        return np.asarray(compiled(function)(state, *inputs))

    rows = made(lambda state, images: _rows(config, task, state, images), test.inputs[:SHOWN])
    title = run_folder.title(folder)
    names = ("image", *(["with noise"] if config.noise else []), "reconstruction")
    save_grid(rows, folder / "reconstructions.png", title, names)
    shown = test.inputs[:PLACED]
    codes = made(task.encode, shown)
    points, axes = _plane(codes)
    names = test.class_names or tuple(map(str, range(test.num_classes)))
    plot_labelled_points(points, test.labels[:PLACED], names, folder / "latent.png", axes, title)
    if not isinstance(task, Variational):
        return
    key, shape = jax.random.key(config.seed), (SIDE**2, codes.shape[1])
    drawn = made(lambda state, key: task.sample(state, key, shape), key)
    save_grid(
        drawn.reshape(SIDE, SIDE, *drawn.shape[1:]), folder / "generated.png", f"generated: {title}"
    )
    if codes.shape[1] == 2:
        plane = made(task.decode, _even_codes(PLANE))
        save_grid(
            plane.reshape(PLANE, PLANE, *plane.shape[1:]),
            folder / "plane.png",
            f"the plane of the codes: {title}",
        )


def _plane(codes: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """Codes (n, latent) in the plane, (n, 2), and what its axes are."""
    import numpy as np

    from jaxnet.report.plots import principal_plane

    if codes.shape[1] == 1:
        return np.concatenate([codes, np.zeros_like(codes)], axis=1), ("the code", "")
    if codes.shape[1] == 2:
        return codes, ("first dimension of the code", "second dimension of the code")
    points, shares = principal_plane(codes)
    first, second = (f"{share:.0%} of the variance" for share in shares)
    return points, (f"first principal component ({first})", f"second ({second})")


def _even_codes(side: int) -> np.ndarray:
    """(side^2, 2) float32: a grid whose lines have equal shares of the normal distribution between.

    The first axis goes to the right and the second one up, as in the picture of the codes.
    """
    from statistics import NormalDist

    import numpy as np

    places = [NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]
    return np.array([(x, y) for y in reversed(places) for x in places], np.float32)


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
