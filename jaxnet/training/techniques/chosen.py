"""Selection of parameters by path patterns, logged so that the user sees what matched."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from jaxnet import trees
from jaxnet.training.state import PyTree

log = logging.getLogger("jaxnet.chosen")

KERNELS = "**/*kernel"
"""The pattern of all weight matrices, input and recurrent.

It matches `kernel` of dense, convolutional and attention layers, and `kernel` and
`recurrent_kernel` of recurrent ones (`ii/kernel`, `hi/kernel`, ... in Flax cells). It excludes
biases, normalisation scales and embeddings.
"""

_LISTED = 12


def chosen(what: str, params: PyTree, *patterns: str) -> PyTree:
    """A boolean mask over `params`: True where the path matches one of `patterns`.

    The matched paths are logged once, at level INFO of the logger `jaxnet.chosen`, which commands
    show; `jaxnet.trees.matching` returns them. A warning is logged if a kernel pattern misses
    recurrent kernels.

    Args:
        what: what happens to the matched parameters, for the message: `"weight decay shrinks"`.
        params: parameters or their shapes.
        patterns: path patterns (`jaxnet.trees`).

    Raises:
        InputError: a pattern matches no parameter.

    Example:
        >>> chosen("weight decay shrinks", {"Dense_0": {"bias": 0.0, "kernel": 1.0}}, KERNELS)
        {'Dense_0': {'bias': False, 'kernel': True}}
    """
    mask = trees.mask(params, *patterns)
    _log_once(what, patterns, tuple(trees.named(params)), tuple(trees.matching(params, *patterns)))
    return mask


@functools.lru_cache(maxsize=256)
def _log_once(
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
