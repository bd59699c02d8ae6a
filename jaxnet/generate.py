"""Let a trained language model write.

    python -m jaxnet.generate --run-dir runs/text-lstm-seed0 --prompt "ROMEO:"
    python -m jaxnet.generate --run-dir RUN --prompt "ROMEO:" --beams 4
    python -m jaxnet.generate --help

The folder is that of a run of `train.language`, or the bundle in it. Equal seeds write equal texts.
"""

from __future__ import annotations

from jaxnet import ending

if __name__ == "__main__":  # before the other imports
    ending.start()

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.errors import InputError, UsageError
from jaxnet.numerics import matmul_precision
from jaxnet.options import Count, NotNegative, OnlyWith, Range, check_choices, check_ranges

PROGRAM = "python -m jaxnet.generate"
NEW_TOKENS = 300


@dataclass(frozen=True)
class Config:
    """Let a trained language model write."""

    run_dir: Path | None = None
    """the folder of a run, or a bundle"""
    prompt: tuple[str, ...] = ("The ",)
    """the prompts; several are continued in one batch"""
    new_tokens: Count | None = None
    """how many tokens to add; by default 300, or as many as the model has positions for"""
    temperature: Annotated[NotNegative, OnlyWith(beams=None)] = 0.8
    """the sampling temperature; 0 is greedy decoding"""
    top_k: Annotated[Count | None, OnlyWith(beams=None)] = None
    """top-k sampling: sample from the k most probable tokens"""
    top_p: Annotated[float | None, OnlyWith(beams=None)] = None
    """nucleus (top-p) sampling: the smallest set of tokens with this probability, such as 0.9"""
    beams: Count | None = None
    """beam search with this beam width, instead of sampling"""
    seed: Annotated[int, Range(), OnlyWith(beams=None)] = 0
    """of what is drawn"""

    def __post_init__(self) -> None:
        check_ranges(self)


def write(config: Config) -> int:
    """Print the texts."""
    check_choices(config)
    if config.run_dir is None:
        raise UsageError("say which model is to write: --run-dir FOLDER")
    from jaxnet import Bundle, generation
    from jaxnet.data import TextEncoder

    folder = config.run_dir
    bundle = Bundle.load(folder / "bundle" if (folder / "bundle").is_dir() else folder)
    if not isinstance(bundle.encoder, TextEncoder) or not hasattr(bundle.model, "init_cache"):
        writes = "a translator: python -m jaxnet.translate lets it write"
        train = "no language model; train one with jaxnet train language"
        raise InputError(f"{folder} holds {writes if hasattr(bundle.model, 'start') else train}")
    tokenizer = bundle.encoder.tokenizer
    prompts, room = generation.checked_prompts(bundle.model, tokenizer, config.prompt, "--prompt")
    wanted = NEW_TOKENS if config.new_tokens is None else config.new_tokens
    new_tokens = generation.with_room(wanted, room)
    if config.new_tokens is not None and new_tokens < config.new_tokens:
        raise InputError(
            f"--new-tokens {config.new_tokens}: after the longest prompt the network has positions "
            f"for {room} more tokens: take at most that many"
        )
    arguments = (bundle.model, bundle.variables, prompts, new_tokens)
    with matmul_precision(bundle.matmul_precision):
        if config.beams is not None:
            made = generation.beam_search(*arguments, beams=config.beams)
        else:
            filters = generation.chosen(config.temperature, config.top_k, config.top_p)
            made = generation.generate(*arguments, filters=filters, seed=config.seed)
    for prompt, tokens in zip(config.prompt, made.texts(), strict=True):
        print(f"{tokenizer.join(prompt, tokens)}\n")
    return cli.DONE


def main() -> int:
    """The command."""
    return cli.run(lambda: write(from_command_line(Config, sys.argv[1:], PROGRAM)))


if __name__ == "__main__":
    sys.exit(main())
