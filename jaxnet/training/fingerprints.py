"""Fingerprints of a run: digests of its data, its encoders and its task.

They are a plain dict of digests by name, saved with the progress in each checkpoint. A resumed run,
and every process of a job, must have the same:

    train/labels                      the training data, part by part; valid/... likewise
    mapping/encoder                   the encoder of the inputs and outputs
    mapping/encoder/column 'colour'   a part of it, for the message
    task/step                         the traced training step, with its constants
    task/update                       the optimizer update within it
    version/jax                       the version that traced it, in plain text
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import flax
import jax
import optax

import jaxnet
from jaxnet.data.encoders import Encoder, encoder_to_json
from jaxnet.data.fingerprints import data_fingerprints
from jaxnet.data.tables.encoder import TableEncoder
from jaxnet.data.text.encoder import TextEncoder
from jaxnet.digests import json_digest
from jaxnet.training import traces
from jaxnet.training.task import UPDATE
from jaxnet.training.traces import Traced

Fingerprints = Mapping[str, str]


def of_data(train: Any, valid: Any = None) -> dict[str, str]:
    """The fingerprints of the training and validation data."""
    parts = {"train": train} if valid is None else {"train": train, "valid": valid}
    return {
        f"{part}/{name}": value
        for part, data in parts.items()
        for name, value in data_fingerprints(data).items()
    }


def of_mappings(mappings: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprints of the encoders of raw data, and of their parts.

    Args:
        mappings: encoders, None, or JSON-compatible values (such as a list of ids in the order of
            their indices), by name.

    Example:
        >>> list(of_mappings({"encoder": None, "items": ["tea", "milk"]}))
        ['mapping/encoder', 'mapping/items']
    """
    found = {}
    for name, mapping in mappings.items():
        parts = _encoder_parts(mapping) if isinstance(mapping, Encoder) else {}
        plain = encoder_to_json(mapping) if isinstance(mapping, Encoder) else mapping
        found[f"mapping/{name}"] = json_digest(plain)
        found |= {f"mapping/{name}/{part}": json_digest(value) for part, value in parts.items()}
    return found


def _encoder_parts(encoder: TableEncoder | TextEncoder) -> dict[str, Any]:
    values = encoder.to_dict()
    if not isinstance(encoder, TableEncoder):
        return values
    columns = {f"column {column['name']!r}": column for column in values.pop("columns")}
    return {**values, **columns, "column order": list(columns)}


def of_task(functions: Mapping[str, Traced]) -> dict[str, str]:
    """The fingerprints of a task, and the library versions that they depend on.

    Args:
        functions: the traced functions of the task, see `Programs.traced`.
    """
    found = {"task/step": _whole(traces.outputs(functions["train_step"]), "0/")}
    if update := traces.within(functions["train_step"], UPDATE):
        found["task/update"] = update
    initial = defaultdict(dict)
    for path, value in traces.outputs(functions["init"]).items():
        initial[path.split("/")[0]][path] = value
    found |= {f"task/initial {part}": json_digest(values) for part, values in initial.items()}
    for name, chosen in _OTHERS.items():
        if name in functions:
            found[f"task/{name}"] = _whole(traces.outputs(functions[name]), chosen)
    versions = {module.__name__: module.__version__ for module in (jax, flax, optax, jaxnet)}
    versions["backend"] = jax.default_backend()
    return found | {f"version/{name}": version for name, version in versions.items()}


# The outputs that count of the other traced functions, by the prefix of their paths.
_OTHERS = {"predict_step": "", "eval_step": "loss", "after_evaluation": ""}


def _whole(outputs: Mapping[str, str], prefix: str) -> str:
    return json_digest({p: value for p, value in outputs.items() if p.startswith(prefix)})


def other_data(before: Fingerprints, now: Fingerprints) -> list[str]:
    """Describe the differences in the data and its encoders, a line for each."""
    changed = _changed(before, now)
    lines = []
    for part, called in {"train": "training", "valid": "validation"}.items():
        names = [name.removeprefix(f"{part}/") for name in changed if name.startswith(f"{part}/")]
        if names:
            lines.append(f"the {called} data: its {_listed(names)} {_differ(names)}")
    for name in changed:
        if name.startswith("mapping/") and name.count("/") == 1:
            lines.append(_other_mapping(name, before, now))
    return lines


def _other_mapping(name: str, before: Fingerprints, now: Fingerprints) -> str:
    called = name.removeprefix("mapping/")
    parts = {
        key.removeprefix(f"{name}/"): before.get(key) == now.get(key)
        for key in [*before, *now]
        if key.startswith(f"{name}/")
    }
    differing = [part for part, same in parts.items() if not same]
    if not differing:
        return f"the {called} differ{'' if called.endswith('s') else 's'}"
    return f"the {called}: its {_listed(differing)} {_differ(differing)}"


def other_task(before: Fingerprints, now: Fingerprints) -> list[str]:
    """Describe the differences in the task, as far as the digests tell, a line for each."""
    changed = {name.removeprefix("task/") for name in _changed(before, now) if "task/" in name}
    lines = []
    if "predict_step" in changed:
        lines.append("the network, or the preprocessing of its inputs")
    elif "eval_step" in changed:
        lines.append("the loss")
    if changed & {"update", "initial opt_state"}:
        lines.append(
            "the optimizer: its kind, its learning rate or another hyperparameter (a schedule over "
            "another number of steps counts as different)"
        )
    if "initial params" in changed and "predict_step" not in changed:
        lines.append("the initial parameters")
    if "after_evaluation" in changed:
        lines.append("the update after an evaluation, such as the rule of reduce_on_plateau")
    if changed and not lines:
        told = {"predict_step", "eval_step"} <= before.keys() & now.keys()
        network = "" if told else "the network, the loss, or "
        lines.append(
            f"{network}something used in training only, such as dropout, augmentation, precision "
            "or another technique"
        )
    return lines


def other_versions(before: Fingerprints, now: Fingerprints) -> list[str]:
    """The library versions that changed, as `jax 0.10.1 -> 0.12.0`."""
    return [
        f"{name.removeprefix('version/')} {before[name]} -> {now[name]}"
        for name in _changed(before, now)
        if name.startswith("version/")
    ]


def _changed(before: Fingerprints, now: Fingerprints) -> list[str]:
    """The names in both that have different values."""
    return [name for name, value in before.items() if now.get(name, value) != value]


def _listed(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _differ(names: list[str]) -> str:
    one = len(names) == 1 and not names[0].endswith("s")
    return "differs" if one else "differ"
