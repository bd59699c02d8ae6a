"""The shapes in signatures are checked while tests run: otherwise they would be mere comments."""

from __future__ import annotations

import importlib

import jax.numpy as jnp
import jaxtyping
import pytest

from jaxnet import layers, losses, metrics
from jaxnet.layers.activations import leaky_relu

WRONG = {
    "jaxnet.layers.activations": lambda: leaky_relu(jnp.arange(3)),
    "jaxnet.layers.convolution": lambda: layers.conv(jnp.zeros((1, 3, 1), int), jnp.zeros(())),
    "jaxnet.layers.maxout": lambda: layers.Maxout(2).apply({}, jnp.arange(3)),
    "jaxnet.layers.pooling": lambda: layers.global_avg_pool(jnp.zeros(3)),
    "jaxnet.layers.separable": lambda: layers.DepthwiseConv(3).apply({}, jnp.zeros(3)),
    "jaxnet.layers.sequential": lambda: layers.Flatten().apply({}, jnp.zeros(())),
    "jaxnet.layers.transposed": lambda: layers.conv_transpose(jnp.zeros(3), jnp.zeros(3)),
    "jaxnet.losses.classification": lambda: losses.hinge(jnp.arange(3), jnp.arange(3)),
    "jaxnet.losses.regression": lambda: losses.huber(jnp.arange(3), jnp.arange(3)),
    "jaxnet.metrics": lambda: metrics.accuracy(jnp.zeros((2, 3)), jnp.arange(2), jnp.arange(2)),
}


@pytest.mark.parametrize("module", WRONG)
def test_a_wrong_shape_is_caught(module):
    importlib.import_module(module)
    with pytest.raises(jaxtyping.TypeCheckError, match="problem arose whilst typechecking"):
        WRONG[module]()
