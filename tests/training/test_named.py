"""Models with several inputs and several outputs: dicts and tuples of arrays, end to end."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import Bundle, Checkpoints, Trainer, losses, metrics
from jaxnet.data import NamedArrays, Records, fit_standard, split
from jaxnet.data import augmentation as aug
from jaxnet.data.columns import nested
from jaxnet.errors import InputError, UsageError
from jaxnet.parallel import Layout
from jaxnet.training import Supervised, accumulate, augment, mixed_precision, with_ema
from tests.training.helpers import MLP


class TwoHeads(nn.Module):
    """Two inputs by name, and two outputs."""

    @nn.compact
    def __call__(self, age: jax.Array, image: jax.Array, train: bool = False) -> dict[str, Any]:
        joined = jnp.concatenate([age, image.reshape(len(image), -1)], axis=-1)
        hidden = nn.Dropout(0.1, deterministic=not train)(nn.tanh(nn.Dense(8)(joined)))
        return {"kind": nn.Dense(3)(hidden), "size": nn.Dense(1)(hidden)}


class Whole(nn.Module):
    """The same inputs as one dict."""

    @nn.compact
    def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
        return nn.Dense(3)(inputs["age"]) + nn.Dense(3)(inputs["image"].reshape(-1, 4))


class ByPosition(nn.Module):
    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        return nn.Dense(3)(first) + nn.Dense(3)(second.reshape(-1, 4))


def people(n: int = 48) -> NamedArrays:
    rng = np.random.default_rng(0)
    age, image = rng.normal(40, 10, (n, 1)), rng.normal(size=(n, 2, 2))
    kind = (age[:, 0] > 40).astype(int) + (image.sum((1, 2)) > 0)
    names = {"kind": ("low", "middle", "high")}
    labels = {"kind": kind, "size": age[:, 0] / 10}
    return NamedArrays({"age": age, "image": image}, labels, class_names=names)


DATA = people()


def two_heads(model: nn.Module | None = None, **changed: Any) -> Supervised:
    options: dict[str, Any] = {
        "metrics": {"kind": ["accuracy"], "size": {"off": "mean_absolute_error"}},
        "preprocess": {"age": fit_standard(DATA.inputs["age"])},
        "loss_weights": {"size": 0.1},
        **changed,
    }
    named = {"kind": "cross_entropy", "size": losses.squared_error}
    return Supervised(model or TwoHeads(), named, optax.adam(0.01), **options)


def leaves(result: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves((result.state.params, result.state.step))]


def test_loss_and_metrics_are_those_of_each_output():
    train, valid = split(DATA, (0.75, 0.25))
    task = two_heads()
    result = Trainer(task).fit(train, valid, epochs=2, batch_size=9)
    values = result.model.evaluate(valid)
    outputs = result.model.predict(valid)
    labels = valid.labels
    kinds = np.float64(losses.cross_entropy(jnp.asarray(outputs["kind"]), labels["kind"])).mean()
    errors = outputs["size"][:, 0] - np.float64(labels["size"])
    assert values == pytest.approx(
        {
            "loss": kinds + 0.1 * (errors**2).mean(),
            "kind_loss": kinds,
            "size_loss": (errors**2).mean(),
            "kind_accuracy": (outputs["kind"].argmax(1) == labels["kind"]).mean(),
            "size_off": np.abs(errors).mean(),
        },
        rel=1e-5,
    )
    assert {f"val_{name}" for name in values} <= result.history.rows[-1].keys()
    assert not result.model.trainer.programs.compiles.repeated()


def test_one_output_of_a_model_learns_as_a_model_with_that_output_alone():
    """A tuple, a dict of arguments and a dict as one argument: the same as one joined array."""
    first, second = DATA.inputs["age"], DATA.inputs["image"]
    start = MLP(8)
    results = []
    for model, inputs in (
        (ByPosition(), (first, second)),
        (Whole(), {"age": first, "image": second}),
    ):
        task = Supervised(model, losses.cross_entropy, optax.sgd(0.1), {"a": metrics.accuracy})
        results.append(Trainer(task).fit((inputs, DATA.labels["kind"]), epochs=3, batch_size=16))
    assert isinstance(start, nn.Module)
    for mine, other in zip(leaves(results[0]), leaves(results[1]), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_resumed_is_uninterrupted(tmp_path):
    task = with_ema(accumulate(two_heads(), 2), 0.9)
    whole = Trainer(task).fit(DATA, epochs=3, batch_size=16)
    for epochs in (1, 3):
        trainer = Trainer(task, checkpoints=Checkpoints(tmp_path))
        resumed = trainer.fit(DATA, epochs=epochs, batch_size=16)
    for mine, other in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(mine, other)
    changed = replace(DATA, inputs={**DATA.inputs, "age": DATA.inputs["age"] + 1})
    with pytest.raises(UsageError, match="inputs/age"):
        Trainer(task, checkpoints=Checkpoints(tmp_path)).fit(changed, epochs=4, batch_size=16)


@pytest.mark.slow
def test_sharded_is_plain_and_half_precision_trains():
    task = two_heads(replace(TwoHeads()))
    plain = Trainer(task).fit(DATA, epochs=2, batch_size=16)
    layout = Layout(data=2)
    for other in (
        Trainer(task, layout=layout).fit(DATA, epochs=2, batch_size=16),
        Trainer(task, placement="host").fit(DATA, epochs=2, batch_size=16),
    ):
        for mine, theirs in zip(leaves(plain), leaves(other), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
    half = Trainer(mixed_precision(task, "bf16")).fit(DATA, epochs=2, batch_size=16)
    assert half.model.predict(DATA)["size"].dtype == np.float32


def test_records_read_as_they_are_needed_are_the_same_as_arrays():
    columns = DATA.columns()
    rows: Any = [nested({path: each[row] for path, each in columns.items()}) for row in range(48)]
    records = Records(rows)
    task = two_heads()
    for mine, other in zip(
        leaves(Trainer(task).fit(DATA, epochs=2, batch_size=10)),
        leaves(result := Trainer(task).fit(records, epochs=2, batch_size=10)),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, other)
    for name, outputs in result.model.predict(records).items():
        np.testing.assert_allclose(outputs, result.model.predict(DATA)[name], atol=1e-6)


LOADED = """
import sys
import numpy as np
from jaxnet import Bundle
bundle = Bundle.load(sys.argv[1])
inputs = {"age": np.array([[20.0], [60.0]]), "image": np.ones((2, 2, 2))}
print(bundle.predict(inputs)["size"][:, 0].tolist())
print(bundle.predict_class(inputs)["kind"].tolist(), sorted(bundle.predict_proba(inputs)))
"""


def test_a_bundle_serves_several_outputs_in_another_process(tmp_path):
    result = Trainer(two_heads()).fit(DATA, epochs=2, batch_size=16)
    bundle = Bundle.of(result.model, DATA.class_names)
    assert bundle.predicts == {"kind": "classes", "size": "numbers"}
    bundle.save(tmp_path)
    inputs = {"age": np.array([[20.0], [60.0]]), "image": np.ones((2, 2, 2))}
    there = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert there[0] == str(bundle.predict(inputs)["size"][:, 0].tolist())
    names = np.array(DATA.class_names["kind"])
    kinds = names[result.model.predict(inputs)["kind"].argmax(1)].tolist()
    assert there[1] == f"{kinds} ['kind']"
    assert bundle.meaning() == Bundle.load(tmp_path).meaning()
    with pytest.raises(InputError, match="class names of outputs/colour"):
        Bundle.of(result.model, {"colour": ("a", "b")})


def test_augmentation_of_one_input():
    with_images = {"age": DATA.inputs["age"], "image": DATA.inputs["image"][..., None]}
    task = augment(two_heads(), aug.on("image", aug.flip_left_right(1.0)))
    flipped = {**with_images, "image": with_images["image"][:, :, ::-1]}
    mine = Trainer(task).fit((with_images, DATA.labels), epochs=1, batch_size=16)
    other = Trainer(two_heads()).fit((flipped, DATA.labels), epochs=1, batch_size=16)
    for one, two in zip(leaves(mine), leaves(other), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-7)
    mixed = augment(two_heads(), aug.mixup(0.2))
    with pytest.raises(InputError, match="one array of inputs, and there are several"):
        Trainer(mixed).fit(DATA, epochs=1)
    with pytest.raises(UsageError, match="makes labels_b, lam: leave out mixup"):
        Trainer(augment(two_heads(), aug.on("image", aug.mixup(0.2)))).fit(DATA, epochs=1)
    with pytest.raises(InputError, match="augmentation on 'x': the inputs are age, image"):
        Trainer(augment(two_heads(), aug.on("x", aug.crop(1)))).fit(DATA, epochs=1)


def test_what_does_not_fit_is_refused_before_training():
    task, inputs, labels = two_heads(), DATA.inputs, DATA.labels
    age, image, kind = inputs["age"], inputs["image"], labels["kind"]

    def refused(data: Any, match: str, task: Supervised = task) -> None:
        with pytest.raises(InputError, match=match):
            Trainer(task).fit(data, epochs=1)

    refused(({"age": age, "img": image}, labels), "takes age, image, .* inputs are age, img")
    refused((inputs, {"kind": kind}), "the labels are kind, and there is a loss for size")
    refused((inputs, {**labels, "x": kind}), "there are labels for x and no loss")
    refused((inputs, kind), "the labels have no names, and there is a loss for each of kind, size")
    refused((inputs, {**labels, "kind": kind + 1}), "kind: .*got 3")
    single = Supervised(TwoHeads(), "huber", "adam")
    refused(DATA, "the model gives kind, size, and there is one loss", single)
    lost = Supervised(TwoHeads(), {"kind": "cross_entropy", "z": "huber"}, "adam")
    refused(DATA, "outputs are kind, size, and there is a loss for z", lost)
    scaled = Supervised(TwoHeads(), {"kind": "huber"}, "adam", preprocess={"x": np.abs})
    refused(DATA, "preprocess of x, and the data's inputs are age, image", scaled)
    with pytest.raises(InputError, match="inputs/age has 48 examples but inputs/image has 5"):
        NamedArrays({"age": age, "image": image[:5]}, kind)
    with pytest.raises(InputError, match="inputs/image: nan in row 0"):
        NamedArrays({"age": age, "image": image * np.nan}, kind)
    with pytest.raises(InputError, match="several inputs, each of which needs a scale"):
        fit_standard(DATA)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="expected a dict by their names"):
        Supervised(TwoHeads(), {"kind": "cross_entropy"}, "adam", ["accuracy"])
    with pytest.raises(UsageError, match="loss_weights of size"):
        Supervised(TwoHeads(), {"kind": "cross_entropy"}, "adam", loss_weights={"size": 1.0})
    model = Trainer(task).fit(DATA, epochs=1).model
    with pytest.raises(InputError, match="expected inputs/age, inputs/image, as in training"):
        model.predict({"age": age})
    with pytest.raises(InputError, match="equally many examples in all"):
        model.predict({"age": age, "image": image[:3]})
