"""Teacher forcing: what goes in, what counts, and that it learns to copy a text backwards."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses
from jaxnet.data import Arrays
from jaxnet.errors import InputError, UsageError
from jaxnet.generation import ModuleStep, generate
from jaxnet.models import Transformer
from jaxnet.training import TeacherForcing, Trainer
from jaxnet.training.tasks.teacher_forcing import shifted

pytestmark = pytest.mark.usefixtures("shared_programs")

START, END, VOCAB = 2, 3, 12
LOSS = losses.masked(partial(losses.cross_entropy, label_smoothing=0.1), ignored=0)


def backwards(count, seed=0):
    """Tokens, and the same in the reverse order."""
    draw = np.random.default_rng(seed)
    source, target = np.zeros((2, count, 6), np.int32)
    for row in range(count):
        tokens = draw.integers(4, VOCAB, draw.integers(2, 6))
        source[row, : len(tokens)] = tokens
        target[row, : len(tokens) + 1] = [*tokens[::-1], END]
    return source, target


def task(**options):
    model = Transformer(VOCAB, 16, 1, 2, 32, 0.0, pre_norm=True)
    return TeacherForcing(model, LOSS, optax.adam(5e-3), **options)


def batch():
    source, target = (jnp.asarray(side) for side in backwards(4))
    return {"inputs": source, "labels": target, "mask": jnp.ones(4, bool)}


@pytest.mark.slow
def test_the_network_reads_the_source_and_the_tokens_before():
    made, given = task(), batch()
    state = jax.jit(made.init)(jax.random.key(0), given)
    read = np.concatenate([np.full((4, 1), START), given["labels"][:, :-1]], axis=1)

    @jax.jit
    def both(state, given, read):
        want = made.model.apply({"params": state.params}, given["inputs"], read)
        measured = made.eval_step(state, given)
        return made.predict_step(state, given), want, jax.nn.log_softmax(want), measured

    got, want, log, measured = both(state, given, read.astype(np.int32))
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert shifted(given["labels"], START).tolist() == read.tolist()
    log = np.asarray(log, np.float64)
    smooth = 0.9 * np.take_along_axis(log, np.asarray(given["labels"])[..., None], -1)[..., 0]
    smooth = -(smooth + 0.1 * log.mean(axis=-1))
    real = np.asarray(given["labels"]) > 0
    losses_ = (smooth * real).sum(axis=1) / real.sum(axis=1)
    assert float(measured["loss"].compute()) == pytest.approx(losses_.mean(), rel=1e-5)


def test_without_labels_it_says_what_to_do():
    made, given = task(), batch()
    state = jax.eval_shape(made.init, jax.random.key(0), given)
    del given["labels"]
    with pytest.raises(UsageError, match=r"use jaxnet.generation"):
        jax.eval_shape(made.predict_step, state, given)


def test_tokens_outside_the_vocabulary_are_refused():
    source, target = backwards(8)
    for side, name in ((source, "tokens from 0 to 11"), (target, "labels from 0 to 11")):
        before, side[5, 1] = side[5, 1], VOCAB
        with pytest.raises(InputError, match=name):
            Trainer(task(), progress=False).fit(Arrays(source, target), epochs=1, batch_size=8)
        side[5, 1] = before


@pytest.mark.slow
def test_it_learns_to_write_texts_backwards():
    source, target = backwards(1500)
    result = Trainer(task(), progress=False).fit(
        Arrays(source, target), epochs=14, batch_size=32, seed=0
    )
    source, target = backwards(40, seed=1)
    model, variables = result.model.trainer.task.model, {"params": result.state.params}
    cache = model.apply(variables, jnp.asarray(source), 8, method="start")
    prompts = np.full((40, 1), START)
    made = generate(ModuleStep(model, "decode"), variables, prompts, 6, end=END, cache=cache)
    assert (made.tokens == target).all(axis=1).mean() > 0.9
