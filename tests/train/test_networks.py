"""The networks of `train.classify` by name."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import models
from jaxnet.app import image_networks
from jaxnet.app.image_networks import MODELS, Network
from jaxnet.errors import UsageError
from jaxnet.options import settled
from train.classify import Config


@dataclass(frozen=True)
class Data:
    """As much of a data set as a network is built from."""

    inputs: np.ndarray
    num_classes: int = 7


def build(name: str, *shape: int, **options):
    config = Config(model=name, network=Network(**options))
    return image_networks.build(config, Data(np.empty((1, *shape), np.uint8)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("alexnet", models.AlexNet(7)),
        ("vgg13", models.VGG(13, num_classes=7)),
        ("vgg16_bn", models.VGG(16, True, 7)),
        ("googlenet", models.GoogLeNet(7)),
        ("resnet34", models.ResNet(34, 7)),
        ("resnet56", models.CIFARResNet(56, 7)),
        ("vit_s", models.ViT(4, 7, 12, 384, 1536, 6)),
    ],
)
def test_a_name_stands_for_a_network(name, model):
    assert build(name, 32, 32, 3) == model


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("mlp", "lenet5")])
def test_every_network_reads_its_images(name):
    model = build(name, 64, 64, 3)
    outputs, _ = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, 64, 64, 3))
    )
    assert outputs.shape == (2, 7)


def test_options_reach_the_networks():
    assert build("vgg11", 32, 32, 3, dropout=0.1).dropout == 0.1
    assert build("alexnet", 64, 64, 3).dropout == 0.5
    assert build("googlenet", 64, 64, 3, dropout=0.4).dropout == 0.4
    assert build("vit_b", 32, 32, 3, dropout=0.1, patch_size=8) == models.ViT(8, 7, dropout=0.1)


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "resnet20"])
def test_dropout_is_refused_where_there_is_none(name):
    with pytest.raises(UsageError, match=rf"--network\.dropout 0\.1 .* this is --model {name}\."):
        settled(Config(model=name, network=Network(dropout=0.1)))


def test_a_patch_of_nothing_is_refused():
    with pytest.raises(UsageError, match=r"expected --network\.patch-size of at least 1, got 0"):
        Config(network=Network(patch_size=0))


@pytest.mark.parametrize(
    ("image", "patch_size"),
    [
        ((224, 224), 16),
        ((64, 64), 8),
        ((32, 32), 4),
        ((28, 28), 4),
        ((8, 8), 1),
        ((14, 32), 2),
        ((33, 33), 16),
    ],
)
def test_patches_suit_the_image(image, patch_size):
    assert build("vit_s", *image, 3).patch_size == patch_size
