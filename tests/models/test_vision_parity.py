"""The vision models against torchvision's: its weights in ours give its outputs and gradients."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jaxnet.models.resnet import STAGES

from jaxnet.models import VGG, AlexNet, GoogLeNet, ResNet, ViT
from tests.models.torch_twin import (
    assert_near,
    assert_same_outputs,
    assert_same_results,
    assert_twins,
    copied,
    random_images,
    randomized,
    torchvision,
)


def narrow(classifier):
    """The dense layers with fewer hidden units, which are as good for a comparison and quicker."""
    import torch

    layers = []
    for layer in classifier:
        if isinstance(layer, torch.nn.Linear):
            inputs, outputs = (16 if n == 4096 else n for n in layer.weight.shape[::-1])
            layer = torch.nn.Linear(inputs, outputs)
        layers.append(layer)
    return torch.nn.Sequential(*layers)


@pytest.mark.slow
def test_alexnet():
    theirs = torchvision().models.AlexNet(num_classes=7).eval()
    theirs.classifier = narrow(theirs.classifier)
    ours = AlexNet(num_classes=7, dense=(16, 16))
    assert_twins(theirs, ours, random_images(2, 63, 70, 3), {256 * 6 * 6: 6})


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg(batch_norm):
    build = torchvision().models.vgg11_bn if batch_norm else torchvision().models.vgg11
    theirs = randomized(build(num_classes=7, init_weights=False))
    theirs.classifier = narrow(theirs.classifier).eval()
    ours = VGG(11, batch_norm=batch_norm, num_classes=7, dense=(16, 16))
    # The gradients go through the same layers with the norms between them.
    compare = assert_twins if batch_norm else assert_same_outputs
    compare(theirs, ours, random_images(2, 33, 64, 3), {512 * 7 * 7: 7})


def googlenet(**options):
    return randomized(
        torchvision().models.GoogLeNet(
            num_classes=7, init_weights=False, dropout=0.0, dropout_aux=0.0, **options
        )
    )


@pytest.mark.slow
def test_googlenet():
    theirs = googlenet(aux_logits=False)
    # Its gradients take minutes to compile, and go through the layers of the other networks.
    assert_same_outputs(theirs, GoogLeNet(7, auxiliary=False), random_images(2, 47, 64, 3))


@pytest.mark.slow
def test_googlenets_heads_in_training():
    import torch

    theirs, images = googlenet(aux_logits=True), random_images(2, 64, 64, 3)
    ours = GoogLeNet(7, dropout=0.0, auxiliary_dropout=0.0)
    variables = copied(theirs, ours, images, {128 * 4 * 4: 4})
    want = theirs.double().train()(torch.tensor(images.transpose(0, 3, 1, 2)).double())
    # In float64: through the statistics of 22 batch norms float32's rounding becomes 1e-4.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        variables, images = jax.tree.map(lambda leaf: leaf.astype(np.float64), (variables, images))
        apply = jax.jit(lambda v: ours.apply(v, images, train=True, mutable=["batch_stats"]))
        heads, _ = apply(variables)
    for got, theirs in zip(heads, (want.logits, want.aux_logits1, want.aux_logits2), strict=True):
        assert_near(got, theirs, 1e-9)


@pytest.mark.slow
def test_resnet(monkeypatch):
    resnet, stages = torchvision().models.resnet, (2, 1, 1, 1)
    theirs = randomized(resnet.ResNet(resnet.BasicBlock, stages, num_classes=7))
    monkeypatch.setitem(STAGES, "18", stages)
    assert_twins(theirs, ResNet(18, num_classes=7), random_images(2, 32, 45, 3))


@pytest.mark.slow
def test_resnet_of_bottlenecks():
    theirs = randomized(torchvision().models.resnet50(num_classes=7))
    assert_same_outputs(theirs, ResNet(50, num_classes=7), random_images(2, 33, 48, 3))


def vit_variables(theirs, width):
    """The weights of a torchvision ViT as ours."""
    given = {name: value.numpy() for name, value in theirs.state_dict().items()}

    def dense(name):
        return {"kernel": given[f"{name}.weight"].T, "bias": given[f"{name}.bias"]}

    def norm(name):
        return {"scale": given[f"{name}.weight"], "bias": given[f"{name}.bias"]}

    def block(name):
        kernels = np.split(given[f"{name}.self_attention.in_proj_weight"].T, 3, axis=1)
        biases = np.split(given[f"{name}.self_attention.in_proj_bias"], 3)
        attention = {
            part: {"kernel": kernel, "bias": bias}
            for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True)
        }
        return {
            "self_attention_norm": norm(f"{name}.ln_1"),
            "self_attention": {**attention, "out": dense(f"{name}.self_attention.out_proj")},
            "mlp_norm": norm(f"{name}.ln_2"),
            "mlp": {"up": dense(f"{name}.mlp.0"), "down": dense(f"{name}.mlp.3")},
        }

    patches = given["conv_proj.weight"].transpose(2, 3, 1, 0).reshape(-1, width)
    return {
        "params": {
            "patches": {"kernel": patches, "bias": given["conv_proj.bias"]},
            "class_token": given["class_token"],
            "positions": {"embedding": given["encoder.pos_embedding"][0]},
            "encoder": {
                f"blocks_{i}": block(f"encoder.layers.encoder_layer_{i}") for i in range(2)
            },
            "norm": norm("encoder.ln"),
            "head": dense("heads.head"),
        }
    }


@pytest.mark.slow
def test_vit():
    vision_transformer = torchvision().models.vision_transformer
    theirs = vision_transformer.VisionTransformer(
        image_size=32,
        patch_size=16,
        num_layers=2,
        num_heads=4,
        hidden_dim=24,
        mlp_dim=40,
        num_classes=7,
    ).eval()
    for name, values in theirs.named_parameters():
        if values.ndim == 1 or "class_token" in name or "head" in name:  # they start as 0 or 1
            values.data.uniform_(-1.0, 1.0)
    ours = ViT(16, 7, num_layers=2, width=24, mlp=40, num_heads=4)
    assert_same_results(theirs, ours, vit_variables(theirs, 24), random_images(2, 32, 32, 3))
