"""Transformers over texts: the options of their size and of their tokens, and BERT by these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxnet.app.networks import given, network
from jaxnet.options import Count, Share

if TYPE_CHECKING:
    import flax.linen as nn


@dataclass(frozen=True)
class Tokens:
    """The tokenization of a text."""

    level: Literal["word", "bpe"] = "bpe"
    """byte pairs, which are frequent parts of words, or whole words"""
    vocab_size: Count = 2000
    """the maximum size of the vocabulary"""
    length: Count = 64
    """tokens per text; longer ones are truncated"""


@dataclass(frozen=True)
class Encoder:
    """The size of a transformer encoder."""

    features: Count = 128
    """the width of the residual stream"""
    num_layers: Count = 2
    """the number of blocks"""
    num_heads: Count = 4
    """the number of attention heads"""
    dropout: Share = 0.1
    """the dropout rate"""


def bert(head: str, config: Any, vocab_size: int, segments: int = 2, **options: Any) -> nn.Module:
    """A BERT of the size that a configuration says, with initial weights that suit its width.

    Args:
        head: `BERTMaskedLM`, `BERTTagger` or `BERTClassifier`.
        config: `network` is an `Encoder`, `tokens` has a `length`.
        vocab_size: the size of the vocabulary.
        segments: the number of segments that the network tells apart.
        options: those of the head.
    """
    width = config.network.features
    size = {"hidden": 4 * width, "init_std": width**-0.5, "segments": segments, **given(config)}
    sizes = {"vocab_size": vocab_size, "length": config.tokens.length, **size}
    return network(f"bert:{head}", {"encoder": network("bert:BERT", sizes), **options})
