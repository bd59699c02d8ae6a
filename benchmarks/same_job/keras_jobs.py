# Keras's own types don't know what its guides do.
# type: ignore
"""The jobs with Keras 3, on JAX."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import keras
import numpy as np
import pandas
from keras import layers, ops
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import DataLoader

from benchmarks.same_job.data import NAMES, Labelled, stream

cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def own_module(data: Labelled):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = layers.Dense(8, "relu")
            self.dropout = layers.Dropout(0.1)
            self.last = layers.Dense(3)

        def call(self, inputs, training=False):
            return self.last(self.dropout(self.hidden(inputs), training=training))

    model = Net()
    model.compile("adam", cross_entropy)
    return model.fit(*data, epochs=2)


def data_frame(frame):
    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy)
    return model.fit(frame[["a", "b"]], frame["kind"], epochs=2)


def torch_dataset(dataset):
    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy)
    return model.fit(DataLoader(dataset, 32, shuffle=True), epochs=2)


def torch_loader(loader):
    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy)
    return model.fit(loader, epochs=2)


def generator():
    def forever():
        while True:
            yield from stream()

    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy)
    return model.fit(forever(), steps_per_epoch=4, epochs=2)


def own_loss(data: Labelled):
    def loss(labels, outputs):
        share = ops.sum(ops.softmax(outputs) * ops.one_hot(labels, 3), -1)
        return -ops.log(share + 0.01)

    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", loss)
    return model.fit(*data, epochs=2)


def own_metric(data: Labelled):
    def confident(labels, outputs):
        return ops.cast(ops.max(ops.softmax(outputs), -1) > 0.5, "float32")

    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy, metrics=[confident])
    return model.fit(*data, epochs=2)


def own_schedule(data: Labelled):
    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 / (1 + ops.cast(step, "float32"))

    model = keras.Sequential([layers.Dense(3)])
    model.compile(keras.optimizers.SGD(Rate()), cross_entropy)
    return model.fit(*data, epochs=2)


def own_optimizer(data: Labelled):
    class Sign(keras.optimizers.Optimizer):
        def update_step(self, gradient, variable, learning_rate):
            rate = ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, rate * ops.sign(gradient))

    model = keras.Sequential([layers.Dense(3)])
    model.compile(Sign(0.01), cross_entropy)
    return model.fit(*data, epochs=2)


def own_step(data: Labelled):
    class Normalized(keras.Sequential):
        def train_step(self, state, data):
            trainable, fixed, slots, metrics = state
            inputs, labels = data
            differentiate = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)
            (_, (loss, outputs, fixed, metrics)), grads = differentiate(
                trainable, fixed, metrics, inputs, labels, None, True, optimizer_variables=slots
            )
            norm = sum(ops.sum(ops.square(g)) for g in grads) ** 0.5
            grads = [g / (norm + 1e-6) for g in grads]
            trainable, slots = self.optimizer.stateless_apply(slots, grads, trainable)
            logs, metrics = self._update_metrics_variables(
                metrics, loss, inputs, labels, outputs, None
            )
            return logs, (trainable, fixed, slots, metrics)

    model = Normalized([layers.Dense(3)])
    model.compile("sgd", cross_entropy)
    return model.fit(*data, epochs=2)


def callback_that_stops(data: Labelled, valid: Labelled):
    class Enough(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if logs["val_accuracy"] > 0.1:
                self.model.stop_training = True

    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy, metrics=["accuracy"])
    return model.fit(*data, validation_data=valid, epochs=9, callbacks=[Enough()])


def stop_rule(data: Labelled, valid: Labelled):
    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy, metrics=["accuracy"])
    rule = keras.callbacks.EarlyStopping("val_accuracy", patience=1, restore_best_weights=True)
    return model.fit(*data, validation_data=valid, epochs=60, callbacks=[rule])


def cross_validation(data: Labelled):
    inputs, labels = data
    scores = []
    for rest, fold in StratifiedKFold(3, shuffle=True, random_state=0).split(inputs, labels):
        model = keras.Sequential([layers.Dense(3)])
        model.compile("adam", cross_entropy, metrics=["accuracy"])
        model.fit(inputs[rest], labels[rest], epochs=2)
        scores.append(model.evaluate(inputs[fold], labels[fold])[1])
    return scores


def class_weights(data: Labelled):
    classes = np.unique(data[1])
    weights = compute_class_weight("balanced", classes=classes, y=data[1])
    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy)
    return model.fit(*data, epochs=2, class_weight=dict(zip(classes, weights, strict=True)))


def predictions_in_a_frame(data: Labelled):
    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy)
    model.fit(*data, epochs=2)
    shares = np.asarray(ops.softmax(model.predict(data[0])))
    frame = pandas.DataFrame(shares, columns=[f"probability_{name}" for name in NAMES])
    frame.insert(0, "class", np.array(NAMES)[shares.argmax(-1)])
    return frame


def save(data: Labelled, folder: str):
    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy)
    model.fit(*data, epochs=2)
    model.save(Path(folder, "model.keras"))
    Path(folder, "names.json").write_text(json.dumps(NAMES))


def load(folder: str, inputs):
    model = keras.models.load_model(Path(folder, "model.keras"))
    names = np.array(json.loads(Path(folder, "names.json").read_text()))
    return names[model.predict(inputs).argmax(-1)]


def tensorboard(data: Labelled, valid: Labelled, folder: str):
    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy, metrics=["accuracy"])
    logger = keras.callbacks.TensorBoard(folder)
    model.fit(*data, validation_data=valid, epochs=2, callbacks=[logger])


def wandb(data: Labelled, valid: Labelled, folder: str):
    import wandb  # whose own callbacks for Keras need TensorFlow

    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy, metrics=["accuracy"])
    with wandb.init(project="table", dir=folder) as run:
        logger = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: run.log(logs))
        model.fit(*data, validation_data=valid, epochs=2, callbacks=[logger])


def progress_in_a_notebook(data: Labelled):
    model = keras.Sequential([layers.Dense(3)])
    model.compile("adam", cross_entropy)
    model.fit(*data, epochs=2)


def two_inputs(data: Labelled):
    first, second = keras.Input((2,), name="first"), keras.Input((2,), name="second")
    outputs = layers.Dense(3)(layers.Concatenate()([first, second]))
    model = keras.Model([first, second], outputs)
    model.compile("adam", cross_entropy)
    both = {"first": data[0][:, :2], "second": data[0][:, 2:]}
    return model.fit(both, data[1], epochs=2)


def two_outputs(data: Labelled):
    inputs = keras.Input((4,))
    heads = {"kind": layers.Dense(3)(inputs), "total": layers.Dense(1)(inputs)}
    model = keras.Model(inputs, heads)
    measured = {"kind": ["accuracy"], "total": ["mean_absolute_error"]}
    model.compile("adam", {"kind": cross_entropy, "total": "mse"}, metrics=measured)
    labels = {"kind": data[1], "total": data[0].sum(1)}
    return model.fit(data[0], labels, epochs=2)
