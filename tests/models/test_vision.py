"""What all vision models have in common: published sizes, smallest images, and learning."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxnet.models.resnet import STAGES
from jaxnet.models.vit import SIZES

from jaxnet import losses, trees
from jaxnet.errors import InputError, UsageError
from jaxnet.models import VGG, AlexNet, CIFARResNet, GoogLeNet, ResNet, ViT
from jaxnet.training import Supervised
from tests.networks import drawn


def shapes(model, *shape):
    """The shapes of the outputs and the variables."""
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (VGG(11), 132_863_336),
        (VGG(11, batch_norm=True), 132_868_840),
        (VGG(13), 133_047_848),
        (VGG(19, batch_norm=True), 143_678_248),
        (ResNet(34), 21_797_672),
        # Tracing a hundred layers takes seconds.
        pytest.param(ResNet(101), 44_549_160, marks=pytest.mark.slow),
        pytest.param(ResNet(152), 60_192_808, marks=pytest.mark.slow),
        (CIFARResNet(32), 464_154),
        (CIFARResNet(56), 853_018),
        (ViT(16, **SIZES["s"]), 22_050_664),
        pytest.param(ViT(32, **SIZES["b"]), 88_224_232, marks=pytest.mark.slow),
        pytest.param(ViT(16, **SIZES["l"]), 304_326_632, marks=pytest.mark.slow),
    ],
)
def test_published_sizes(model, parameters):
    # Of torchvision's documentation; the models' own examples have the ones of the papers.
    size = 224 if isinstance(model, ViT) else 32
    _, variables = shapes(model, 1, size, size, 3)
    assert trees.count(variables["params"]) == parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "smallest"),
    [(AlexNet(4), 63), (VGG(11, num_classes=4), 32), (GoogLeNet(4, auxiliary=False), 15)],
)
def test_the_smallest_image_is_what_the_error_says(model, smallest, monkeypatch):
    outputs, _ = shapes(model, 2, smallest, smallest + 5, 1)
    assert outputs.shape == (2, 4)
    with pytest.raises(InputError, match=rf"99x{smallest - 1} are too.*{smallest}x{smallest}"):
        shapes(model, 2, 99, smallest - 1, 1)
    # One pixel less does run out of pixels.
    monkeypatch.setattr(f"{type(model).__module__}.check_images", lambda *_, **__: None)
    with pytest.raises(InputError, match="longer than the input"):
        shapes(model, 2, smallest, smallest - 1, 1)


@pytest.mark.slow
def test_vit_refuses_what_patches_do_not_divide():
    assert shapes(ViT(4, 5), 2, 8, 12, 1)[0].shape == (2, 5)
    with pytest.raises(InputError, match="patches of 4x4 don't divide images of 8x10"):
        shapes(ViT(4), 2, 8, 10, 1)
    with pytest.raises(InputError, match=r"8x8 are too small.*16x16"):
        shapes(ViT(), 2, 8, 8, 1)


@pytest.mark.slow
@pytest.mark.parametrize("model", [ResNet(18, 4), ResNet(50, 4), CIFARResNet(20, 4)])
def test_residual_networks_take_images_of_any_size(model):
    for size in ((1, 1), (7, 30)):
        assert shapes(model, 2, *size, 1)[0].shape == (2, 4)
    with pytest.raises(InputError, match=r"\(batch, height, width, channels\), got \(2, 8, 8\)"):
        shapes(model, 2, 8, 8)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (VGG(12), "unknown depth of VGG '12'"),
        (ResNet(20), "unknown depth of ResNet '20'"),
        (CIFARResNet(18), "6 n \\+ 2 layers: 20, 32, 44, 56, ..., got depth 18"),
    ],
)
def test_there_is_no_such_depth(model, words):
    with pytest.raises(UsageError, match=words):
        shapes(model, 1, 32, 32, 3)


# Of the others test_vision_parity.py has the outputs and the gradients by the inputs, and of
# GoogLeNet, whose gradients compile for minutes, the heads in training.
TINY = {
    "resnet50": (ResNet(50, 3, width=4), 16),
    "cifar": (CIFARResNet(8, 3, width=4), 8),
    "vit": (ViT(4, 3, num_layers=2, width=8, mlp=16, num_heads=2), 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_step_lowers_the_loss_and_update_the_running_statistics(name, monkeypatch):
    # One block of each kind: the size changes, and it doesn't.
    monkeypatch.setitem(STAGES, "50", (2, 1))
    model, size = TINY[name]
    rng = np.random.default_rng(0)
    batch = {
        "inputs": jnp.asarray(rng.normal(size=(6, size, size, 3)).astype(np.float32)),
        "labels": jnp.asarray(np.arange(6) % 3),
        "mask": jnp.asarray(np.ones(6, bool)),
    }
    # So small a step that it goes down the gradient's own way: these are wild landscapes, with
    # batches of 6 normalised at a single pixel.
    optimizer = optax.sgd(3e-5)
    task = Supervised(model, losses.cross_entropy, optimizer)
    variables = drawn(model, batch["inputs"])
    params = variables.pop("params")
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
    start = state = replace(
        shapes,
        step=jnp.asarray(np.zeros((), np.int32)),
        params=params,
        collections=variables,
        opt_state=optimizer.init(params),
        key=jax.random.key(0),
    )
    step = jax.jit(task.train_step)
    seen = []
    for _ in range(2):
        state, metrics = step(state, batch)
        seen.append(float(metrics["loss"].compute()))
    assert seen[1] < seen[0]
    start, state = ((a.params, a.collections) for a in (start, state))
    before, after = jax.device_get(start), jax.device_get(state)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before[1], after[1])
    assert jax.tree.all(moved)
    assert bool(jax.tree.leaves(moved)) == (name != "vit")
    still = jax.tree.map(
        lambda path, a, b: path if bool((a == b).all()) else "",
        trees.paths(before[0]),
        before[0],
        after[0],
    )
    silent = [path for path in jax.tree.leaves(still) if path]
    assert not silent, silent


@pytest.mark.slow
def test_dropout_acts_in_training_only():
    model = VGG(11, num_classes=3, width=2, dense=(16,))
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
    variables = drawn(model, x)
    apply = jax.jit(partial(model.apply, train=True))
    one, other = (apply(variables, x, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert not np.allclose(one, other)
