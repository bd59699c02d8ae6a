"""Self-attention weights of a trained network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import numpy as np

from jaxnet.errors import InputError
from jaxnet.layers import attention_maps
from jaxnet.training.programs import compiled


def self_attention_maps(
    model: nn.Module, variables: Mapping[str, Any], inputs: np.ndarray
) -> np.ndarray:
    """The weights of all self-attention layers, (layers, batch, heads, time, time), in order.

    Args:
        model: a module whose blocks have a `jaxnet.layers.MultiHeadAttention` named
            `self_attention`, as the library's blocks do.
        variables: its weights.
        inputs: a batch.

    Raises:
        InputError: the model has no such layers.
    """
    maps = compiled(partial(attention_maps, model))(variables, inputs)
    own = [path for path in maps if path.rpartition("/")[2] == "self_attention"]
    if not own:
        raise InputError(f"{type(model).__name__} has no self-attention to look at")
    return np.stack([np.asarray(maps[path]) for path in sorted(own, key=_natural)])


def _natural(path: str) -> list[int | str]:
    """A sort key that compares block numbers as numbers: 2 comes before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
