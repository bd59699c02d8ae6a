"""Fingerprints of data: short digests by which a run knows that it goes on with the same.

They are the same in every process and on every machine, and cheap: labels count whole, and of
inputs beyond 256 MiB as many rows as that, evenly spread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.batches import Batches
from jaxnet.data.named_arrays import NamedArrays
from jaxnet.data.pipeline.accepted import checked
from jaxnet.data.pipeline.epochs import ArrayPipeline, SourcePipeline
from jaxnet.data.pipeline.protocol import Pipeline
from jaxnet.data.sources import Source
from jaxnet.digests import array_digest, json_digest

log = logging.getLogger("jaxnet")

# So many bytes of inputs are hashed in some 0.2 seconds.
MOST_BYTES = 256 << 20
# How many examples of a source are read.
SAMPLED = 32
# The digest of what isn't there, so that its coming and going is a difference.
ABSENT = ""


def data_fingerprints(data: Any) -> dict[str, str]:
    """What identifies a dataset: a digest of each of its parts, by the part's name.

    Args:
        data: what `Trainer.fit` takes, or anything with a method `fingerprint()` that gives its
            parts. Of a `Source` without one some examples are read, of a `Pipeline` the first
            batch.

    Example:
        >>> rows = np.arange(6, dtype=np.float32).reshape(3, 2)
        >>> before = data_fingerprints((rows, np.array([0, 1, 1])))
        >>> after = data_fingerprints((rows, np.array([1, 0, 0])))
        >>> [part for part in before if before[part] != after[part]]
        ['labels']
    """
    own = getattr(data, "fingerprint", None)
    if own is not None:
        return dict(own())
    data = checked(data)
    if isinstance(data, Batches):
        return data.fingerprint()
    if isinstance(data, ArrayPipeline):
        return {**_of_columns(data.columns), "class names": ABSENT}
    if isinstance(data, SourcePipeline):
        return data_fingerprints(data.source)
    if isinstance(data, Arrays | NamedArrays):
        return {**_of_columns(data.columns()), "class names": names_digest(data.class_names)}
    return _of_source(data) if isinstance(data, Source) else _of_pipeline(data)


def _of_columns(columns: Mapping[str, Any]) -> dict[str, str]:
    found = {
        name: array_digest(np.asarray(column), None if name.startswith("labels") else MOST_BYTES)
        for name, column in columns.items()
    }
    return {"weights": ABSENT, **found}


def names_digest(class_names: Sequence[str] | Mapping[str, Sequence[str]] | None) -> str:
    """The digest of what classes are called."""
    if class_names is None:
        return ABSENT
    if isinstance(class_names, Mapping):
        return json_digest({label: list(names) for label, names in sorted(class_names.items())})
    return json_digest([str(name) for name in class_names])


def _of_source(source: Source) -> dict[str, str]:
    rows = np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(np.int64))
    found = _repeated(lambda: _of_columns(source.read(rows, 0)), source.name)
    labels = getattr(source, "labels", None)
    known = {} if labels is None else {"labels": array_digest(np.asarray(labels))}
    return {**found, **known, "class names": names_digest(getattr(source, "class_names", None))}


def _of_pipeline(pipeline: Pipeline) -> dict[str, str]:
    def first() -> dict[str, str]:
        chunk = next(iter(pipeline.chunks(0, 0, 0, lambda _: 1)))
        return _of_columns(jax.device_get(chunk.feed.batch(0)))

    return {**_repeated(first, pipeline.name), "class names": ABSENT}


def _repeated(read: Callable[[], dict[str, str]], name: str) -> dict[str, str]:
    """The digests of what is read, without parts that differ when they are read again."""
    once, again = read(), read()
    drawn = [part for part in once if once[part] != again[part]]
    if drawn:
        log.warning(
            "%s: its %s are others whenever they are read, so a run that goes on can't know "
            "whether they are the same, and won't come to the same result. Let them depend on "
            "nothing but the row and the epoch.",
            name,
            " and ".join(drawn),
        )
    return {part: value for part, value in once.items() if part not in drawn}
