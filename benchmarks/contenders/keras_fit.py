"""Keras 3 on JAX: `Model.fit` on NumPy arrays.

Options:
    steps_per_execution: a number, or `all` for one epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks.contenders.keras_resnet import resnet18
from benchmarks.contenders.keras_transformer import encoder
from benchmarks.workloads import CLASSES, Contestant, Data, Workload

# Keras declares `verbose` a string; 0 is its documented way to say nothing.
SILENT: Any = 0


def setup(workload: Workload, data: Data, options: Mapping[str, str]) -> Contestant:
    keras.utils.set_random_seed(0)
    examples = data.shaped(workload, scale=True)
    steps = options["steps_per_execution"]
    model = model_of(workload)
    model.compile(
        optimizer={"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}[
            workload.optimizer
        ](workload.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[] if workload.next_token else ["accuracy"],
        steps_per_execution=workload.steps if steps == "all" else int(steps),
    )

    def train(round_index: int) -> float:
        history = model.fit(
            examples.inputs,
            examples.labels,
            batch_size=workload.batch_size,
            epochs=1,
            verbose=SILENT,
        )
        return float(history.history["loss"][0])

    def evaluate() -> float:
        if workload.next_token:
            logits = model.predict(examples.test_inputs, verbose=SILENT)
            return float(np.mean(logits.argmax(-1) == examples.test_labels))
        _, accuracy = model.evaluate(examples.test_inputs, examples.test_labels, verbose=SILENT)
        return float(accuracy)

    return Contestant(train, evaluate)


def model_of(workload: Workload) -> keras.Model:
    if workload.blocks:
        return encoder(workload)
    if workload.next_token:
        return keras.Sequential(
            [
                keras.Input((workload.length,), dtype="int32"),
                layers.Embedding(workload.vocabulary, workload.embedding),
                layers.LSTM(workload.hidden[0], return_sequences=True),
                layers.Dense(workload.vocabulary),
            ]
        )
    if workload.recurrent:
        return keras.Sequential(
            [
                keras.Input((workload.length,), dtype="int32"),
                layers.Embedding(workload.vocabulary, workload.embedding),
                layers.SimpleRNN(workload.hidden[0]),
                layers.Dense(CLASSES),
            ]
        )
    if workload.residual:
        return resnet18(CLASSES)
    stack: list[layers.Layer] = []
    for index, channels in enumerate(workload.channels):
        stack.append(layers.Conv2D(channels, 3, activation="relu"))
        if index < len(workload.channels) - 1:
            stack.append(layers.MaxPooling2D(2))
    if workload.convolutional:
        stack.append(layers.Flatten())
    stack += [layers.Dense(width, activation="relu") for width in workload.hidden]
    shape = (28, 28, 1) if workload.convolutional else (784,)
    return keras.Sequential([keras.Input(shape), *stack, layers.Dense(CLASSES)])
