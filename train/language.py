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

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from jaxnet import app
from jaxnet.app.language_reports import per_character
from jaxnet.options import FREE, Count, OnlyWith, Range, Share

if TYPE_CHECKING:
    import flax.linen as nn

PROGRAM = "python -m train.language"
HELD_OUT = (0.85, 0.9)
RECURRENT, TRANSFORMERS = ("lstm", "gru", "rnn"), ("gpt", "llama")


@dataclass(frozen=True)
class Tokens:
    """What the network reads of the text."""

    level: Literal["character", "bpe", "word"] = "character"
    """tokenization: characters, byte pairs, or words"""
    vocab_size: Count = 1024
    """the maximum size of the vocabulary"""
    length: Count = 128
    """tokens per training window"""
    stride: Count | None = None
    """tokens between the starts of two training windows; by default the length"""


@dataclass(frozen=True)
class Network:
    """The network's size."""

    embedding: Annotated[Count, OnlyWith(model=RECURRENT)] = 64
    """the embedding width"""
    features: Count = 256
    """hidden units per layer; in gpt and llama the width of the residual stream"""
    num_layers: Count | None = None
    """recurrent layers or transformer blocks; by default 1, and 4 for gpt and llama"""
    num_heads: Annotated[Count, OnlyWith(model=TRANSFORMERS)] = 4
    """the number of attention heads"""
    dropout: Share = 0.2
    """the dropout rate"""
    tie: Annotated[bool, OnlyWith(model=RECURRENT)] = False
    """tie the weights of the embedding and the output layer"""
    num_kv_heads: Annotated[Count | None, OnlyWith(model="llama")] = None
    """grouped-query attention: the number of key-value heads; by default that of query heads"""
    experts: Annotated[int, Range(), OnlyWith(model="gpt")] = 0
    """experts per mixture-of-experts layer, which replace feed-forward layers; 0 for none"""


@dataclass(frozen=True)
class Writing:
    """What is written after each epoch."""

    prompt: str = "The "
    """the prompt"""
    new_tokens: Count = 300
    """the maximum number of new tokens"""
    temperature: float = 0.8
    """the sampling temperature"""
    top_k: int | None = None
    """top-k sampling: sample from the k most probable tokens"""
    top_p: float | None = None
    """nucleus (top-p) sampling: the smallest set of tokens with this probability, such as 0.9"""


@dataclass(frozen=True)
class Config(app.ProseRun):
    """Train a language model, and leave a run folder with samples and the network."""

    MODELS = (*RECURRENT, *TRANSFORMERS)

    model: str | None = None
    """lstm (by default), gru, rnn, gpt or llama"""
    epochs: Count = 10
    """the maximum number of epochs"""
    techniques: app.Techniques = app.Techniques(clip=1.0)
    tokens: Tokens = Tokens()
    network: Network = Network()
    writing: Annotated[Writing, FREE] = Writing()


def problem(config: Config) -> app.Problem:
    """The next token of a text."""
    from jaxnet import generation, losses
    from jaxnet.data import TextEncoder, fit_tokenizer, token_windows
    from jaxnet.training import Supervised

    tokens, writing, texts = config.tokens, config.writing, config.read(*HELD_OUT)
    tokenizer = fit_tokenizer(texts[0], tokens.level, tokens.vocab_size)
    encoded = [tokenizer.encode(text) for text in texts]
    train = token_windows(encoded[0], tokens.length, tokens.stride)
    valid, test = (token_windows(part, tokens.length) for part in encoded[1:])
    model = network(config, tokenizer.vocab_size)
    filters = generation.chosen(writing.temperature, writing.top_k, writing.top_p)
    generation.checked_prompts(model, tokenizer, [writing.prompt], "--writing.prompt")
    written = (tokenizer, writing.prompt, writing.new_tokens, filters)
    rate = len(encoded[2]) / len(texts[2])
    return app.Problem(
        Supervised(model, losses.cross_entropy, config.optimizer_for(len(train))),
        train,
        valid,
        report=lambda folder, result: app.Tested(
            per_character(result.model.evaluate(test), tokens_per_character=rate)
        ),
        callbacks=lambda folder, task: [generation.Samples(folder, *written)],
        encoder=TextEncoder(tokenizer, tokens.length),
    )


def network(config: Config, vocab_size: int) -> nn.Module:
    """A recurrent network, or a transformer that attends to what came before."""
    from jaxnet import models

    size = app.given(config)
    if config.model in RECURRENT:
        return models.RecurrentLM(vocab_size, config.model, **{"num_layers": 1, **size})
    size = {"num_layers": 4, **size}
    if config.model == "gpt":
        return models.GPT2(
            vocab_size, config.tokens.length, num_experts=size.pop("experts"), **size
        )
    return models.Llama(vocab_size, hidden=8 * size["features"] // 3, tie=True, **size)


train = partial(app.run, problem)
main = app.command(Config, train, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
