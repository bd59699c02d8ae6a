"""The jobs with jaxnet."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks.same_job.data import NAMES, Labelled, stream
from jaxnet import Bundle, EarlyStopping, Supervised, Trainer, losses, optimizers
from jaxnet.data import Arrays, k_fold
from jaxnet.training import TensorBoard, WandB


def own_module(data: Labelled):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, inputs, train: bool = False):
            hidden = nn.relu(nn.Dense(8)(inputs))
            return nn.Dense(3)(nn.Dropout(0.1, deterministic=not train)(hidden))

    return Trainer(Supervised(Net(), "cross_entropy", "adam")).fit(data, epochs=2)


def data_frame(frame):
    task = Supervised(nn.Dense(3), "cross_entropy", "adam")
    return Trainer(task).fit((frame[["a", "b"]], frame["kind"]), epochs=2)


def torch_dataset(dataset):
    task = Supervised(nn.Dense(3), "cross_entropy", "adam")
    return Trainer(task).fit(dataset, epochs=2)


def torch_loader(loader):
    return Trainer(Supervised(nn.Dense(3), "cross_entropy", "adam")).fit(loader, epochs=2)


def generator():
    return Trainer(Supervised(nn.Dense(3), "cross_entropy", "adam")).fit(stream, epochs=2)


def own_loss(data: Labelled):
    def loss(outputs, labels):
        share = (jax.nn.softmax(outputs) * jax.nn.one_hot(labels, 3)).sum(-1)
        return -jnp.log(share + 0.01)

    return Trainer(Supervised(nn.Dense(3), loss, "adam")).fit(data, epochs=2)


def own_metric(data: Labelled):
    def confident(outputs, labels):
        return (jax.nn.softmax(outputs).max(-1) > 0.5).astype(jnp.float32)

    task = Supervised(nn.Dense(3), "cross_entropy", "adam", [confident])
    return Trainer(task).fit(data, epochs=2)


def own_schedule(data: Labelled):
    def rate(step):
        return 0.1 / (1 + step)

    task = Supervised(nn.Dense(3), "cross_entropy", optimizers.by_name("sgd", rate))
    return Trainer(task).fit(data, epochs=2)


def own_optimizer(data: Labelled):
    def update(grads, params):
        return jax.tree.map(lambda g: -0.01 * jnp.sign(g), grads)

    task = Supervised(nn.Dense(3), "cross_entropy", optax.stateless(update))
    return Trainer(task).fit(data, epochs=2)


def own_step(data: Labelled):
    class Normalized(Supervised):
        def gradients(self, objective, state, batch):
            grads, aux = super().gradients(objective, state, batch)
            norm = optax.tree.norm(grads)
            return jax.tree.map(lambda g: g / (norm + 1e-6), grads), aux

    task = Normalized(nn.Dense(3), "cross_entropy", "sgd")
    return Trainer(task).fit(data, epochs=2)


def callback_that_stops(data: Labelled, valid: Labelled):
    class Enough:
        def on_epoch(self, row, trained):
            if row["val_accuracy"] > 0.1:
                return "good enough"

    task = Supervised(nn.Dense(3), "cross_entropy", "adam", ["accuracy"])
    return Trainer(task, callbacks=[Enough()]).fit(data, valid, epochs=9)


def stop_rule(data: Labelled, valid: Labelled):
    task = Supervised(nn.Dense(3), "cross_entropy", "adam", ["accuracy"])
    rule = EarlyStopping("val_accuracy", patience=1)
    return Trainer(task, rule).fit(data, valid, epochs=60)


def cross_validation(data: Labelled):
    task = Supervised(nn.Dense(3), "cross_entropy", "adam", ["accuracy"])
    scores = []
    for rest, fold in k_fold(Arrays(*data), 3):
        result = Trainer(task).fit(rest, epochs=2)
        scores.append(result.model.evaluate(fold)["accuracy"])
    return scores


def class_weights(data: Labelled):
    weights = losses.balanced_class_weights(data[1])
    loss = losses.with_class_weights(losses.cross_entropy, weights)
    return Trainer(Supervised(nn.Dense(3), loss, "adam")).fit(data, epochs=2)


def predictions_in_a_frame(data: Labelled):
    result = Trainer(Supervised(nn.Dense(3), "cross_entropy", "adam")).fit(data, epochs=2)
    return Bundle.of(result.model, NAMES).predict_frame(data[0])


def save(data: Labelled, folder: str):
    result = Trainer(Supervised(nn.Dense(3), "cross_entropy", "adam")).fit(data, epochs=2)
    Bundle.of(result.model, NAMES).save(folder)


def load(folder: str, inputs):
    return Bundle.load(folder).predict_class(inputs)


def tensorboard(data: Labelled, valid: Labelled, folder: str):
    task = Supervised(nn.Dense(3), "cross_entropy", "adam", ["accuracy"])
    Trainer(task, callbacks=[TensorBoard(folder)]).fit(data, valid, epochs=2)


def wandb(data: Labelled, valid: Labelled, folder: str):
    task = Supervised(nn.Dense(3), "cross_entropy", "adam", ["accuracy"])
    Trainer(task, callbacks=[WandB("table", folder=folder)]).fit(data, valid, epochs=2)


def progress_in_a_notebook(data: Labelled):
    Trainer(Supervised(nn.Dense(3), "cross_entropy", "adam")).fit(data, epochs=2)


def two_inputs(data: Labelled):
    class Both(nn.Module):
        @nn.compact
        def __call__(self, first, second):
            return nn.Dense(3)(jnp.concatenate([first, second], -1))

    both = {"first": data[0][:, :2], "second": data[0][:, 2:]}
    return Trainer(Supervised(Both(), "cross_entropy", "adam")).fit((both, data[1]), epochs=2)


def two_outputs(data: Labelled):
    class Heads(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return {"kind": nn.Dense(3)(inputs), "total": nn.Dense(1)(inputs)}

    measured = {"kind": ["accuracy"], "total": ["mean_absolute_error"]}
    named = {"kind": "cross_entropy", "total": "squared_error"}
    labels = {"kind": data[1], "total": data[0].sum(1)}
    return Trainer(Supervised(Heads(), named, "adam", measured)).fit((data[0], labels), epochs=2)
