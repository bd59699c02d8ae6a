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
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated

from jaxnet import app
from jaxnet.app.autoencoders import Binarization, autoencoder, reconstruction
from jaxnet.app.reconstructions import CodePictures
from jaxnet.options import Count, NotNegative, OnlyWith, Without

PROGRAM = "python -m train.autoencode"
VARIATIONAL = ("vae", "conv_vae")


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
    """beta: the weight of the KL divergence of the codes from the prior"""
    binarize: Binarization = "stochastic"
    """how grey becomes black or white: at random each time, above one half, or not at all:
    then grey is the probability of white"""


@dataclass(frozen=True)
class Config(app.ImageRun):
    """Train an autoencoder, and leave pictures of what it makes."""

    MODELS = ("dense", "conv", *VARIATIONAL)

    model: str | None = None
    """dense, conv, vae or conv_vae; by default dense"""
    latent: Count | None = None
    """latent dimensions; by default 32, for vae 20, for digits 8"""
    noise: NotNegative = 0.0
    """standard deviation of the noise to remove (denoising), where white is 1 and black 0"""
    epochs: Count = 60
    """the maximum number of epochs"""
    learning_rate: app.LearningRate = 2e-3
    """the peak learning rate"""
    network: Network = Network()
    vae: Annotated[Variation, OnlyWith(model=VARIATIONAL)] = Variation()
    augment: Annotated[app.Augment, Without("auto")] = app.Augment()

    @property
    def varies(self) -> bool:
        """Whether the model is a variational one."""
        return self.model in VARIATIONAL

    @property
    def variant(self) -> str:
        """The model, the length of the code, and the noise."""
        return f"{self.model}{self.latent}" + (f"-noise{self.noise:g}" if self.noise else "")

    def with_defaults(self) -> Config:
        """With its model and the length of the code."""
        config = super().with_defaults()
        usual = 8 if self.data == "digits" else 20 if config.varies else 32
        return replace(config, latent=self.latent or usual)


def problem(config: Config) -> app.Problem:
    """The images themselves, through a short code."""
    train, valid, test, _ = config.read()
    convolves = config.model in ("conv", "conv_vae")
    model = autoencoder(
        config.latent or 1,
        train.inputs.shape[1:],
        widths=config.network.filters if convolves else config.network.hidden,
        convolves=convolves,
        varies=config.varies,
    )
    optimizer, noise = config.optimizer_for(len(train)), config.noise
    vae = {"varies": True, **asdict(config.vae)} if config.varies else {}
    task = reconstruction(model, optimizer, train, noise=noise, **vae)
    pictures = CodePictures(task, test, config.seed)
    report, callbacks = pictures.report, pictures.callbacks
    return app.Problem(task, train, valid, report, config.augment, callbacks)


train = partial(app.run, problem)
main = app.command(Config, train, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
