"""The switch of a module between training and evaluation, in the module's own words."""

from __future__ import annotations

import inspect

import flax.linen as nn

# What modules call the switch between training and evaluation, and what it is in training.
SWITCHES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def train_option(module: nn.Module, train: bool, method: str = "__call__") -> dict[str, bool]:
    """What tells a call of a module, or of another method, whether it is training.

    It is in the module's own words: `train`, `training`, `is_training`, `deterministic` or
    `use_running_average`. A module that was made with a value of its own for one isn't told.

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
