"""The two files of a bundle, written and read: weights, and the description of all else."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import jaxnet
from jaxnet import module_json, numerics, trees
from jaxnet.data.encoders import Encoder, encoder_from_json
from jaxnet.data.scaling import PerInput, Scale
from jaxnet.errors import InputError
from jaxnet.files import json_text
from jaxnet.training.task import identity

PyTree = Any
JSON = Any

FORMAT = 1
# What the safetensors package both writes and reads.
_STORABLE = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64"
)


def serialized(variables: PyTree) -> bytes:
    """The arrays in safetensors' form, by path."""
    from safetensors.numpy import save

    named = zip(jax.tree.leaves(trees.paths(variables)), jax.tree.leaves(variables), strict=True)
    # safetensors 0.8.0 writes views that aren't contiguous as garbage, without an error. (Numpy's
    # ascontiguousarray would do, but gives scalars an axis.)
    arrays = {path: np.asarray(leaf, order="C") for path, leaf in named}
    for path, array in arrays.items():
        if array.dtype.name not in _STORABLE.split():
            raise InputError(
                f"{path} is {array.dtype.name}, which a bundle can't hold; it holds {_STORABLE}"
            )
    return save(arrays)


def read_weights(file: Path, checksum: int) -> dict[str, np.ndarray]:
    """The weights by path; errors as in `Bundle.load`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not file.exists():
        raise InputError(f"{file} is missing: copy the folder with all its files")
    if zlib.crc32(file.read_bytes()) != checksum:
        raise InputError(
            f"{file} is damaged or from another save than bundle.json: its checksum is wrong. "
            "Copy or save the bundle again."
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file} can't be read: {error}. Save the bundle again.") from error


def read_description(file: Path) -> dict[str, Any]:
    """The content of bundle.json; errors as in `Bundle.load`."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{file}: {error.strerror or error}. Expected a folder that Bundle.save wrote."
        ) from error
    except ValueError as error:
        raise InputError(f"{file} is damaged: {error}. Copy or save the bundle again.") from error
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise InputError(
            f"{file} has format {found!r}, and this jaxnet ({jaxnet.__version__}) reads {FORMAT}. "
            "Use the version that wrote it, or a newer one."
        )
    expected = {
        "model",
        "precision",
        "preprocess",
        "class_names",
        "inputs",
        "weights_crc32",
        "info",
    }
    if missing := expected - values.keys():
        raise InputError(f"{file} is damaged: it lacks {', '.join(sorted(missing))}")
    return values


def described_preprocess(preprocess: Callable[[Any], Any]) -> JSON:
    """What goes before the network, as JSON."""
    if preprocess is identity:
        return None
    if isinstance(preprocess, Scale):
        return preprocess.to_dict()
    if isinstance(preprocess, PerInput):
        return {"by_name": {k: described_preprocess(v) for k, v in preprocess.functions.items()}}
    raise InputError(
        f"preprocess is {preprocess!r}, and a bundle can hold a jaxnet.data.Scale or nothing. Do "
        "this step in the model."
    )


def read_preprocess(value: JSON) -> Callable[[Any], Any]:
    """The opposite of `described_preprocess`."""
    if value is None:
        return identity
    if value.keys() == {"by_name"}:
        return PerInput({name: read_preprocess(one) for name, one in value["by_name"].items()})
    return Scale.from_dict(value)


def described_inputs(inputs: PyTree) -> JSON:
    """Shapes and types of the inputs, as JSON."""
    if isinstance(inputs, Mapping):
        return {"by_name": {name: described_inputs(one) for name, one in inputs.items()}}
    if isinstance(inputs, tuple):
        return {"by_position": [described_inputs(one) for one in inputs]}
    return {"shape": inputs.shape, "dtype": np.dtype(inputs.dtype).name}


def read_inputs(value: JSON) -> PyTree:
    """The opposite of `described_inputs`."""
    if "by_name" in value:
        return {name: read_inputs(one) for name, one in value["by_name"].items()}
    if "by_position" in value:
        return tuple(read_inputs(one) for one in value["by_position"])
    return jax.ShapeDtypeStruct(tuple(value["shape"]), np.dtype(value["dtype"]))


def read_matmul_precision(value: JSON, file: Path) -> numerics.MatmulPrecision | None:
    """The precision of matrix products, checked."""
    if value is not None and value not in numerics.PRECISIONS:
        raise InputError(
            f"{file}: matmul_precision is {value!r}, and this jaxnet ({jaxnet.__version__}) knows "
            f"{', '.join(numerics.PRECISIONS)}. Use the version that wrote it, or a newer one."
        )
    return value


def read_encoder(description: JSON, file: Path) -> Encoder | None:
    """The encoder; InputError where its description is damaged."""
    try:
        return encoder_from_json(description)
    except InputError as error:
        raise InputError(f"{file} is damaged: encoder: {error}. Save the bundle again.") from error


def checked_info(info: Mapping[str, JSON]) -> dict[str, JSON]:
    """The figures, if JSON can hold them."""
    for name, value in info.items():
        try:
            json_text(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"info[{name!r}] can't be written as JSON: {error}") from error
    return dict(info)


def described_model(model: Any) -> JSON:
    """The class and fields of the model, as JSON; errors as in `Bundle.save`."""
    try:
        if not isinstance(model, nn.Module):  # an `Nnx`
            name = model.kind.__name__
            return {
                "nnx": module_json.class_path(model.kind),
                "arguments": module_json.arguments_to_json(model.arguments, name),
                "named": module_json.arguments_to_json(model.named, name),
            }
        return module_json.to_json(model)
    except InputError as error:
        raise InputError(
            f"{error}; or save with with_model=False, and load with load(folder, model=...)"
        ) from error


def rebuilt(description: JSON, file: Path) -> Any:
    """The model that `described_model` wrote down; errors as in `Bundle.load`."""
    if description is None:
        raise InputError(f"{file} doesn't say what the model is: use load(folder, model=...)")
    try:
        if "nnx" in description:
            from flax import nnx

            from jaxnet.training.nnx_network import Nnx

            kind = module_json.found(description["nnx"], nnx.Module)
            arguments = module_json.arguments_from_json(description["arguments"])
            return Nnx(kind, arguments, module_json.arguments_from_json(description["named"]))
        return module_json.from_json(description)
    except InputError as error:
        raise InputError(
            f"{file}: the model can't be made again: {error}. Use the code that it was saved with, "
            "or pass the model: load(folder, model=...)"
        ) from error
