"""Residual networks: the shortcuts, and the networks for CIFAR."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxnet.models.resnet import BasicBlock, PaddedBlock

from jaxnet import Bundle
from jaxnet.models import CIFARResNet
from tests.networks import drawn


def silenced(variables):
    """The variables of a block whose convolutions give nothing, so that its shortcut is left."""
    params = {**variables["params"], "Conv_1": {"kernel": jnp.zeros((3, 3, 6, 6))}}
    return {**variables, "params": params}


def test_option_a_takes_every_second_pixel_and_adds_features_of_zeros():
    x = np.random.default_rng(0).uniform(size=(2, 5, 4, 3)).astype(np.float32)
    block = PaddedBlock(6, strides=2)
    variables = drawn(block, x)
    assert set(variables["params"]) == {"Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1"}
    outputs = jax.jit(block.apply)(silenced(variables), x)
    assert outputs.shape == (2, 3, 2, 6)
    np.testing.assert_array_equal(outputs[..., 1:4], x[:, ::2, ::2])
    assert not outputs[..., [0, 4, 5]].any()


def test_option_b_projects_only_where_the_shape_changes():
    x = np.random.default_rng(0).uniform(size=(2, 4, 4, 6)).astype(np.float32)
    same = drawn(BasicBlock(6), x)
    assert set(same["params"]) == {"Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1"}
    outputs = jax.jit(BasicBlock(6).apply)(silenced(same), x)
    np.testing.assert_array_equal(outputs, x)
    halved = jax.eval_shape(BasicBlock(6, strides=2).init, jax.random.key(0), x)
    assert halved["params"]["Conv_2"]["kernel"].shape == (1, 1, 6, 6)


@pytest.mark.slow
def test_the_layers_are_as_many_as_the_depth_says():
    for depth in (20, 44):
        images = jnp.zeros((1, 32, 32, 3))
        variables = jax.eval_shape(CIFARResNet(depth).init, jax.random.key(0), images)
        kernels = [
            path
            for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
            if path[-1].key == "kernel"
        ]
        assert len(kernels) == depth


@pytest.mark.slow
def test_a_bundle_brings_a_network_back(tmp_path):
    model = CIFARResNet(8, num_classes=2, width=4)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    variables = drawn(model, x)
    Bundle(model, variables, jax.ShapeDtypeStruct(x.shape[1:], x.dtype)).save(tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.model == model
    want = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(bundle.predict(x), want, rtol=1e-4, atol=1e-5)
