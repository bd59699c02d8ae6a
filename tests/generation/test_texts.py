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
    Generated,
    Samples,
    Translations,
    checked_prompts,
    generate_texts,
    with_room,
)
from jaxnet.models import GPT2, RecurrentLM
from jaxnet.training import Supervised, Trained, Trainer, with_ema
from jaxnet.training.callbacks import Plan
from jaxnet.training.history import History
from jaxnet.training.techniques.local_sgd import local_sgd
from tests.networks import Dense

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


@pytest.mark.parametrize(
    ("level", "prompt", "text"),
    [
        ("word", "To be", "To be or not"),
        ("word", "To be ", "To be or not"),
        ("word", "To be\n", "To be\nor not"),
        ("word", "ROMEO:", "ROMEO: or not"),
        ("character", "To be", "To beor not"),
        ("bpe", "To be", "To beor not"),
        ("bpe", "To be ", "To be or not"),
    ],
)
def test_words_that_go_on_with_a_prompt_stand_apart_from_it(level, prompt, text, monkeypatch):
    tokenizer = fit_tokenizer("To be or not To be", level, vocab_size=300)
    added = tokenizer.encode("or not")
    assert tokenizer.join(prompt, added) == text
    assert tokenizer.join(prompt, added[:0]) == prompt
    made = Generated(np.asarray(added)[None], np.array([len(added)]))
    monkeypatch.setattr("jaxnet.generation.texts.generate", lambda *_, **__: made)
    assert generate_texts(None, None, tokenizer, [prompt], 2) == [text]


TECHNIQUES = {
    "average": lambda task: with_ema(task, 0.9),
    "replicas": lambda task: local_sgd(task, 2),
    "both": lambda task: local_sgd(with_ema(task, 0.9), 2),
}
CALLBACKS = {
    "generation.texts.generate_texts": (
        lambda *known: Samples(*known, "to", 2, ()),
        "===== epoch 3 =====\nto\n\n",
    ),
    "generation.translation.translate": (
        lambda *known: Translations(*known, ["or"], ["oder"]),
        "--- epoch 3 ---\nor\n  -> to\n  == oder\n\n",
    ),
}


@pytest.mark.parametrize("writer", CALLBACKS)
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_weights_that_are_evaluated_write(technique, writer, tmp_path, monkeypatch):
    plain = Supervised(Dense(3), losses.squared_error, optax.sgd(0.1))
    task = TECHNIQUES[technique](plain)
    batch = {"inputs": jnp.ones((2, 3)), "labels": jnp.ones((2, 3)), "mask": jnp.ones(2, bool)}
    state = task.init(jax.random.key(0), batch)
    # As after training: the weights, their replicas and their average all differ.
    draws = np.random.default_rng(1)
    params, memory = jax.tree.map(
        lambda leaf: jnp.asarray(draws.uniform(0.5, 1, leaf.shape), leaf.dtype),
        (state.params, state.memory),
    )
    state = replace(state, params=params, memory=memory)
    written = []

    def write(model, variables, *options, **more):
        written.append((model, variables))
        return ["to"]

    monkeypatch.setattr(f"jaxnet.{writer}", write)
    make, text = CALLBACKS[writer]
    trained = Trained(Trainer(task), state, batch["inputs"])
    make(tmp_path, LETTERS).on_epoch({"epoch": 3}, trained)
    assert (tmp_path / "samples.txt").read_text() == text
    ((model, variables),) = written
    assert model == plain.model
    assert not np.array_equal(variables["params"]["kernel"], params["kernel"])
    got, _ = plain.network.apply(variables, batch["inputs"], False, None)
    np.testing.assert_allclose(got, task.predict_step(state, batch), rtol=1e-6)


@pytest.mark.parametrize(
    "made",
    [
        lambda folder: Samples(folder, LETTERS, "a", 1, ()),
        lambda folder: Translations(folder, LETTERS, [], []),
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
