"""Which parameters patterns choose, and a word about it to the user."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from jaxnet import trees
from jaxnet.training.state import PyTree

log = logging.getLogger("jaxnet.chosen")

KERNELS = "**/*kernel"
"""The pattern of all weights that a layer multiplies its inputs, or its own state, with.

That is `kernel` of dense and convolutional layers and of attention, `kernel` and `recurrent_kernel`
of recurrent ones (in cells of Flax `ii/kernel`, `hi/kernel`, ...). It leaves out biases, the scales
of normalisation, and embeddings.
"""

_LISTED = 12


def chosen(what: str, params: PyTree, *patterns: str) -> PyTree:
    """The parameters with True in the place of each whose path matches one of `patterns`.

    Says once which they are, at log level INFO of the logger `jaxnet.chosen`, which commands show;
    `jaxnet.trees.matching` lists them. Where a pattern of kernels passes over recurrent ones, it
    warns.

    Args:
        what: what happens to them, for the message: `"weight decay shrinks"`.
        params: parameters or their shapes.
        patterns: of paths (`jaxnet.trees`).

    Raises:
        InputError: a pattern matches no parameter.

    Example:
        >>> chosen("weight decay shrinks", {"Dense_0": {"bias": 0.0, "kernel": 1.0}}, KERNELS)
        {'Dense_0': {'bias': False, 'kernel': True}}
    """
    mask = trees.mask(params, *patterns)
    _tell(what, patterns, tuple(trees.named(params)), tuple(trees.matching(params, *patterns)))
    return mask


@functools.lru_cache(maxsize=256)
def _tell(
    what: str, patterns: tuple[str, ...], paths: tuple[str, ...], matched: tuple[str, ...]
) -> None:
    log.info("%s %d of %d parameters: %s", what, len(matched), len(paths), _listed(matched))
    missed = [path for path in paths if path.endswith("_kernel") and path not in matched]
    if missed and any(pattern.endswith("/kernel") for pattern in patterns):
        log.warning(
            "%s no %s, which %s doesn't match; %r takes all kernels, recurrent ones too",
            what,
            _listed(missed),
            " ".join(map(repr, patterns)),
            KERNELS,
        )


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(paths[:_LISTED]) + more
