"""What the heads of a trained network attend to."""

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
    """The weights of all self-attentions, (layers, batch, heads, time, time), in their order.

    Args:
        model: a module with `jaxnet.layers.MultiHeadAttention` named `self_attention` in its
            blocks, as the library's blocks have them.
        variables: its weights.
        inputs: a batch.

    Raises:
        InputError: it has no such layers.
    """
    maps = compiled(partial(attention_maps, model))(variables, inputs)
    own = [path for path in maps if path.rpartition("/")[2] == "self_attention"]
    if not own:
        raise InputError(f"{type(model).__name__} has no self-attention to look at")
    return np.stack([np.asarray(maps[path]) for path in sorted(own, key=_natural)])


def _natural(path: str) -> list[int | str]:
    """With the numbers of blocks as numbers: 2 comes before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
