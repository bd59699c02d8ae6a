"""The argument by which a module switches between training and evaluation, under any usual name."""

from __future__ import annotations

import inspect

import flax.linen as nn

# The usual names of the switch, and its value in training.
SWITCHES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def train_option(module: nn.Module, train: bool, method: str = "__call__") -> dict[str, bool]:
    """The keyword argument that puts a call of a module into training or evaluation mode.

    Its name is the module's own: `train`, `training`, `is_training`, `deterministic` or
    `use_running_average`. It is left out if the module was constructed with a value for it.

    Example:
        >>> train_option(nn.Dense(1), True), train_option(nn.Dropout(0.5), True)
        ({}, {'deterministic': False})
    """
    takes = inspect.signature(getattr(type(module), method)).parameters
    return {
        word: train == in_training
        for word, in_training in SWITCHES.items()
        if word in takes and getattr(module, word, None) is None
    }
