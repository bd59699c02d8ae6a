"""Texts from texts, by an encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.text.tokenizer import END, START, Tokenizer
from jaxnet.generation.beam import beam_search
from jaxnet.generation.decoding import ModuleStep
from jaxnet.generation.texts import EpochTexts
from jaxnet.layers import attention_maps
from jaxnet.training.programs import compiled

# Texts that are read at a time, and to a multiple of how many tokens they are padded: so that few
# programs are compiled for texts of all lengths.
_BATCH, _MULTIPLE = 64, 16
# How many tokens a translation has at most, where nobody says.
NEW_TOKENS = 64


def translate(
    model: nn.Module,
    variables: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    new_tokens: int = NEW_TOKENS,
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
    # A few texts take as many rows as the next power of two, and not a whole batch.
    size = min(_BATCH, 1 << (len(texts) - 1).bit_length())
    # Texts of like length go together: a batch takes as many steps as its longest one.
    order = np.argsort((source > 0).sum(axis=1), kind="stable")
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        rows = np.zeros((size, width), np.int32)
        # Fewer texts are repeated until they fill the batch: all batches have one shape.
        rows[:, : source.shape[1]] = source[np.resize(chosen, size)]
        made = beam_search(
            ModuleStep(model, "decode"),
            variables,
            np.full((size, 1), tokenizer.id_of(START), np.int32),
            new_tokens,
            beams=beams,
            length_penalty=length_penalty,
            end=tokenizer.id_of(END),
            cache=start(variables, rows),
        )
        # What follows the end is padding, which is no text.
        made_texts = tokenizer.decode_batch(made.tokens[: len(chosen)])
        for index, text in zip(chosen, made_texts, strict=True):
            written[index] = text.strip()
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
class Translations(EpochTexts):
    """Prints a few translations after each epoch, and adds them to `samples.txt`.

    Attributes:
        folder: the run folder.
        tokenizer: see `translate`.
        texts: what to translate.
        references: what a human wrote for them.
        new_tokens: how many tokens a translation has at most.
    """

    heading: ClassVar[str] = "--- epoch {epoch} ---"

    texts: Sequence[str]
    references: Sequence[str]
    new_tokens: int = NEW_TOKENS

    def text(self, model: Any, variables: Any) -> str:
        """Each text, its translation, and the reference."""
        made = translate(model, variables, self.tokenizer, self.texts, self.new_tokens, beams=1)
        return "\n".join(
            f"{text}\n  -> {translation}\n  == {reference}"
            for text, translation, reference in zip(self.texts, made, self.references, strict=True)
        )
