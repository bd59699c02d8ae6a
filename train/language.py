"""Train a language model on a text, and let it write.

    python -m train.language                                   the Python language reference
    python -m train.language --data text --data-dir FILE       a text of your own
    python -m train.language --data text --data-dir FILE --tokens.level bpe
    python -m train.language --model gpt --data text --data-dir FILE
    python -m train.language --help                            all options
    python -m jaxnet.generate --run-dir RUN --prompt "..."   what a trained one writes

The reference is the text behind Python's `help()` (PSF licence), so the first command needs no
download. The last tenth of the text is held out for the figures at the end, and the twentieth
before it for early stopping. After each epoch a sample is printed and added to samples.txt.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.recipe import ProseRun, Techniques, started
from jaxnet.names import lookup
from jaxnet.options import Count, OnlyWith, Range, Share, settled

if TYPE_CHECKING:
    import flax.linen as nn

    from jaxnet.data import Arrays, Tokenizer

PROGRAM = "python -m train.language"
HELD_OUT = (0.85, 0.9)
RECURRENT, TRANSFORMERS = ("lstm", "gru", "rnn"), ("gpt", "llama")


@dataclass(frozen=True)
class Tokens:
    """What the network reads of the text."""

    level: Literal["character", "bpe", "word"] = "character"
    """a token is a character, a frequent piece of a word, or a word"""
    vocab_size: Count = 1024
    """the most tokens that are told apart"""
    length: Count = 128
    """the tokens of a piece, over which the network learns"""
    stride: Count | None = None
    """how far one piece begins after the other in training; by default the length"""


@dataclass(frozen=True)
class Network:
    """The network's size."""

    embedding: Annotated[Count, OnlyWith(model=RECURRENT)] = 64
    """the width of a token's embedding"""
    features: Count = 256
    """the units of a layer, or the width of a token in gpt and llama"""
    num_layers: Count | None = None
    """recurrent layers or blocks; by default 1 for lstm, gru and rnn, and 4 for gpt and llama"""
    num_heads: Annotated[Count, OnlyWith(model=TRANSFORMERS)] = 4
    """the heads of attention"""
    dropout: Share = 0.2
    """the share of units left out in training"""
    tie: Annotated[bool, OnlyWith(model=RECURRENT)] = False
    """the last layer is the embedding table"""
    num_kv_heads: Annotated[Count | None, OnlyWith(model="llama")] = None
    """the heads of keys and values, which those of queries share; by default as many"""
    experts: Annotated[int, Range(), OnlyWith(model="gpt")] = 0
    """mixtures of so many experts in the place of feed-forward networks"""


@dataclass(frozen=True)
class Writing:
    """What is written after each epoch."""

    prompt: str = "The "
    """what to go on with"""
    new_tokens: Count = 300
    """how many tokens to add, at most"""
    temperature: float = 0.8
    """below 1 the text is more probable, above 1 more surprising"""
    top_k: int | None = None
    """draw from the so many likeliest tokens"""
    top_p: float | None = None
    """draw from the fewest tokens that have this probability together, such as 0.9"""


@dataclass(frozen=True)
class Config(ProseRun):
    """Train a language model, and leave a run folder with samples and the network."""

    model: str | None = None
    """lstm (by default), gru, rnn, gpt or llama"""
    epochs: Count = 10
    """how often to go through the training part, at most"""
    techniques: Techniques = Techniques(clip=1.0)
    tokens: Tokens = Tokens()
    network: Network = Network()
    writing: Writing = Writing()


def _recurrent(config: Config, vocab_size: int) -> nn.Module:
    from jaxnet.models import RecurrentLM

    network = config.network
    return RecurrentLM(
        vocab_size,
        str(config.model),
        network.embedding,
        network.features,
        1 if network.num_layers is None else network.num_layers,
        network.dropout,
        network.tie,
    )


def _gpt(config: Config, vocab_size: int) -> nn.Module:
    from jaxnet.models import GPT2

    network = config.network
    return GPT2(
        vocab_size,
        config.tokens.length,
        network.features,
        4 if network.num_layers is None else network.num_layers,
        network.num_heads,
        network.dropout,
        network.experts,
    )


def _llama(config: Config, vocab_size: int) -> nn.Module:
    from jaxnet.models import Llama

    network = config.network
    return Llama(
        vocab_size,
        network.features,
        4 if network.num_layers is None else network.num_layers,
        network.num_heads,
        hidden=8 * network.features // 3,
        num_kv_heads=network.num_kv_heads,
        dropout=network.dropout,
        tie=True,
    )


MODELS: Mapping[str, Callable[[Config, int], nn.Module]] = {
    **dict.fromkeys(RECURRENT, _recurrent),
    "gpt": _gpt,
    "llama": _llama,
}


def train(config: Config, fit: run_folder.Fit = run_folder.fit) -> int:
    """Train as configured, and write the run folder."""
    config = replace(config, model=config.model or "lstm")
    build = lookup(str(config.model), MODELS, "model")
    config = settled(config)
    folder = run_folder.located(config, str(config.model))
    config = replace(config, run_dir=folder)

    from jaxnet import losses
    from jaxnet.data import TextEncoder
    from jaxnet.generation import Samples, checked_prompts, chosen
    from jaxnet.training import Supervised

    tokenizer, (train, valid, test), per_character = _parts(config)
    model = build(config, tokenizer.vocab_size)
    task = Supervised(model, losses.cross_entropy, config.optimizer_for(len(train)))
    writing = config.writing
    filters = chosen(writing.temperature, writing.top_k, writing.top_p)
    checked_prompts(model, tokenizer, [writing.prompt], "--writing.prompt")
    # The weights that are evaluated write, a moving average say: the task with all techniques
    # knows which these are.
    applied = config.techniques.apply(config.optimizer.apply(task))
    samples = Samples(folder, applied, tokenizer, writing.prompt, writing.new_tokens, filters)
    encoder = TextEncoder(tokenizer, config.tokens.length)
    result = fit(folder, config, task, train, valid, callbacks=[samples], encoder=encoder)
    if result is None:
        return cli.PREEMPTED
    measured = result.model.evaluate(test)
    nats = per_character * float(measured["loss"])
    figures = {
        **measured,
        "perplexity": math.exp(float(measured["loss"])),
        "nats_per_character": nats,
        "bits_per_character": nats / math.log(2),
    }
    run_folder.finish(folder, result, figures, encoder=encoder)
    return cli.DONE


def _parts(config: Config) -> tuple[Tokenizer, tuple[Arrays, ...], float]:
    """The tokenizer, training, validation and test part, and the tokens of a character in tests."""
    from jaxnet.data import fit_tokenizer, token_windows

    parts = config.read(*HELD_OUT)
    tokens = config.tokens
    tokenizer = fit_tokenizer(parts[0], tokens.level, tokens.vocab_size)
    encoded = [tokenizer.encode(part) for part in parts]
    strides = (tokens.stride, None, None)
    pieces = tuple(
        token_windows(part, tokens.length, stride)
        for part, stride in zip(encoded, strides, strict=True)
    )
    return tokenizer, pieces, len(encoded[2]) / len(parts[2])


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
