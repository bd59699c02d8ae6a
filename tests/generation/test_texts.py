"""Prompts that are checked, and texts that a run writes after each epoch."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses
from jaxnet.data import fit_tokenizer
from jaxnet.errors import InputError
from jaxnet.generation import (
    Samples,
    Translations,
    checked_prompts,
    generate_texts,
    translate,
    with_room,
)
from jaxnet.training import Supervised, TeacherForcing, with_ema
from jaxnet.training.averaging import local_sgd
from jaxnet.training.callbacks import Plan
from jaxnet.training.history import History
from models import GPT2, RecurrentLM, Transformer

WORDS = fit_tokenizer("to be or not to be", "word")
LETTERS = fit_tokenizer("to be or not to be", "character")


def test_prompts_and_the_room_after_them():
    model = GPT2(20, length=6)
    encoded, room = checked_prompts(model, LETTERS, ["to", "or n"])
    assert ([len(tokens) for tokens in encoded], room) == ([2, 4], 2)
    assert checked_prompts(RecurrentLM(20), LETTERS, ["to be or not to be"])[1] is None
    assert (with_room(5, 2), with_room(1, 2), with_room(5, None)) == (2, 1, 5)


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "message"),
    [
        (LETTERS, "", "--prompt: expected a text to go on with, got ''"),
        (WORDS, " \n", "--prompt: expected a text to go on with, got ' .n', which has no token"),
        (LETTERS, "to be ", "--prompt: 6 tokens leave no room for another.* 6 positions"),
        (LETTERS, "to be or", "--prompt: 8 tokens leave no room"),
    ],
)
def test_prompts_that_cannot_be_are_refused(tokenizer, prompt, message):
    with pytest.raises(InputError, match=message):
        checked_prompts(GPT2(20, length=6), tokenizer, ["or", prompt], "--prompt")


def _state(task, inputs, labels):
    batch = {"inputs": inputs, "labels": labels, "mask": jnp.ones(len(inputs), bool)}
    state = task.init(jax.random.key(0), batch)
    # As after training: what is trained, its replicas and its average are three things.
    leaves, form = jax.tree.flatten((state.params, state.memory))
    draws = np.random.default_rng(1)
    moved = [jnp.asarray(draws.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    params, memory = jax.tree.unflatten(form, moved)
    if "local_sgd" in memory:
        memory["local_sgd"] = jnp.array([3.0, 1.0])
    return replace(state, params=params, memory=memory)


TECHNIQUES = {
    "average": lambda task: with_ema(task, 0.9),
    "replicas": lambda task: local_sgd(task, 2),
    "both": lambda task: local_sgd(with_ema(task, 0.9), 2),
}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_weights_that_are_evaluated_write_samples(technique, tmp_path):
    model = RecurrentLM(LETTERS.vocab_size, "rnn", embedding=4, features=4)
    tokens = jnp.ones((2, 3), jnp.int32)
    plain = Supervised(model, losses.cross_entropy, optax.sgd(0.1))
    task = TECHNIQUES[technique](plain)
    state = _state(task, tokens, tokens)
    Samples(tmp_path, task, LETTERS, "to", 12, ()).on_epoch({"epoch": 3}, state)
    variables = task.inference(state).variables
    (want,) = generate_texts(model, variables, LETTERS, ["to"], 12, filters=())
    assert (tmp_path / "samples.txt").read_text() == f"===== epoch 3 =====\n{want}\n\n"
    if technique == "average":
        raw = {"params": state.params}
        assert generate_texts(model, raw, LETTERS, ["to"], 12, filters=()) != [want]


@pytest.mark.slow
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_weights_that_are_evaluated_write_translations(technique, tmp_path):
    model = Transformer(LETTERS.vocab_size, 8, 1, 2, 8)
    tokens = jnp.ones((2, 3), jnp.int32)
    task = TECHNIQUES[technique](TeacherForcing(model, losses.cross_entropy, optax.sgd(0.1)))
    state = _state(task, tokens, tokens)
    shown = Translations(tmp_path, task, LETTERS, ["to"], ["or"], new_tokens=4)
    shown.on_epoch({"epoch": 3}, state)
    variables = task.inference(state).variables
    (want,) = translate(model, variables, LETTERS, ["to"], 4, beams=1)
    written = (tmp_path / "samples.txt").read_text()
    assert written == f"--- epoch 3 ---\nto\n  -> {want}\n  == or\n\n"


@pytest.mark.parametrize(
    "made",
    [
        lambda folder: Samples(folder, None, LETTERS, "a", 1, ()),
        lambda folder: Translations(folder, None, LETTERS, [], []),
    ],
    ids=["samples", "translations"],
)
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_resumed_run_repeats_no_text(made, kept, tmp_path):
    callback = made(tmp_path)
    file = tmp_path / "samples.txt"
    epochs = (1, 2, 3, 4, 10)
    blocks = [f"{callback.heading.format(epoch=epoch)}\ntext {epoch}\n\n" for epoch in epochs]
    file.write_text("".join(blocks))
    rows = tuple({"epoch": epoch + 1, "step": epoch + 1} for epoch in range(kept))
    callback.on_start(Plan(12, 1, 12, kept, History(rows)))
    assert file.read_text() == "".join(blocks[:kept])
