"""Bad input is refused before anything is compiled, in words that say how to go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from jaxnet import losses
from jaxnet.bundle import Bundle
from jaxnet.data import Arrays, check_classes
from jaxnet.errors import InputError, UsageError
from jaxnet.layers import check_tokens
from jaxnet.training import EarlyStopping, Supervised, Trainer, with_ema
from tests.networks import Dense
from tests.training.helpers import classifier, regressor, table

INPUTS, LABELS = table(12)


@pytest.fixture
def trainer() -> Any:
    made = Trainer(classifier())
    yield made
    # The shapes of the state may have been looked up, which compiles nothing.
    assert set(made.programs.compiles.traces) <= {"initialisation"}


@pytest.mark.parametrize("wrong", [3, -1])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_label_outside_the_classes(trainer, wrong, split):
    labels = LABELS.copy()
    labels[4] = wrong
    bad, good = Arrays(INPUTS, labels, name=split), Arrays(INPUTS, LABELS)
    data = (bad, good) if split == "train" else (good, bad)
    message = (
        rf"{split}: expected labels from 0 to 2, because the model has 3 outputs; got {wrong} in "
        "row 4. Give the model as many outputs as there are classes, or repair the labels"
    )
    with pytest.raises(InputError, match=message):
        trainer.fit(*data, epochs=1)


class Words(nn.Module):
    """A network that reads tokens."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        return Dense(2)(nn.Embed(8, 4)(tokens).mean(axis=1))

    def check_inputs(self, tokens: np.ndarray) -> None:
        check_tokens(tokens, 8)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [8, -1])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_token_outside_the_vocabulary(wrong, wrapped):
    tokens = np.array([[5, 2, 0], [1, 5, 7]], np.int32)
    bad = np.array([[5, 2, 0], [1, wrong, 7]], np.int32)
    labels = np.array([0, 1], np.int32)
    task = Supervised(Words(), losses.cross_entropy, optax.sgd(0.1))
    message = f"expected tokens from 0 to 7, .* got {wrong} in row 1, position 1"
    trainer = Trainer(with_ema(task, 0.9) if wrapped else task)
    with pytest.raises(InputError, match=f"arrays: {message}"):
        trainer.fit((bad, labels), epochs=1)
    with pytest.raises(InputError, match=f"arrays: {message}"):
        trainer.fit((tokens, labels), (bad, labels), epochs=1)
    assert set(trainer.programs.compiles.traces) <= {"initialisation"}
    trained = trainer.fit((tokens, labels), epochs=1).model
    with pytest.raises(InputError, match=f"inputs: {message}"):
        trained.predict(bad)
    with pytest.raises(InputError, match=f"inputs: {message}"):
        Bundle.of(trained).predict(bad)


def test_one_class_only():
    with pytest.raises(InputError, match=r"every label is 1, only one class of 3.*at least two"):
        check_classes(np.ones(5, np.int32), 3)


OTHERS = {
    "shape": (INPUTS[:, :3], r"got \(3,\) and float32"),
    "rank": (INPUTS[:, :, None], r"got \(4, 1\) and float32"),
    "type": ((INPUTS * 10).astype(np.uint8), r"got \(4,\) and uint8"),
    "integers": ((INPUTS * 10).astype(np.int64), r"got \(4,\) and int32"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_validation_data_of_another_shape_or_type(trainer, kind):
    inputs, got = OTHERS[kind]
    message = rf"valid: expected inputs of shape \(4,\) and type float32 .* earlier data, {got}"
    with pytest.raises(InputError, match=message + ". Preprocess all data in the same way"):
        trainer.fit((INPUTS, LABELS), Arrays(inputs, LABELS, name="valid"), epochs=1)


@pytest.fixture(scope="module")
def model() -> Any:
    return Trainer(classifier()).fit((INPUTS, LABELS), epochs=1).model


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_data_of_another_shape_or_type_for_a_trained_network(model, kind):
    inputs, got = OTHERS[kind]
    message = rf"expected inputs of shape \(4,\) and type float32.*{got}"
    with pytest.raises(InputError, match=message):
        model.evaluate((inputs, LABELS))
    with pytest.raises(InputError, match=message):
        model.predict(inputs)
    compiled = model.trainer.programs.compiles.traces
    assert set(compiled) == {"initialisation", "the training loop"}


def test_labels_of_another_kind_for_a_trained_network(model):
    with pytest.raises(InputError, match=r"expected labels of shape \(\) and type int32.*float32"):
        model.evaluate((INPUTS, LABELS.astype(np.float32)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers(trainer, model, bad):
    inputs = INPUTS.copy()
    inputs[2, 1] = bad
    message = rf"inputs: {bad} in row 2, column 1 is not a finite number; 1 such values"
    with pytest.raises(InputError, match=message):
        trainer.fit((inputs, LABELS), epochs=1)
    with pytest.raises(InputError, match=message):
        trainer.fit((INPUTS, LABELS), (inputs, LABELS), epochs=1)
    with pytest.raises(InputError, match=message):
        model.evaluate((inputs, LABELS))
    with pytest.raises(InputError, match=message):
        model.predict(inputs)
    labels = INPUTS[:, 0].copy()
    labels[3] = bad
    with pytest.raises(InputError, match=rf"labels: {bad} in row 3 is not a finite number"):
        Trainer(regressor()).fit((INPUTS, labels), epochs=1)


def test_an_empty_split(trainer, model):
    empty = (INPUTS[:0], LABELS[:0])
    message = "an empty split: expected at least one example, got 0"
    for use in (
        lambda: trainer.fit(empty, epochs=1),
        lambda: trainer.fit((INPUTS, LABELS), empty, epochs=1),
        lambda: model.evaluate(empty),
        lambda: model.predict(empty[0]),
    ):
        with pytest.raises(InputError, match=message):
            use()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            INPUTS,
            r"expected a pair \(inputs, labels\), Arrays, .* or a Pipeline, got ndarray",
        ),
        (
            [INPUTS, LABELS],
            r"got a list of 2 arrays, which may be a pair or batches",
        ),
        (None, r"expected a pair \(inputs, labels\), Arrays, .* or a Pipeline, got NoneType"),
        (
            (INPUTS,),
            r"expected a pair \(inputs, labels\), Arrays, .* or a Pipeline, got a tuple of 1",
        ),
        ((INPUTS, LABELS, None), r"got a tuple of 3. Weights.* Arrays\(inputs, labels, weights\)"),
    ],
)
def test_data_that_is_no_data(trainer, model, data, message):
    with pytest.raises(InputError, match=message):
        trainer.fit(data, epochs=1)
    with pytest.raises(InputError, match=message):
        model.evaluate(data)
    if data is not None:  # which means no validation
        with pytest.raises(InputError, match=message):
            trainer.fit((INPUTS, LABELS), data, epochs=1)


def test_data_that_was_refused_sets_no_example(trainer):
    with pytest.raises(InputError, match="expected labels from 0 to 2"):
        trainer.fit((INPUTS[:, :2], LABELS + 1), epochs=1)
    with pytest.raises(InputError, match="expected labels from 0 to 2"):
        trainer.fit((INPUTS, LABELS + 1), epochs=1)


def test_a_pipeline_whose_batches_lack_something(trainer):
    class Bare:
        name, steps, examples = "bare", 1, 4

        def spec(self):
            return {"images": jax.ShapeDtypeStruct((4, 2), np.float32)}

        def chunks(self, seed, epoch, start, size):
            raise NotImplementedError

    message = "bare: expected batches with inputs and mask, got images. Add inputs and mask"
    with pytest.raises(InputError, match=message):
        trainer.evaluate(None, Bare())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"say how long to train, with epochs=\.\.\. or steps=\.\.\."),
        ({"epochs": 0}, "expected epochs to be a whole number of at least 1, got 0"),
        ({"epochs": -3}, "expected epochs to be a whole number of at least 1, got -3"),
        ({"epochs": 1.5}, "expected epochs to be a whole number of at least 1, got 1.5"),
        ({"steps": 0}, "expected steps to be a whole number of at least 1, got 0"),
        ({"epochs": 1, "steps": "7"}, "expected steps to be a whole number of at least 1, got '7'"),
        ({"epochs": 1, "batch_size": 0}, "expected batch_size to be a whole number.*1, got 0"),
        ({"epochs": 1, "seed": -1}, "expected seed to be a whole number of at least 0, got -1"),
        ({"epochs": 1, "seed": 0.5}, "expected seed to be a whole number of at least 0, got 0.5"),
    ],
)
def test_impossible_options_of_a_run(trainer, options, message):
    with pytest.raises(InputError, match=message):
        trainer.fit((INPUTS, LABELS), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps_per_dispatch": 0}, "'auto' or a whole number of at least 1, got 0"),
        ({"placement": "gpu"}, "expected placement 'auto', 'device' or 'host', got 'gpu'"),
        ({"eval_batch_size": 0}, "expected eval_batch_size to be a whole number.*1, got 0"),
    ],
)
def test_impossible_options_of_a_trainer(trainer, options, message):
    with pytest.raises(InputError, match=message):
        replace(trainer, **options).fit((INPUTS, LABELS), (INPUTS, LABELS), epochs=1)


def test_a_metric_to_watch_that_is_not_measured(trainer):
    watching = replace(trainer, early_stopping=EarlyStopping("val_accuracy", patience=3))
    message = (
        "early stopping monitors 'val_accuracy', but this run measures only loss, accuracy. Choose "
        "one of these as monitor.*metrics that begin with val_ need validation data"
    )
    with pytest.raises(UsageError, match=message):
        watching.fit((INPUTS, LABELS), epochs=1)
    assert set(watching.programs.compiles.traces) <= {"initialisation"}


def test_a_negative_patience():
    with pytest.raises(UsageError, match=r"expected a patience of 0 or more.*got -1. Leave it out"):
        EarlyStopping(patience=-1)


def test_a_model_that_is_none():
    trainer = Trainer(classifier(lambda inputs: inputs))
    message = "expected a flax.linen.Module, .* or a jaxnet Network, got function. Wrap plain func"
    with pytest.raises(TypeError, match=message):
        trainer.fit((INPUTS, LABELS), epochs=1)
