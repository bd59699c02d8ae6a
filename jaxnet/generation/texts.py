"""From text to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxnet.data.tokens import Tokenizer
from jaxnet.generation.decoding import generate


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
