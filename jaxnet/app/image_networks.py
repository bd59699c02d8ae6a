"""The networks of classifiers of images and tables: their options, and what suits the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from jaxnet.app.networks import NAMED, given, network
from jaxnet.options import Count, OnlyWith, Share

if TYPE_CHECKING:
    import flax.linen as nn

    from jaxnet.data import Arrays, ImageFolder

MODELS = ("cnn", "mlp", "alexnet", "googlenet", *NAMED)
VGGS = tuple(name for name in NAMED if name.startswith("vgg"))
VITS = tuple(name for name in NAMED if name.startswith("vit"))


@dataclass(frozen=True)
class Network:
    """The network's size, where its kind leaves a choice."""

    hidden: Annotated[tuple[Count, ...] | None, OnlyWith(model="mlp")] = None
    """the width of each hidden layer; by default 300 100, and 64 32 for tables"""
    filters: Annotated[tuple[Count, ...], OnlyWith(model="cnn")] = ()
    """the filters of each convolution; by default a choice that suits the data"""
    dense: Annotated[tuple[Count, ...], OnlyWith(model="cnn")] = (64,)
    """the width of each hidden layer after the convolutions"""
    batch_norm: Annotated[bool, OnlyWith(model="cnn")] = True
    """normalise after each convolution"""
    dropout: Annotated[
        Share | None, OnlyWith(model=("cnn", "mlp", "alexnet", *VGGS, "googlenet", *VITS))
    ] = None
    """the dropout rate; by default 0.5 for cnn, 0 for mlp and vit,
    0.3 for mlp on tables, and the paper's for alexnet, vgg and googlenet"""
    patch_size: Annotated[Count | None, OnlyWith(model=VITS)] = None
    """height and width of a patch; by default the largest of 16, 8, 4, 2 that divides the image
    into at least 7 by 7"""


def build(config: Any, data: Arrays | ImageFolder) -> nn.Module:
    """The network that a configuration names, with what it leaves open as it suits the data."""
    shape, chosen = data.inputs.shape[1:], given(config)
    suited: dict[str, Any] = {}
    if config.model == "mlp":
        table = len(shape) == 1
        suited = {"hidden": (64, 32) if table else (300, 100), "dropout": 0.3 if table else 0.0}
    elif config.model == "cnn":
        small = shape[0] < 16
        suited = {"padding": "SAME" if small else "VALID", "dropout": 0.5}
        chosen["filters"] = chosen["filters"] or ((32, 64) if small else (32, 64, 64))
    elif config.model in VITS:
        suited = {"patch_size": _patch_size(shape[:2])}
    return network(config.model, {"num_classes": data.num_classes, **suited, **chosen})


def _patch_size(image: tuple[int, ...]) -> int:
    for size in (16, 8, 4, 2):
        if all(pixels % size == 0 and pixels // size >= 7 for pixels in image):
            return size
    # A token for each pixel is for tiny images only.
    return 1 if max(image) < 14 else 16
