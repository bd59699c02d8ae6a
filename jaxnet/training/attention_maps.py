"""What the heads of a trained network attend to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxnet import trees
from jaxnet.errors import InputError
from jaxnet.training.programs import compiled


def attention_maps(
    model: nn.Module, variables: Mapping[str, Any], inputs: np.ndarray
) -> np.ndarray:
    """The weights of all self-attentions, (layers, batch, heads, time, time), in their order.

    Args:
        model: a module with `jaxnet.layers.MultiHeadAttention` named `self_attention` in its
            blocks, as the library's blocks have them.
        variables: its weights.
        inputs: a batch.

    Raises:
        InputError: it has no such layers.
    """

    def recorded(variables: Mapping[str, Any], inputs: jax.Array) -> Any:
        return model.apply(variables, inputs, mutable=["intermediates"])[1]["intermediates"]

    seen = compiled(recorded)(variables, inputs)
    paths = trees.paths(seen)
    named = zip(jax.tree.leaves(paths), jax.tree.leaves(seen), strict=True)
    found = {path: leaf for path, leaf in named if re.search(r"self_attention/weights\b", path)}
    if not found:
        raise InputError(f"{type(model).__name__} has no self-attention to look at")
    return np.stack([np.asarray(found[path]) for path in sorted(found, key=_natural)])


def _natural(path: str) -> list[int | str]:
    """With the numbers of blocks as numbers: 2 comes before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
