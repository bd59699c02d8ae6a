"""Train a tagger: a class for each word of a text, such as what it is the name of.

    python -m train.tag                                    which words of a text are code?
    python -m train.tag --data conll --data-dir FILE       a word and its tag on each line
    python -m train.tag --help                             all options

The text of the first command is the Python language reference, as `help()` shows it (PSF licence),
so it needs no download. Pieces of code stand in quotes there; the quotes are taken away, and the
tags `B-code` and `I-code` say where they were. In a file of your own, blanks part the columns, the
first is the word and the last its tag, and an empty line ends a sentence.

The network is a BERT from scratch. The bundle takes texts, with blanks between words and signs, and
`bundle.predict_class(texts)` gives a tag for each token.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from jaxnet import app
from jaxnet.app.tagging import TAGGED, report_tags
from jaxnet.app.text_networks import Encoder, Tokens, bert
from jaxnet.options import Count, OnlyWith

PROGRAM = "python -m train.tag"


@dataclass(frozen=True)
class Config(app.Run):
    """Train a tagger of words, and leave a run folder with pictures and the network."""

    DATA, MODELS = TAGGED, ("bert",)

    data: str = "python"
    """python, the language reference, or conll for a file of your own"""
    data_dir: Annotated[Path | None, OnlyWith(data="conll")] = None
    """the file"""
    model: str | None = None
    """bert"""
    epochs: Count = 20
    """the maximum number of epochs"""
    learning_rate: app.LearningRate = 1e-3
    """the peak learning rate"""
    optimizer: app.Optimizer = app.Optimizer(schedule="one_cycle")
    techniques: app.Techniques = app.Techniques(clip=1.0)
    tokens: Tokens = Tokens()
    network: Encoder = Encoder(dropout=0.3)


def problem(config: Config) -> app.Problem:
    """The tag of each word; the tokens of padding, and later ones of a word, don't count."""
    from jaxnet import losses, metrics
    from jaxnet.data import TextEncoder, fit_tokenizer, split
    from jaxnet.training import Supervised

    texts, tokens = TAGGED[config.data](config), config.tokens
    parts = split(texts, app.SHARES, seed=config.seed, stratify=False)
    tokenizer = fit_tokenizer(parts[0].texts, tokens.level, tokens.vocab_size)
    train, valid, test = (part.arrays(tokenizer, tokens.length) for part in parts)
    classes = len(texts.class_names)
    task = Supervised(
        bert("BERTTagger", config, tokenizer.vocab_size, segments=1, num_classes=classes),
        losses.masked(losses.cross_entropy),
        config.optimizer_for(len(train)),
        metrics={"accuracy": metrics.masked(metrics.accuracy)},
    )
    return app.Problem(
        task,
        train,
        valid,
        report=report_tags(parts[2], test),
        encoder=TextEncoder(tokenizer, tokens.length),
        class_names=texts.class_names,
    )


train = partial(app.run, problem)
main = app.command(Config, train, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
