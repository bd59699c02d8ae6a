"""A network of torchvision and ours with the same weights: what the parity tests compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import traverse_util
from flax.core import FrozenDict

from jaxnet.layers import Conv

# The layers that hold weights, ours and theirs.
OURS = (Conv, nn.BatchNorm, nn.Dense)
THEIRS = ("Conv2d", "BatchNorm2d", "Linear")


def torchvision() -> Any:
    """torchvision, or a skipped test. Its models start from the same weights every time."""
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    torch.manual_seed(0)
    if torch.version.cuda is None and not hasattr(torch.ops.torchvision, "nms"):
        # torchvision of the package index is built for CUDA. Beside a torch for the CPU its own
        # operators are missing, and its import fails where it only describes them. Beside a torch
        # for CUDA it brings them itself: defined twice, they end the process.
        from torch import library

        operators = library.Library("torchvision", "DEF")
        operators.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        operators.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        torchvision.operators = operators  # which undefines them when it goes
    return pytest.importorskip("torchvision", reason="needs the extra [parity]")


def randomized(model: Any, seed: int = 0) -> Any:
    """The torch model with random running statistics, scales and biases, in evaluation."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if type(module).__name__ == "BatchNorm2d":
            for values, low in ((module.running_var, 0.5), (module.weight, 0.5)):
                values.data.uniform_(low, low + 1.0, generator=generator)
            for values in (module.running_mean, module.bias):
                values.data.uniform_(-0.5, 0.5, generator=generator)
    return model.eval()


def copied(
    theirs: Any, ours: nn.Module, images: np.ndarray, sides: Mapping[int, int] = {}
) -> dict[str, Any]:
    """Our variables with the weights of the torch model, layer by layer in the order of the calls.

    Where an image is flattened for a Dense layer, its rows have another order there: channels come
    first. `sides` has the image's height and width by the number of the layer's inputs.
    """
    collections: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    pairs = zip(_their_layers(theirs, images), _our_layers(ours, images), strict=True)
    for layer, path in pairs:
        found = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
        kind, weight = type(layer).__name__, found["weight"]
        params = {} if found.get("bias") is None else {"bias": found["bias"]}
        if kind == "Conv2d":
            params["kernel"] = weight.transpose(2, 3, 1, 0)
        elif kind == "BatchNorm2d":
            params["scale"] = weight
            statistics = {"mean": found["running_mean"], "var": found["running_var"]}
            collections["batch_stats"][path] = statistics
        else:
            pixels = sides.get(weight.shape[1], 1) ** 2
            rows = weight.reshape(len(weight), -1, pixels)
            params["kernel"] = rows.transpose(2, 1, 0).reshape(-1, len(weight))
        collections["params"][path] = params
    return {
        name: traverse_util.unflatten_dict(layers, sep="/")
        for name, layers in collections.items()
        if layers
    }


def assert_same_outputs(
    theirs: Any, ours: nn.Module, images: np.ndarray, sides: Mapping[int, int] = {}
) -> None:
    """The same outputs, to 1e-4 of the largest, in evaluation, with the torch model's weights.

    For networks so deep that some unit is as good as 0: on which side of it rounding leaves it
    decides whether it has a gradient.
    """
    import torch

    variables = copied(theirs, ours, images, sides)
    _assert_ours_fit(ours, variables, images)
    want = theirs(torch.tensor(images.transpose(0, 3, 1, 2)))
    assert_near(jax.jit(ours.apply)(variables, images), want)


def assert_twins(
    theirs: Any, ours: nn.Module, images: np.ndarray, sides: Mapping[int, int] = {}
) -> None:
    """`assert_same_results` with the weights of the torch model in ours."""
    assert_same_results(theirs, ours, copied(theirs, ours, images, sides), images)


def assert_same_results(
    theirs: Any, ours: nn.Module, variables: dict[str, Any], images: np.ndarray
) -> None:
    """The same outputs and input gradients, to 1e-4 of the largest, in evaluation."""
    import torch

    _assert_ours_fit(ours, variables, images)
    given = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    want = theirs(given)
    cotangent = np.random.default_rng(1).normal(size=want.shape).astype(np.float32)
    (want * torch.tensor(cotangent)).sum().backward()

    def both(images):
        got, pull = jax.vjp(lambda x: ours.apply(variables, x), images)
        return got, *pull(cotangent)

    got, gradient = jax.jit(both)(images)
    assert_near(got, want)
    assert_near(gradient, given.grad.permute(0, 2, 3, 1))


def assert_near(got: Any, want: Any, bound: float = 1e-4) -> None:
    """Equal to a part of the largest number."""
    want = want.detach().numpy()
    assert got.shape == want.shape
    scale = np.abs(want).max()
    assert scale > 0
    np.testing.assert_allclose(np.asarray(got) / scale, want / scale, rtol=0, atol=bound)


def random_images(*shape: int) -> np.ndarray:
    """Images (batch, height, width, channels), float32."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _their_layers(model: Any, images: np.ndarray) -> list[Any]:
    """The layers that hold weights, in the order in which training calls them."""
    import torch

    called: list[Any] = []
    layers = [layer for layer in model.modules() if type(layer).__name__ in THEIRS]
    hooks = [layer.register_forward_pre_hook(lambda it, _: called.append(it)) for layer in layers]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    with torch.no_grad():
        model(torch.tensor(images.transpose(0, 3, 1, 2)))
    model.eval()
    model.load_state_dict(state)
    for hook in hooks:
        hook.remove()
    return called


def _our_layers(model: nn.Module, images: np.ndarray) -> list[str]:
    """The paths of our layers that hold weights, in the order in which they are called."""
    called: list[str] = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, OURS):
            called.append("/".join(context.module.path))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), images)
    return called


def _assert_ours_fit(model: nn.Module, variables: dict[str, Any], images: np.ndarray) -> None:
    """Every variable of ours got a value, of its own shape."""
    ours = jax.eval_shape(model.init, jax.random.key(0), images)
    assert dict(_shapes(ours)) == dict(_shapes(variables))


def _shapes(variables: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    plain = variables.unfreeze() if isinstance(variables, FrozenDict) else dict(variables)
    for path, value in traverse_util.flatten_dict(plain, sep="/").items():
        yield path, value.shape
