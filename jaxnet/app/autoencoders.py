"""Autoencoders of images: the networks by name, and what they learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from jaxnet.app.networks import network

if TYPE_CHECKING:
    import flax.linen as nn

    from jaxnet.data import Arrays, ImageFolder
    from jaxnet.training.tasks.reconstruction import Reconstruction

Binarization = Literal["stochastic", "fixed", "none"]


def autoencoder(
    codes: int, shape: tuple[int, ...], *, widths: tuple[int, ...], convolves: bool, varies: bool
) -> nn.Module:
    """An encoder and its mirror image.

    Args:
        codes: the length of a code.
        shape: of an image, (height, width, channels).
        widths: the units, or the filters, of each layer of the encoder.
        convolves: whether the layers are convolutions.
        varies: whether it is a variational one, whose codes have a mean and a variance.
    """
    kind, sizes = ("Conv", "filters") if convolves else ("Dense", "hidden")
    outputs = codes * (2 if varies else 1)
    encoder = network(f"autoencoder:{kind}Encoder", {"features": outputs, sizes: widths})
    decoder = network(f"autoencoder:{kind}Decoder", {"shape": shape, sizes: widths[::-1]})
    name = "VAE" if varies else "Autoencoder"
    return network(f"autoencoder:{name}", {"encoder": encoder, "decoder": decoder})


def reconstruction(
    model: nn.Module,
    optimizer: Any,
    train: Arrays | ImageFolder,
    *,
    noise: float = 0.0,
    varies: bool = False,
    beta: float = 1.0,
    binarize: Binarization = "none",
) -> Reconstruction:
    """To reconstruct the images, or the evidence lower bound of a variational autoencoder.

    Args:
        model: of `autoencoder`.
        optimizer: an Optax transformation.
        train: the training images.
        noise: the standard deviation of the noise that is added to the inputs.
        varies: whether the model is a variational one.
        beta: see `jaxnet.training.tasks.variational.Variational`.
        binarize: how grey becomes black or white.
    """
    from jaxnet import losses, metrics
    from jaxnet.data import fit_range, sample
    from jaxnet.losses.density import bernoulli
    from jaxnet.training.tasks import variational
    from jaxnet.training.tasks.reconstruction import GaussianNoise, Reconstruction, nothing

    options: dict[str, Any] = {
        "preprocess": fit_range(sample(train)),
        "noise": GaussianNoise(noise) if noise else nothing,
    }
    if not varies:
        mse = {"mse": metrics.mean_squared_error}
        return Reconstruction(model, losses.squared_error, optimizer, eval_metrics=mse, **options)
    observed = {
        "stochastic": variational.stochastic_binarization,
        "fixed": variational.fixed_binarization,
        "none": nothing,
    }
    options |= {"beta": beta, "observe": observed[binarize]}
    return variational.Variational(model, bernoulli, optimizer, **options)
