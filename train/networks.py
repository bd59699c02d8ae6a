"""The networks of `train.classify` by name, and their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from jaxnet.options import Count, OnlyWith, Share

if TYPE_CHECKING:
    import flax.linen as nn

    from jaxnet.data import Arrays, ImageFolder

    Data = Arrays | ImageFolder
    Build = Callable[["Network", Data], nn.Module]


VGG_DEPTHS = (11, 13, 16, 19)
VGGS = tuple(f"vgg{depth}{norm}" for norm in ("", "_bn") for depth in VGG_DEPTHS)
VITS = ("vit_s", "vit_b", "vit_l")


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
    """the share of hidden units left out in training; by default 0.5 for cnn, 0 for mlp and vit,
    0.3 for mlp on tables, and the paper's for alexnet, vgg and googlenet"""
    patch_size: Annotated[Count | None, OnlyWith(model=VITS)] = None
    """height and width of a patch; by default the largest of 16, 8, 4, 2 that divides the image
    into at least 7 by 7"""


def _mlp(network: Network, data: Data) -> nn.Module:
    from jaxnet.models import MLP

    table = data.inputs.ndim == 2
    hidden, dropout = network.hidden, network.dropout
    return MLP(
        hidden=((64, 32) if table else (300, 100)) if hidden is None else hidden,
        num_classes=data.num_classes,
        dropout=(0.3 if table else 0.0) if dropout is None else dropout,
    )


def _cnn(network: Network, data: Data) -> nn.Module:
    from jaxnet.models import CNN

    small = data.inputs.shape[1] < 16
    return CNN(
        filters=network.filters or ((32, 64) if small else (32, 64, 64)),
        dense=network.dense,
        num_classes=data.num_classes,
        dropout=0.5 if network.dropout is None else network.dropout,
        padding="SAME" if small else "VALID",
        batch_norm=network.batch_norm,
    )


def _plain(kind: str, **options: Any) -> Build:
    """A network of `models` that has nothing to choose but the number of classes."""

    def build(network: Network, data: Data) -> nn.Module:
        return _of_zoo(kind, data, **options)

    return build


def _with_dropout(kind: str, **options: Any) -> Build:
    """Likewise, but for the dropout."""

    def build(network: Network, data: Data) -> nn.Module:
        chosen = {} if network.dropout is None else {"dropout": network.dropout}
        return _of_zoo(kind, data, **options, **chosen)

    return build


def _of_zoo(kind: str, data: Data, **options: Any) -> nn.Module:
    from jaxnet import models

    return getattr(models, kind)(num_classes=data.num_classes, **options)


def _vit(size: str) -> Build:
    def build(network: Network, data: Data) -> nn.Module:
        from jaxnet.models import ViT, vit

        patch_size = network.patch_size
        if patch_size is None:
            patch_size = _patch_size(data.inputs.shape[1:3])
        dropout = 0.0 if network.dropout is None else network.dropout
        return ViT(patch_size, data.num_classes, dropout=dropout, **vit.SIZES[size])

    return build


def _patch_size(image: tuple[int, ...]) -> int:
    for size in (16, 8, 4, 2):
        if all(pixels % size == 0 and pixels // size >= 7 for pixels in image):
            return size
    # A token for each pixel is for tiny images only.
    return 1 if max(image) < 14 else 16


def _each(name: str, depths: tuple[int, ...], make: Callable[..., Build]) -> dict[str, Build]:
    """The networks of a family, which go by their depth."""
    return {name.format(depth): make(depth=depth) for depth in depths}


MODELS: Mapping[str, Build] = {
    "cnn": _cnn,
    "mlp": _mlp,
    "lenet5": _plain("LeNet5"),
    "alexnet": _with_dropout("AlexNet"),
    **_each("vgg{}", VGG_DEPTHS, partial(_with_dropout, "VGG")),
    **_each("vgg{}_bn", VGG_DEPTHS, partial(_with_dropout, "VGG", batch_norm=True)),
    "googlenet": _with_dropout("GoogLeNet"),
    **_each("resnet{}", (18, 34, 50, 101, 152), partial(_plain, "ResNet")),
    **_each("resnet{}", (20, 32, 44, 56), partial(_plain, "CIFARResNet")),
    **{name: _vit(name.removeprefix("vit_")) for name in VITS},
}
