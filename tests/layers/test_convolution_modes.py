"""Every mode of convolution against PyTorch in float64: outputs and gradients to 1e-5."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.layers import conv, conv_transpose

SPATIAL, SIZE = (7, 6, 5), (3, 2, 3)
PADDINGS = ["VALID", "SAME", "FULL", 1, "pairs"]
PAIRS = ((1, 0), (0, 1), (2, 1))
STRIDES_DILATION_GROUPS = [(1, 1, 1), (2, 1, 2), (1, 2, 1), ((3, 1, 2), (1, 2, 1), 2)]
TORCH_BORDERS = {
    "zero": "constant",
    "reflect": "reflect",
    "edge": "replicate",
    "circular": "circular",
}
Case = dict[str, Any]


def crossed(some: list[Any], others: list[Any], every: int) -> list[tuple[Any, Any]]:
    """Each with each, or with every second of the others, all of which come up."""
    pairs = itertools.product(enumerate(some), enumerate(others))
    return [(a, b) for (i, a), (j, b) in pairs if (i + j) % every == 0]


def cases(rank: int) -> list[Case]:
    """All paddings by all steps without a border, and all borders by all paddings.

    Of three axes half of them: that compiles four times as long as two, and the code is the same.
    """
    found, every = [], 2 if rank == 3 else 1
    for padding, (strides, dilation, groups) in crossed(PADDINGS, STRIDES_DILATION_GROUPS, every):
        found.append({"padding": padding, "strides": strides, "dilation": dilation})
        found[-1] |= {"groups": groups, "border": "zero"}
    for border, padding in crossed(["reflect", "edge", "circular"], PADDINGS[1:], every):
        found.append({"padding": padding, "strides": 1, "dilation": 1})
        found[-1] |= {"groups": 1, "border": border}
    for case in found:
        if case["padding"] == "pairs":
            case["padding"] = PAIRS[:rank]
        for name in ("strides", "dilation"):
            if isinstance(case[name], tuple):
                case[name] = case[name][:rank]
    return found


def spread(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def pairs_of(case: Case, rank: int) -> list[tuple[int, int]]:
    """What each padding adds, by the textbook."""
    padding = case["padding"]
    strides, dilation = spread(case["strides"], rank), spread(case["dilation"], rank)
    reach = [d * (k - 1) + 1 for k, d in zip(SIZE[:rank], dilation, strict=True)]
    if padding == "VALID":
        return [(0, 0)] * rank
    if padding == "FULL":
        return [(r - 1, r - 1) for r in reach]
    if padding == "SAME":
        pairs = []
        for size, r, s in zip(SPATIAL[:rank], reach, strides, strict=True):
            total = max((math.ceil(size / s) - 1) * s + r - size, 0)
            pairs.append((total // 2, total - total // 2))
        return pairs
    return [(padding, padding)] * rank if isinstance(padding, int) else list(padding)


def tensors(x: np.ndarray, kernel: np.ndarray) -> tuple[Any, Any]:
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    x = np.moveaxis(x, -1, 1).astype(np.float64)
    kernel = np.moveaxis(kernel, (-1, -2), (0, 1)).astype(np.float64)
    return torch.tensor(x, requires_grad=True), torch.tensor(kernel, requires_grad=True)


def weights(shape: tuple[int, ...]) -> np.ndarray:
    """The gradient by the outputs."""
    return np.cos(np.arange(math.prod(shape))).reshape(shape)


def compare(got: Any, expected: Any, case: Case) -> None:
    for name, ours, theirs in zip(("y", "dx", "dkernel"), got, expected, strict=True):
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert ours.shape == theirs.shape and error < 1e-5, (name, error, case)


def torch_convolution(x: np.ndarray, kernel: np.ndarray, case: Case) -> list[np.ndarray]:
    import torch

    rank = kernel.ndim - 2
    tx, tk = tensors(x, kernel)
    flat = [n for pair in reversed(pairs_of(case, rank)) for n in pair]
    padded = torch.nn.functional.pad(tx, flat, mode=TORCH_BORDERS[case["border"]])
    convolve = getattr(torch.nn.functional, f"conv{rank}d")
    y = convolve(
        padded, tk, stride=case["strides"], dilation=case["dilation"], groups=case["groups"]
    )
    y.backward(torch.tensor(np.moveaxis(weights(last(y).shape), -1, 1)))
    return [last(y), last(tx.grad), np.moveaxis(tk.grad.numpy(), (0, 1), (-1, -2))]


def last(tensor: Any) -> np.ndarray:
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def data(rank: int, groups: int, spatial: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(2, *spatial[:rank], 4)).astype(np.float32)
    return x, rng.normal(size=(*SIZE[:rank], 4 // groups, 6)).astype(np.float32)


def with_gradients(function: Any, x: jax.Array, kernel: jax.Array) -> Any:
    y, back = jax.vjp(function, x, kernel)
    return y, *back(jnp.asarray(weights(y.shape), y.dtype))


# All modes of more axes take long to compile; test_convolution.py has the common ones.
@pytest.mark.parametrize("rank", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_convolution(rank):
    pytest.importorskip("torch", reason="needs the extra [parity]")
    chosen = cases(rank)
    operands = [data(rank, case["groups"], SPATIAL) for case in chosen]

    @jax.jit
    def all_cases(operands):
        return [
            with_gradients(lambda x, k, case=case: conv(x, k, **case), *both)
            for case, both in zip(chosen, operands, strict=True)
        ]

    for case, both, got in zip(chosen, operands, all_cases(operands), strict=True):
        compare(got, torch_convolution(*both, case), case)


TRANSPOSED = [
    {"strides": strides, "padding": padding, "output_padding": extra}
    | {"dilation": dilation, "groups": groups}
    for strides, padding, extra, dilation, groups in [
        (1, 0, 0, 1, 1),
        (1, 1, 0, 2, 1),
        (2, 1, 1, 1, 1),
        (3, 0, 2, 1, 1),
        (2, 2, 0, 2, 1),
        (3, 1, (1, 2, 0), 1, 2),
        ((2, 3, 1), (1, 0, 1), 0, (1, 2, 1), 2),
        (2, 1, 2, 3, 1),
        (1, 0, 1, 2, 1),
    ]
]


@pytest.mark.parametrize("rank", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_transposed_convolution(rank):
    torch = pytest.importorskip("torch", reason="needs the extra [parity]")
    chosen = [
        {key: v[:rank] if isinstance(v, tuple) else v for key, v in case.items()}
        for case in TRANSPOSED
    ]
    operands = [data(rank, case["groups"], (4, 3, 3)) for case in chosen]

    @jax.jit
    def all_cases(operands):
        results = []
        for case, (x, kernel) in zip(chosen, operands, strict=True):
            pads = [(p, p) for p in spread(case["padding"], rank)]
            ours = {**case, "padding": pads}
            results.append(
                with_gradients(lambda x, k, o=ours: conv_transpose(x, k, **o), x, kernel)
            )
        return results

    for case, (x, kernel), got in zip(chosen, operands, all_cases(operands), strict=True):
        tx, _ = tensors(x, kernel)
        # PyTorch's is (channels, features / groups, *size), with group after group of channels.
        parts = np.split(kernel.astype(np.float64), case["groups"], axis=-1)
        weight = np.concatenate([np.moveaxis(part, (-2, -1), (0, 1)) for part in parts])
        tk = torch.tensor(weight, requires_grad=True)
        names = {"strides": "stride", "padding": "padding", "output_padding": "output_padding"}
        options = {new: case[old] for old, new in names.items()}
        y = getattr(torch.nn.functional, f"conv_transpose{rank}d")(
            tx, tk, dilation=case["dilation"], groups=case["groups"], **options
        )
        y.backward(torch.tensor(np.moveaxis(weights(last(y).shape), -1, 1)))
        parts = np.split(tk.grad.numpy(), case["groups"])
        dkernel = np.concatenate([np.moveaxis(p, (0, 1), (-2, -1)) for p in parts], axis=-1)
        compare(got, [last(y), last(tx.grad), dkernel], case)
