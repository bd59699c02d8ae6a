"""What goes in as bfloat16, float32 or float64 comes out as that, and its gradients too."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnet import layers, losses
from jaxnet.layers.activations import ACTIVATIONS
from jaxnet.layers.initializers import INITIALIZERS
from tests.test_losses import LOGITS, labels_for

DTYPES = ["bfloat16", "float32", "float64"]
IMAGES = (2, 6, 6, 4)
WITH_PARAMETERS = {
    "Dense": {"features": 3},
    "Conv": {"features": 3, "kernel_size": 3},
    "ConvTranspose": {"features": 3, "kernel_size": 3, "strides": 2},
    "DepthwiseConv": {"kernel_size": 3},
    "SeparableConv": {"features": 3, "kernel_size": 3},
    "Maxout": {"features": 3},
    "LayerNorm": {},
    "PReLU": {},
}
PLAIN: dict[str, dict[str, Any]] = {
    **{name: {"window": 3, "strides": 2} for name in ("MaxPool", "MinPool", "AvgPool")},
    **{name: {} for name in ("GlobalMaxPool", "GlobalMinPool", "GlobalAvgPool", "Flatten")},
    "Dropout": {"rate": 0.5, "deterministic": False},
}


def outputs_and_gradients(layer: nn.Module, inputs: Any) -> Any:
    """The types, found without compiling anything."""
    variables = layer.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, inputs)

    def apply(variables: Any, inputs: Any) -> Any:
        y = layer.apply(variables, inputs, rngs={"dropout": jax.random.key(2)})
        return y.sum(), y

    gradients, outputs = jax.grad(apply, argnums=(0, 1), has_aux=True)(variables, inputs)
    return variables, outputs, gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*WITH_PARAMETERS, *PLAIN])
def test_a_layer_keeps_the_type(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        if name in WITH_PARAMETERS:
            options = {**WITH_PARAMETERS[name], "param_dtype": dtype}
        else:
            options = PLAIN[name]
        # Flax's normalisations compute half precision in float32, on purpose.
        mixed = "standard" if name == "LayerNorm" else "strict"
        with jax.numpy_dtype_promotion(mixed):
            found = jax.eval_shape(
                lambda x: outputs_and_gradients(getattr(layers, name)(**options), x),
                jax.ShapeDtypeStruct(IMAGES, dtype),
            )
        assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {dtype}


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_layers_compute_in_the_type_they_are_told(dtype):
    with jax.enable_x64(dtype == "float64"):
        for name in ("Dense", "Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv", "Maxout"):
            layer = getattr(layers, name)(**WITH_PARAMETERS[name], dtype=dtype)
            inputs = jax.ShapeDtypeStruct(IMAGES, "float32")
            outputs, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), inputs)
            assert outputs.dtype == dtype
            assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_embeddings_activations_and_initializers_keep_the_type(dtype):
    with jax.enable_x64(dtype == "float64"):
        table = layers.Embed(5, 3, param_dtype=dtype)
        tokens = jax.ShapeDtypeStruct((2, 4), "int32")
        outputs, _ = jax.eval_shape(table.init_with_output, jax.random.key(0), tokens)
        assert outputs.dtype == dtype
        for activation in ACTIVATIONS.values():
            assert jax.eval_shape(activation, jax.ShapeDtypeStruct((3,), dtype)).dtype == dtype
        for initializer in INITIALIZERS.values():
            drawn = jax.eval_shape(
                lambda key, i=initializer: i(key, (4, 3), dtype), jax.random.key(0)
            )
            assert drawn.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_remembers_in_float32_unless_told_otherwise(dtype):
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        own = {"param_dtype": dtype, "force_float32_reductions": False}
        layer = layers.BatchNorm(**(own if dtype == "float64" else {"dtype": dtype}))

        def train(x):
            variables = layer.init(jax.random.key(0), x, use_running_average=True)
            y, updated = layer.apply(
                variables, x, use_running_average=False, mutable=["batch_stats"]
            )
            return y, updated

        y, updated = jax.eval_shape(train, jax.ShapeDtypeStruct(IMAGES, dtype))
        assert y.dtype == dtype
        kept = "float64" if dtype == "float64" else "float32"
        assert {leaf.dtype.name for leaf in jax.tree.leaves(updated)} == {kept}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_loss_is_float32_at_least_and_its_gradient_has_the_type_of_the_outputs(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        labels, outputs = jnp.asarray(labels_for(name)), jax.ShapeDtypeStruct(LOGITS.shape, dtype)
        made = [losses.LOSSES[name]]
        if jnp.issubdtype(labels.dtype, jnp.integer):
            made.append(losses.masked(losses.with_class_weights(made[0], [1.0, 2.0, 0.5, 1.0])))
        for loss in made:
            per_example = jax.eval_shape(loss, outputs, labels)
            gradient = jax.eval_shape(jax.grad(lambda z, f=loss: f(z, labels).sum()), outputs)
            assert per_example.dtype == ("float64" if dtype == "float64" else "float32")
            assert gradient.dtype == dtype


def test_float64_convolutions_are_exact_to_float64():
    rng = np.random.default_rng(0)
    signal, kernel = rng.normal(size=9), rng.normal(size=3)
    with jax.enable_x64(True):
        x, k = jnp.asarray(signal).reshape(1, 9, 1), jnp.asarray(kernel).reshape(3, 1, 1)
        full = layers.conv_transpose(x, k).ravel()
        valid = layers.conv(x, k).ravel()
        slope = jax.grad(lambda k: layers.conv(x, k).sum())(k).ravel()
        np.testing.assert_allclose(full, np.convolve(signal, kernel), rtol=1e-13)
        np.testing.assert_allclose(valid, np.correlate(signal, kernel, "valid"), rtol=1e-13)
        np.testing.assert_allclose(slope, [signal[i : i + 7].sum() for i in range(3)], rtol=1e-13)
