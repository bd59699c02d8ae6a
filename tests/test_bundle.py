"""A bundle gives bit for bit what the trained network gave, and refuses what isn't one."""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import scipy.special
from flax import nnx
from jaxnet.models.cnn import CNN
from jaxnet.models.mlp import MLP
from safetensors.numpy import load_file

from jaxnet import inference, losses, optimizers
from jaxnet.bundle import Bundle
from jaxnet.data import Scale, fit_table, read_table
from jaxnet.errors import InputError, UsageError
from jaxnet.layers.activations import ACTIVATIONS
from jaxnet.layers.initializers import INITIALIZERS
from jaxnet.predictions import frame_of, index_of
from jaxnet.training import (
    Network,
    Nnx,
    Supervised,
    Trained,
    Trainer,
    accumulate,
    guard_nonfinite,
    mixed_precision,
    scaled_target,
    with_ema,
)

ROOT = Path(__file__).parents[1]
IMAGES = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1)).astype(np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, 50)
MLP_3 = MLP(hidden=(16,), num_classes=3, dropout=0.2)
CNN_3 = CNN(filters=(4,), dense=(8,), num_classes=3, padding="SAME", batch_norm=True)

TASKS: dict[str, tuple[nn.Module, Callable[[Any], Any]]] = {
    "bf16": (MLP_3, lambda task: mixed_precision(task, "bf16")),
    "averaged": (CNN_3, lambda task: guard_nonfinite(with_ema(accumulate(task, 2), 0.7), "stop")),
}


@dataclass(frozen=True)
class Saved:
    trained: Trained
    folder: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    """Each kind of network, trained a little and saved."""
    root = tmp_path_factory.mktemp("bundles")
    made = {}
    for name, (model, technique) in TASKS.items():
        task = Supervised(
            model,
            losses.cross_entropy,
            optimizers.by_name("adam", 0.01),
            preprocess=Scale(0.0, 1 / 255),
        )
        trained = Trainer(technique(task)).fit((IMAGES, LABELS), epochs=2, batch_size=10).model
        Bundle.of(trained, ("cat", "dog", "eel"), {"accuracy": 0.5}).save(root / name)
        made[name] = Saved(trained, root / name)
    return made


@pytest.fixture(scope="module")
def elsewhere(saved: dict[str, Saved]) -> dict[str, np.ndarray]:
    """What a process that knows nothing of the training predicts with each bundle."""
    root = saved["bf16"].folder.parent
    np.save(root / "images.npy", IMAGES)
    script = (
        "import sys, numpy as np; from jaxnet.bundle import Bundle\n"
        "root, images = sys.argv[1], np.load(sys.argv[1] + '/images.npy')\n"
        "np.savez(root + '/outputs.npz', **{n: Bundle.load(f'{root}/{n}').predict(images)"
        " for n in sys.argv[2:]})\n"
    )
    command = [sys.executable, "-c", script, str(root), *saved]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    with np.load(root / "outputs.npz") as outputs:
        return dict(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_another_process_predicts_the_same_bits(name, saved, elsewhere):
    expected = saved[name].trained.predict(IMAGES)
    assert elsewhere[name].dtype == np.float32
    np.testing.assert_array_equal(elsewhere[name], expected)


def test_everything_comes_back(saved):
    bundle = Bundle.load(saved["bf16"].folder)
    assert bundle.model == MLP_3
    assert bundle.preprocess == Scale(0.0, 1 / 255)
    assert bundle.class_names == ("cat", "dog", "eel")
    assert (bundle.inputs.shape, bundle.inputs.dtype) == ((8, 8, 1), np.uint8)
    assert bundle.info == {"accuracy": 0.5}
    assert bundle.precision == "bf16"
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(bundle.variables))


def test_holds_the_average_and_the_running_statistics(saved):
    state = saved["averaged"].trained.state
    stored = load_file(saved["averaged"].folder / "model.safetensors")
    average = state.memory["ema"].values
    learnt = {"params": state.params, "collections": state.collections}
    for raw, mean in zip(*map(jax.tree.leaves, (learnt, average)), strict=True):
        assert (raw != mean).any()
    assert sorted({name.split("/")[0] for name in stored}) == ["batch_stats", "params"]
    for collection, tree in {"params": average["params"], **average["collections"]}.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = f"{collection}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
            np.testing.assert_array_equal(stored[name], leaf)


def test_files_hold_data_and_nothing_else(saved):
    folder = saved["averaged"].folder
    assert sorted(file.name for file in folder.iterdir()) == ["bundle.json", "model.safetensors"]
    json.loads((folder / "bundle.json").read_text())
    content = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    ends = [leaf["data_offsets"][1] for leaf in json.loads(content[8 : 8 + size]).values()]
    assert 8 + size + max(ends) == len(content)


def test_saving_again_writes_the_same_bytes(saved, tmp_path):
    folder = saved["averaged"].folder
    Bundle.load(folder).save(tmp_path)
    for name in ("bundle.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_a_checkouts_bundle_loads_where_the_zoo_is_installed_and_back(saved, tmp_path):
    site = tmp_path / "site"
    no_cache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "jaxnet", site / "jaxnet", ignore=no_cache)
    shutil.copytree(ROOT / "models", site / "jaxnet" / "models", ignore=no_cache)
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from jaxnet.bundle import Bundle\n"
        "bundle = Bundle.load(sys.argv[1])\n"
        "assert type(bundle.model).__module__ == 'jaxnet.models.mlp', type(bundle.model)\n"
        "bundle.save(sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, str(saved["bf16"].folder), str(tmp_path / "back")]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    assert isinstance(Bundle.load(tmp_path / "back").model, MLP)


# --- weights of all kinds -----------------------------------------------------------------------


class Weights(nn.Module):
    """A network with parameters like those it is shown."""

    like: Any = None

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        for name, array in (self.like or {}).items():
            self.param(name, lambda _, a=array: jnp.zeros(a.shape, a.dtype))
        return inputs


def _bundle(model: nn.Module, params: Any, **options: Any) -> Bundle:
    return Bundle(model, {"params": params}, jax.ShapeDtypeStruct((2,), np.float32), **options)


def test_views_scalars_and_bfloat16_survive(tmp_path):
    square = np.arange(12, dtype=np.float32).reshape(3, 4)
    params = {
        "transposed": square.T,
        "strided": square[::2, ::-1],
        "fortran": np.asfortranarray(square),
        "bfloat16": square.astype(ml_dtypes.bfloat16).T,
        "scalar": np.asarray(np.float32(2.5)),
        "integers": np.arange(6, dtype=np.int32)[::2],
        "empty": np.zeros((0, 3), np.float32),
    }
    model = Weights(params)
    _bundle(model, params).save(tmp_path, with_model=False)
    loaded = Bundle.load(tmp_path, model=model).variables["params"]
    assert loaded.keys() == params.keys()
    for name, array in params.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)


def test_weights_that_the_file_format_cant_hold(tmp_path):
    params = {"kernel": np.zeros(2, ml_dtypes.float8_e4m3fn)}
    with pytest.raises(InputError, match=r"params/kernel is float8_e4m3fn"):
        _bundle(Weights(params), params).save(tmp_path, with_model=False)
    assert not list(tmp_path.iterdir())


# --- the model's description --------------------------------------------------------------------


class Fields(nn.Module):
    """A network with fields of all kinds."""

    sizes: Any = ()
    activation: Any = nn.relu
    kernel_init: Any = INITIALIZERS["he_normal"]
    dtype: Any = jnp.bfloat16
    rate: float | None = 0.1
    first: nn.Module | None = None
    odd: Any = len

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return inputs if self.first is None else self.first(inputs)


def test_fields_come_back(tmp_path):
    model = Fields(
        sizes=((3, 3), ("SAME", None, True, 2.5)),
        activation=ACTIVATIONS["leaky_relu_0.1"],
        kernel_init=INITIALIZERS["orthogonal"],
        dtype=jnp.float16,
        rate=np.float32(0.5),
        first=nn.Sequential([nn.Dense(2, dtype=jnp.bfloat16), nn.relu]),
        name="root",
    )
    variables = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    _bundle(model, variables["params"]).save(tmp_path)
    loaded: Any = Bundle.load(tmp_path).model
    assert loaded.sizes == model.sizes
    assert loaded.activation is ACTIVATIONS["leaky_relu_0.1"]
    assert loaded.kernel_init is INITIALIZERS["orthogonal"]
    assert loaded.dtype == np.float16
    assert (loaded.rate, loaded.name, loaded.odd) == (0.5, "root", len)
    dense, activation = loaded.first.layers
    assert (dense.features, dense.dtype, activation) == (2, jnp.bfloat16, nn.relu)


@pytest.mark.parametrize("value", [lambda x: x, math.sqrt, object(), {"a": 1}, (1, print), dict])
def test_a_field_without_a_form_is_named(value, tmp_path):
    with pytest.raises(InputError, match=r"Fields\.odd = .*with_model=False.*model="):
        _bundle(Fields(odd=value), {}).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_class_in_a_function_cant_be_found_again(tmp_path):
    class Inner(Fields):
        pass

    with pytest.raises(InputError, match=r"<locals>\.Inner is a class inside a function"):
        _bundle(Inner(), {}).save(tmp_path)


class OfTheProgram(Fields):
    pass


class OfTheProgramToo(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(2, 2, rngs=rngs)


@pytest.mark.parametrize(
    "model",
    [
        OfTheProgram(),
        OfTheProgram(first=nn.Dense(1)),
        nn.Sequential([OfTheProgram()]),
        Nnx(OfTheProgramToo),
    ],
    ids=["Linen", "with a field", "in a field", "NNX"],
)
def test_saving_warns_of_a_class_of_the_running_program(model, tmp_path, caplog, monkeypatch):
    for kind in (OfTheProgram, OfTheProgramToo):
        monkeypatch.setattr(kind, "__module__", "__main__")
    _bundle(model, {}).save(tmp_path)
    (said,) = caplog.messages
    assert re.search(
        r"OfTheProgram.* \(__main__\).* a file of its own .*load\(folder, model=", said
    )
    with pytest.raises(InputError, match=r"there is no class __main__:OfTheProgram.*model="):
        Bundle.load(tmp_path)


def test_a_model_that_isnt_described_has_to_be_given(tmp_path):
    model = Fields(odd=lambda x: x)
    _bundle(model, {}).save(tmp_path, with_model=False)
    with pytest.raises(InputError, match=r"bundle\.json doesn't say what the model is.*model="):
        Bundle.load(tmp_path)
    assert Bundle.load(tmp_path, model=model).model is model


def test_a_given_model_comes_before_the_described_one(saved):
    model = replace(MLP_3, dropout=0.0)
    assert Bundle.load(saved["bf16"].folder, model=model).model is model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "os:system"}, "os:system is no Linen module"),
        ({"class": "jaxnet.bundle:Bundle"}, "is no Linen module"),
        ({"class": "flax.linen:relu"}, "is no Linen module"),
        ({"class": "jaxnet.models.mlp:Gone"}, "there is no class jaxnet.models.mlp:Gone"),
        ({"class": "nowhere.at_all:MLP"}, "there is no class nowhere.at_all:MLP"),
        ({"class": 3}, "no module of the code at hand"),
        ({"fields": {"hiden": [3]}}, "unexpected keyword argument 'hiden'"),
        ({"fields": {"activation": {"activation": "rleu"}}}, "did you mean 'relu'"),
        ({"fields": {"activation": {"function": "os.system"}}}, "unknown kind of function"),
        ({"fields": {"activation": {}}}, "no module of the code at hand"),
        ({"fields": {"hidden": {"dtype": "float1"}}}, "no module of the code at hand"),
    ],
)
def test_a_description_that_doesnt_hold(change, message, saved, tmp_path):
    _change(saved["bf16"].folder, tmp_path, lambda values: values["model"].update(change))
    with pytest.raises(InputError, match=rf"(?s)bundle\.json: .*{message}.*model="):
        Bundle.load(tmp_path)


# --- files that are no bundle -------------------------------------------------------------------


def _change(source: Path, folder: Path, change: Callable[[Any], Any]) -> None:
    """A copy of a bundle with another bundle.json."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    values = json.loads((folder / "bundle.json").read_text())
    change(values)
    (folder / "bundle.json").write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["bundle.json", "model.safetensors"])
def test_a_missing_file_is_named(name, saved, tmp_path):
    shutil.copytree(saved["bf16"].folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=rf"{tmp_path}/{name}"):
        Bundle.load(tmp_path)


def test_a_truncated_or_changed_file_of_weights(saved, tmp_path):
    shutil.copytree(saved["bf16"].folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    for damaged in (content[:-1], b"", content[:-1] + bytes([content[-1] ^ 1])):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{file} is damaged or from another save"):
            Bundle.load(tmp_path)


def test_weights_that_are_no_safetensors_file(saved, tmp_path):
    change = {"weights_crc32": zlib.crc32(b"not weights")}
    _change(saved["bf16"].folder, tmp_path, lambda values: values.update(change))
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match=rf"{tmp_path}/model\.safetensors can't be read"):
        Bundle.load(tmp_path)


def test_a_torn_or_foreign_description(saved, tmp_path):
    shutil.copytree(saved["bf16"].folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "bundle.json"
    content = file.read_text()
    file.write_text(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{file} is damaged"):
        Bundle.load(tmp_path)
    file.write_text("[]")
    with pytest.raises(InputError, match=rf"{file} has format None"):
        Bundle.load(tmp_path)


def test_another_format_version(saved, tmp_path):
    _change(saved["bf16"].folder, tmp_path, lambda values: values.update(format=99))
    with pytest.raises(InputError, match=r"bundle\.json has format 99, .* reads 1"):
        Bundle.load(tmp_path)


def test_a_field_that_is_gone_is_named(saved, tmp_path):
    _change(saved["bf16"].folder, tmp_path, lambda values: values.pop("inputs"))
    with pytest.raises(InputError, match=r"bundle\.json is damaged: it lacks inputs"):
        Bundle.load(tmp_path)


def test_weights_of_another_model_are_listed(saved):
    other = MLP(hidden=(16, 5), num_classes=3)
    with pytest.raises(InputError) as raised:
        Bundle.load(saved["bf16"].folder, model=other)
    message = str(raised.value)
    assert "model.safetensors" in message
    assert "- params/Dense_2/kernel float32[5,3] (expected, missing)" in message
    assert "! params/Dense_1/kernel expected float32[16,5], got float32[16,3]" in message


def test_a_place_that_cant_be_written(saved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=rf"{tmp_path}/file/bundle: .* can't be written"):
        Bundle.load(saved["bf16"].folder).save(tmp_path / "file" / "bundle")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preprocess": np.tanh}, "preprocess is .*Scale"),
        ({"info": {"when": object()}}, r"info\['when'\] can't be written"),
    ],
)
def test_what_has_no_form_is_named(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        _bundle(Fields(), {}, **options).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_description_is_strict_json(tmp_path):
    model = nn.LayerNorm(epsilon=float("inf"))
    variables = model.init(jax.random.key(0), np.zeros((1, 2), np.float32))
    _bundle(model, variables["params"], info={"loss": float("nan")}).save(tmp_path)
    text = (tmp_path / "bundle.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    again = Bundle.load(tmp_path)
    assert again.info == {"loss": None}
    assert again.model == model


# --- making one ---------------------------------------------------------------------------------


def test_the_wrong_number_of_class_names(saved):
    with pytest.raises(InputError, match=r"expected 3 class names.* got 2: cat, dog"):
        Bundle.of(saved["bf16"].trained, ("cat", "dog"))


def test_a_network_of_plain_functions_has_no_bundle(saved):
    network = Network(
        lambda key, inputs: {"params": {}}, lambda v, inputs, train, key: (inputs, {})
    )
    task = Supervised(network, losses.squared_error, optax.sgd(0.1))
    trained = replace(saved["bf16"].trained, trainer=Trainer(task))
    with pytest.raises(InputError, match="a Network of plain functions"):
        Bundle.of(trained)


def test_a_task_of_its_own_kind_has_no_bundle(saved):
    class Other:
        pass

    other: Any = Other()
    for task in (other, guard_nonfinite(other, "stop")):
        with pytest.raises(InputError, match="no network to bundle"):
            Bundle.of(replace(saved["bf16"].trained, trainer=Trainer(task)))


# --- prediction ---------------------------------------------------------------------------------

TRACES: list[tuple[int, ...]] = []


class Outputs(nn.Module):
    """The inputs as logits."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        TRACES.append(inputs.shape)
        return inputs


def _logits(width: int, **options: Any) -> Bundle:
    return Bundle(Outputs(), {}, jax.ShapeDtypeStruct((width,), np.float32), **options)


def test_rows_dont_depend_on_their_company(saved):
    bundle = Bundle.load(saved["averaged"].folder)
    whole = bundle.predict(IMAGES, batch_size=16)
    for count in (1, 15, 16, 17):
        np.testing.assert_allclose(bundle.predict(IMAGES[:count]), whole[:count], atol=1e-6)
    np.testing.assert_allclose(bundle.predict(IMAGES, batch_size=7), whole, atol=1e-6)


def test_a_few_programs_serve_any_number_of_rows():
    TRACES.clear()
    bundle = _logits(3)
    rows = np.arange(3 * 1000, dtype=np.float32).reshape(1000, 3)
    for count in (5, 1, 4, 70, 300, 1000, 257, 999):
        np.testing.assert_array_equal(bundle.predict(rows[:count]), rows[:count])
    assert sorted(set(TRACES)) == [(size, 3) for size in inference.LADDER]
    assert not bundle._programs.compiles.repeated()
    TRACES.clear()
    for count in (1, 4, 70):
        np.testing.assert_array_equal(bundle.predict(rows[:count], batch_size=4), rows[:count])
    assert set(TRACES) == {(4, 3)}  # that of 1 was compiled


def test_probabilities_are_the_softmax():
    logits = np.random.default_rng(0).normal(0, 30, (20, 4))
    logits[0] = [1e30, -1e30, 0, 0]
    got = _logits(4).predict_proba(logits)
    assert got.dtype == np.float32
    np.testing.assert_allclose(
        got, scipy.special.softmax(logits.astype(np.float32), axis=1), atol=1e-5
    )


def test_a_single_output_is_the_probability_of_class_1():
    logits = np.array([[-200.0], [-1.0], [0.0], [3.0], [200.0]])
    bundle = _logits(1, class_names=("no", "yes"))
    np.testing.assert_allclose(
        bundle.predict_proba(logits), scipy.special.expit(logits), rtol=1e-5, atol=1e-38
    )
    assert bundle.predict_class(logits).tolist() == ["no", "no", "no", "yes", "yes"]
    assert _logits(1).predict_class(logits).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("scaled", [False, True])
def test_numbers_have_no_class(tmp_path, scaled):
    """A regression answered [1, 1]."""
    inputs = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    task = Supervised(nn.Dense(1), losses.huber, optax.sgd(0.1))
    task = scaled_target(task, Scale(3.0, 0.5)) if scaled else task
    trained = Trainer(with_ema(task, 0.5)).fit((inputs, inputs[:, 0]), steps=1).model
    Bundle.of(trained).save(tmp_path)
    if scaled:  # as it was written before it was kept what a network predicts
        file = tmp_path / "bundle.json"
        file.write_text(file.read_text().replace('"predicts": "numbers"', '"predicts": null'))
    loaded = Bundle.load(tmp_path)
    assert loaded.predict(inputs).shape == (8, 1)
    for ask in (loaded.predict_class, loaded.predict_proba):
        with pytest.raises(UsageError, match=r"predicts numbers, not classes.*predict\(inputs\)"):
            ask(inputs)


def test_nan_is_of_no_class():
    params = {"kernel": np.full((2, 2), np.nan, np.float32), "bias": np.zeros(2, np.float32)}
    like = jax.ShapeDtypeStruct((2,), np.float32)
    broken = Bundle(nn.Dense(2), {"params": params}, like, class_names=("a", "b"))
    for ask in (broken.predict_class, broken.predict_proba, broken.predict_frame):
        with pytest.raises(InputError, match="NaN for 3 of 3 examples, the first in row 0"):
            ask(np.ones((3, 2)))


def test_classes_are_names_or_indices():
    logits = [[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]]
    assert _logits(3, class_names=("a", "b", "c")).predict_class(logits).tolist() == ["b", "a"]
    assert _logits(3).predict_class(logits).tolist() == [1, 0]


def test_a_data_frame_has_a_class_and_a_probability_of_each():
    pandas = pytest.importorskip("pandas", reason="needs the extra [tables]")
    logits = np.random.default_rng(0).normal(size=(5, 3))
    named = _logits(3, class_names=("a", "b", "c"))
    frame = named.predict_frame(logits)
    assert list(frame) == ["class", "probability_a", "probability_b", "probability_c"]
    shares = scipy.special.softmax(logits, axis=1)
    np.testing.assert_allclose(frame.iloc[:, 1:].to_numpy(), shares, atol=1e-6)
    assert list(frame["class"]) == list(named.predict_class(logits))
    assert list(_logits(3, predicts="classes").predict_frame(logits)["class"].unique()) == [
        *dict.fromkeys(shares.argmax(1))
    ]
    single = _logits(1, class_names=("no", "yes")).predict_frame([[-1.0], [3.0]])
    assert list(single["class"]) == ["no", "yes"]
    np.testing.assert_allclose(single["probability_yes"], scipy.special.expit([-1, 3]), rtol=1e-6)
    np.testing.assert_allclose(single["probability_no"], scipy.special.expit([1, -3]), rtol=1e-6)
    numbers = _logits(2, predicts="numbers").predict_frame([[1.0, 2.0]])
    assert numbers.to_dict("records") == [{"prediction_0": 1.0, "prediction_1": 2.0}]
    rows = pandas.Series([1.0, 2.0], index=["x", "y"])
    assert list(frame_of(np.ones(2), "numbers", None, index_of(rows, 2)).index) == ["x", "y"]
    with pytest.raises(UsageError, match="classes or numbers: say so with"):
        _logits(3).predict_frame(logits)
    with pytest.raises(InputError, match=r"got outputs of shape \(4, 3\) for each example"):
        frame_of(np.ones((2, 4, 3)), "classes", None, None)


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        (np.zeros((2, 4)), r"got \(4,\) and float32"),
        (np.zeros((2, 3), np.uint8), r"got \(3,\) and uint8"),
        (np.zeros((2, 3, 1)), r"got \(3, 1\) and float32"),
        (np.zeros((2, 3), np.int64), r"got \(3,\) and int32"),
    ],
)
def test_other_inputs_are_refused(inputs, got):
    with pytest.raises(InputError, match=rf"shape \(3,\) and type float32.*{got}"):
        _logits(3).predict(inputs)


@pytest.mark.parametrize("inputs", [np.zeros((0, 3)), [["a", "b", "c"]], 3.0])
def test_inputs_that_are_none(inputs):
    with pytest.raises(InputError, match="inputs"):
        _logits(3).predict(inputs)


@pytest.mark.slow
def test_an_encoder_makes_it_take_raw_rows(tmp_path):
    rows = {"x": [1.0, None, 3.0, 4.0], "c": ["a", "b", "a", None], "y": ["no", "yes", "no", "yes"]}
    pytest.importorskip("pandas", reason="needs the extra [tables]")
    train = read_table(rows, "y")
    encoder = fit_table(train)
    task = Supervised(MLP(hidden=(4,), num_classes=2), losses.cross_entropy, optax.sgd(0.1))
    trained = Trainer(task).fit(encoder.arrays(train), epochs=1, batch_size=4).model
    bundle = Bundle.of(trained, train.class_names, encoder=encoder)
    bundle.save(tmp_path)
    loaded = Bundle.load(tmp_path)
    assert loaded.encoder == encoder
    expected = trained.predict(encoder(rows))
    np.testing.assert_array_equal(loaded.predict(rows), expected)
    np.testing.assert_array_equal(loaded.predict(encoder(rows)), expected)  # encoded already
    framed = train.frame.set_axis([10, 20, 30, 40])
    predicted = framed.join(loaded.predict_frame(framed))
    assert list(predicted.index) == [10, 20, 30, 40]
    assert list(predicted["class"]) == list(loaded.predict_class(rows))
    one = loaded.predict_class([{"x": 3, "c": "new"}])
    assert one[0] in ("no", "yes")
    with pytest.raises(InputError, match="x: expected numbers, got 'tall' in row 1"):
        loaded.predict([{"x": 3, "c": "a"}, {"x": "tall", "c": "a"}])
    with pytest.raises(InputError, match="the table lacks c"):
        loaded.predict([{"x": 3}])
    other = fit_table(read_table({"x": [1.0, 2.0], "y": ["a", "b"]}, "y"))
    with pytest.raises(InputError, match=r"inputs of shape \(1,\), .* on inputs of shape \(5,\)"):
        Bundle.of(trained, encoder=other)


@pytest.mark.parametrize("encoder", [{}, {"table": {}}, {"text": {}}, 3])
def test_a_damaged_encoder_is_named(encoder, saved, tmp_path):
    folder = shutil.copytree(saved["bf16"].folder, tmp_path / "bundle")
    file = folder / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "encoder": encoder}))
    with pytest.raises(InputError, match=r"bundle.json is damaged: encoder"):
        Bundle.load(folder)
