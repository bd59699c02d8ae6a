"""From text to text, in a run as well."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxnet.data.text.tokenizer import Tokenizer
from jaxnet.errors import InputError
from jaxnet.files import write_atomically
from jaxnet.generation.decoding import generate
from jaxnet.generation.samplers import Filter
from jaxnet.training.callbacks import Callback, Plan


def generate_texts(
    model: Any,
    variables: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    new_tokens: int,
    **options: Any,
) -> list[str]:
    """Go on with texts: `generate` between a tokenizer's `encode` and `decode`.

    Args:
        model: see `generate`.
        variables: see `generate`.
        tokenizer: the one that the model was trained with.
        prompts: texts, none of them empty.
        new_tokens: how many tokens are generated at most.
        options: see `generate`.

    Returns:
        For each prompt the prompt and what follows it.

    Raises:
        InputError: a prompt is empty, or what `generate` raises.
    """
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    made = generate(model, variables, encoded, new_tokens, **options)
    return [
        tokenizer.join(prompt, tokens) for prompt, tokens in zip(prompts, made.texts(), strict=True)
    ]


def checked_prompts(
    model: Any, tokenizer: Tokenizer, prompts: Sequence[str], option: str = "prompt"
) -> tuple[list[np.ndarray], int | None]:
    """The tokens of prompts, and how many a model has room for after them.

    Args:
        model: the language model; one with positions has the attribute `length`.
        tokenizer: its tokenizer.
        prompts: the texts to go on with.
        option: what messages call a prompt, such as `--prompt`.

    Returns:
        The tokens of each prompt, and the most new tokens; None where there may be any number.

    Raises:
        InputError: a prompt has no tokens, or leaves no room for another one.
    """
    encoded = []
    for prompt in prompts:
        tokens = tokenizer.encode(prompt) if prompt else ()
        if not len(tokens):
            raise InputError(
                f"{option}: expected a text to go on with, got {prompt!r}, which has no token"
            )
        encoded.append(tokens)
    length = getattr(model, "length", None)
    if length is None:
        return encoded, None
    longest = max(map(len, encoded), default=0)
    if longest >= length:
        raise InputError(
            f"{option}: {longest} tokens leave no room for another, because the network knows "
            f"{length} positions: take a shorter text"
        )
    return encoded, length - longest


def with_room(new_tokens: int, room: int | None) -> int:
    """So many new tokens, or as many as there is room for; see `checked_prompts`.

    Example:
        >>> with_room(300, None), with_room(300, 124)
        (300, 124)
    """
    return new_tokens if room is None else min(new_tokens, room)


@dataclass
class EpochTexts(Callback):
    """Prints what a network writes after each epoch, and adds it to `samples.txt`.

    Attributes:
        folder: the run folder.
        tokenizer: the network's tokenizer.
    """

    heading: ClassVar[str] = "===== epoch {epoch} ====="

    folder: Path
    tokenizer: Tokenizer

    def text(self, model: Any, variables: Any) -> str:
        """What the network writes with these weights."""
        raise NotImplementedError

    def on_start(self, plan: Plan) -> None:
        """Drop the texts of epochs that are repeated."""
        text = self._file.read_text(encoding="utf-8") if self._file.exists() else ""
        heading = re.escape(self.heading.format(epoch=len(plan.history) + 1))
        with write_atomically(self._file) as file:
            file.write(re.split(f"^{heading}$", text, flags=re.MULTILINE)[0])

    def on_epoch(self, row: Any, trained: Any) -> None:
        """Write a text."""
        network, _, variables = trained.inference()
        heading = self.heading.format(epoch=int(row["epoch"]))
        shown = f"{heading}\n{self.text(network.module, variables)}\n"
        print(shown)
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(f"{shown}\n")

    @property
    def _file(self) -> Path:
        return self.folder / "samples.txt"


@dataclass
class Samples(EpochTexts):
    """Prints what a language model writes after each epoch, and adds it to `samples.txt`.

    Attributes:
        folder: the run folder.
        tokenizer: the model's tokenizer.
        prompt: what it goes on with.
        new_tokens: the maximum number of new tokens; fewer where positions run out.
        filters: see `generate`.
    """

    prompt: str
    new_tokens: int
    filters: Sequence[Filter]

    def text(self, model: Any, variables: Any) -> str:
        """The prompt, and what follows it."""
        _, room = checked_prompts(model, self.tokenizer, [self.prompt])
        (text,) = generate_texts(
            model,
            variables,
            self.tokenizer,
            [self.prompt],
            with_room(self.new_tokens, room),
            filters=self.filters,
        )
        return text
