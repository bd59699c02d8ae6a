"""From text to text, in a run as well."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxnet.data.tokens import Tokenizer
from jaxnet.generation.decoding import generate
from jaxnet.generation.samplers import Filter
from jaxnet.training.callbacks import Callback, Plan

_HEADING = "===== epoch {epoch} ====="


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
        prompt + tokenizer.decode(tokens)
        for prompt, tokens in zip(prompts, made.texts(), strict=True)
    ]


@dataclass
class Samples(Callback):
    """Prints what a language model writes after each epoch, and adds it to `samples.txt`.

    Attributes:
        folder: the run folder.
        model: the language model in training, a Linen module.
        tokenizer: its tokenizer.
        prompt: what it goes on with.
        new_tokens: how many tokens it adds; fewer where it has no positions for so many.
        filters: see `generate`.
    """

    folder: Path
    model: Any
    tokenizer: Tokenizer
    prompt: str
    new_tokens: int
    filters: Sequence[Filter]
    _file: Path = field(init=False)

    def __post_init__(self) -> None:
        self._file = self.folder / "samples.txt"

    def on_start(self, plan: Plan) -> None:
        """Drop the samples of epochs that are repeated."""
        text = self._file.read_text(encoding="utf-8") if self._file.exists() else ""
        heading = re.escape(_HEADING).replace(r"\{epoch\}", str(len(plan.history) + 1))
        self._file.write_text(re.split(f"^{heading}$", text, flags=re.MULTILINE)[0], "utf-8")

    def on_epoch(self, row: Any, state: Any) -> None:
        """Write a sample."""
        variables = {"params": state.params, **state.collections}
        prompt = self.tokenizer.encode(self.prompt)
        room = getattr(self.model, "length", len(prompt) + self.new_tokens) - len(prompt)
        (text,) = generate_texts(
            self.model,
            variables,
            self.tokenizer,
            [self.prompt],
            max(1, min(self.new_tokens, room)),
            filters=self.filters,
        )
        heading = _HEADING.format(epoch=int(row["epoch"]))
        print(f"{heading}\n{text}\n")
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(f"{heading}\n{text}\n\n")
