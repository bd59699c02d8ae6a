"""What makes a network's inputs of raw data, and how it is written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxnet.data.tables.encoder import TableEncoder
from jaxnet.data.text.encoder import TextEncoder
from jaxnet.errors import InputError

Encoder = TableEncoder | TextEncoder

_KINDS: Mapping[str, type[TableEncoder] | type[TextEncoder]] = {
    "table": TableEncoder,
    "text": TextEncoder,
}


def encoder_to_json(encoder: Encoder | None) -> Any:
    """The kind of an encoder and what it was fitted to, as JSON; None for none."""
    if encoder is None:
        return None
    kind = next(name for name, known in _KINDS.items() if isinstance(encoder, known))
    return {kind: encoder.to_dict()}


def encoder_from_json(values: Any) -> Encoder | None:
    """The encoder that `encoder_to_json` wrote down.

    Raises:
        InputError: these are not the values of one.
    """
    if values is None:
        return None
    if isinstance(values, Mapping) and len(values) == 1:
        ((kind, fitted),) = values.items()
        if kind in _KINDS and isinstance(fitted, Mapping):
            return _KINDS[kind].from_dict(fitted)
    raise InputError(f"expected the values of an encoder, one of {', '.join(_KINDS)}")
