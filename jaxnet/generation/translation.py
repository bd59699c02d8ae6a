"""Texts from texts, by an encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.tokens import END, START, Tokenizer
from jaxnet.generation.beam import beam_search
from jaxnet.generation.decoding import ModuleStep
from jaxnet.layers import attention_maps
from jaxnet.training.callbacks import Callback, Plan
from jaxnet.training.programs import compiled

# Texts that are read at a time, and to a multiple of how many tokens they are padded: so that few
# programs are compiled for texts of all lengths.
_BATCH, _MULTIPLE = 64, 16


def translate(
    model: nn.Module,
    variables: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    new_tokens: int = 64,
    *,
    beams: int = 4,
    length_penalty: float = 1.0,
) -> list[str]:
    """What an encoder-decoder writes for each text, found by a beam search.

    Args:
        model: has methods `start` and `decode`, as `models.Transformer`.
        variables: the weights: `{"params": ...}`.
        tokenizer: the one that the model was trained with, for both sides.
        texts: what to translate, or to sum up; none of them empty.
        new_tokens: how many tokens a translation has at most.
        beams: see `beam_search`; 1 is the greedy choice.
        length_penalty: see `beam_search`.

    Raises:
        InputError: there are no texts, or one of them is empty.
    """
    source = tokenizer.encode_batch(texts, end=True)
    width = -(-source.shape[1] // _MULTIPLE) * _MULTIPLE
    start = _start(model, new_tokens + 1)
    written: list[str] = [""] * len(texts)
    # Texts of like length go together: a batch takes as many steps as its longest one.
    order = np.argsort((source > 0).sum(axis=1), kind="stable")
    for first in range(0, len(order), _BATCH):
        chosen = order[first : first + _BATCH]
        rows = np.zeros((_BATCH, width), np.int32)
        # Where there are fewer texts, the last one fills the batch: all batches have one shape.
        rows[:, : source.shape[1]] = source[np.resize(chosen, _BATCH)]
        made = beam_search(
            ModuleStep(model, "decode"),
            variables,
            np.full((_BATCH, 1), tokenizer.id_of(START), np.int32),
            new_tokens,
            beams=beams,
            length_penalty=length_penalty,
            end=tokenizer.id_of(END),
            cache=start(variables, rows),
        )
        for index, tokens in zip(chosen, made.texts(), strict=False):
            written[index] = tokenizer.decode(tokens).strip()
    return written


@lru_cache(maxsize=8)
def _start(model: nn.Module, length: int) -> Callable[[Any, np.ndarray], Any]:
    def start(variables: Any, source: jax.Array) -> Any:
        return model.apply(variables, source, length, method="start")

    return compiled(start)


def translation_attention(
    model: nn.Module, variables: Any, tokenizer: Tokenizer, text: str, translation: str
) -> tuple[np.ndarray, list[str], list[str]]:
    """What the decoder looks at in the source while it writes each token.

    Args:
        model: see `translate`.
        variables: see `translate`.
        tokenizer: see `translate`.
        text: the source.
        translation: what is written.

    Returns:
        (layers, heads, time, source) weights, the tokens that are written, and those that are read.
    """
    source = tokenizer.encode_batch([text], end=True)
    target = tokenizer.encode_batch([translation], start=True, end=True)
    maps = attention_maps(model, variables, jnp.asarray(source), jnp.asarray(target[:, :-1]))
    count = sum(path.endswith("/cross_attention") for path in maps)
    layers = [maps[f"decoder_{number}/cross_attention"][0] for number in range(count)]
    rows, columns = ([_shown(tokenizer, token) for token in side[0]] for side in (target, source))
    return np.stack(layers), rows[1:], columns


def _shown(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; part of a character, or a sign that can't be seen, by its name."""
    text = tokenizer.decode([token]).strip()
    seen = text and text.isprintable() and "\ufffd" not in text
    return text if seen else str(tokenizer.backend.id_to_token(int(token)))


@dataclass
class Translations(Callback):
    """Prints a few translations after each epoch, and adds them to `samples.txt`.

    Attributes:
        folder: the run folder.
        model: see `translate`.
        tokenizer: see `translate`.
        texts: what to translate.
        references: what a human wrote for them.
        new_tokens: how many tokens a translation has at most.
    """

    folder: Path
    model: nn.Module
    tokenizer: Tokenizer
    texts: Sequence[str]
    references: Sequence[str]
    new_tokens: int = 64
    _file: Path = field(init=False)

    def __post_init__(self) -> None:
        self._file = self.folder / "samples.txt"

    def on_start(self, plan: Plan) -> None:
        """Begin the file anew, unless a run goes on."""
        if not len(plan.history):
            self._file.unlink(missing_ok=True)

    def on_epoch(self, row: Any, state: Any) -> None:
        """Translate."""
        variables = {"params": state.params, **state.collections}
        options = {"new_tokens": self.new_tokens, "beams": 1}
        made = translate(self.model, variables, self.tokenizer, self.texts, **options)
        lines = [
            f"{text}\n  -> {translation}\n  == {reference}"
            for text, translation, reference in zip(self.texts, made, self.references, strict=True)
        ]
        shown = "\n".join([f"--- epoch {int(row['epoch'])} ---", *lines, ""])
        print(shown)
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(f"{shown}\n")
