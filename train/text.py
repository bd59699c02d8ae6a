"""Train a classifier of texts.

    python -m train.text                                      from which library is a sentence?
    python -m train.text --data sms_spam --data-dir FILE --folds 5 --epochs 6      99.1 %
    python -m train.text --data rt_polarity --data-dir DIR --folds 5 --epochs 6    75.8 %
    python -m train.text --data lines --data-dir FILE         CLASS, a tab and TEXT on each line
    python -m train.text --data csv --data-dir FILE --text COLUMN --target COLUMN    CSV or TSV
    python -m train.text --data folder --data-dir DIR         DIR/CLASS/*.txt, or lines of CLASS.txt
    python -m train.text --model encoder                      a small transformer
    python -m train.text --help                               all options

The sentences of the first command are from the documentation of numpy, scipy, scikit-learn and
matplotlib (BSD, and matplotlib's own licence), read from the installed packages, so it needs no
download. sms_spam is the SMS Spam Collection (Almeida and Hidalgo), rt_polarity the sentences of
film reviews of Pang and Lee (2005); the figures are the accuracy of an LSTM over five folds.

The run folder holds mistakes.csv, the misclassified texts, and bundle/, which takes texts:
`Bundle.load(folder).predict_class(["..."])`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jaxnet import app
from jaxnet.app.text_data import LABELLED
from jaxnet.options import Count, OnlyWith, Share

if TYPE_CHECKING:
    import flax.linen as nn

    from jaxnet.data import Arrays
    from jaxnet.training.task import GradientTask

PROGRAM = "python -m train.text"
RECURRENT, OWN_TEXTS = ("lstm", "gru", "rnn"), ("lines", "csv", "folder")


@dataclass(frozen=True)
class Tokens:
    """What the network reads of a text."""

    level: Literal["word", "character", "bpe"] = "word"
    """tokenization: words, characters, or byte pairs"""
    vocab_size: Count = 8192
    """the maximum size of the vocabulary"""
    length: Count = 64
    """tokens per text; longer ones are truncated"""
    lowercase: bool = True
    """convert to lower case"""
    min_count: Count = 1
    """the minimum count of a word in the vocabulary"""


@dataclass(frozen=True)
class Network:
    """The network's size."""

    embedding: Annotated[Count, OnlyWith(model=RECURRENT)] = 64
    """the embedding width"""
    features: Count = 64
    """the units of a recurrent layer in each direction; encoder: the width of a token"""
    num_layers: Count = 1
    """recurrent layers, or blocks of the encoder"""
    bidirectional: Annotated[bool, OnlyWith(model=RECURRENT)] = True
    """bidirectional"""
    pool: Annotated[Literal["last", "max", "mean"], OnlyWith(model=RECURRENT)] = "max"
    """pooling of the outputs over time"""
    num_heads: Annotated[Count, OnlyWith(model="encoder")] = 4
    """the number of attention heads"""
    dropout: Share | None = None
    """the dropout rate; by default 0.5, and 0.1 in the encoder"""


@dataclass(frozen=True)
class Config(app.CrossValidated):
    """Train a classifier of texts, and leave a run folder with pictures and the network."""

    DATA, MODELS = LABELLED, (*RECURRENT, "encoder")

    data: str = "docstrings"
    """docstrings, sms_spam, rt_polarity, lines (CLASS, a tab and TEXT on each line), csv (CSV or
    TSV with a header), or folder (a text in each CLASS/*.txt, or on each line of CLASS.txt)"""
    data_dir: Annotated[Path | None, OnlyWith(data=("sms_spam", "rt_polarity", *OWN_TEXTS))] = None
    """the file, or the folder with the files"""
    text: Annotated[str | None, OnlyWith(data="csv")] = None
    """the column of the texts"""
    target: Annotated[str | None, OnlyWith(data="csv")] = None
    """the column of their classes"""
    encoding: Annotated[str | None, OnlyWith(data=OWN_TEXTS)] = None
    """the encoding of files that aren't in UTF-8, such as cp1252 or latin-1"""
    model: str | None = None
    """lstm (by default), gru, rnn, or encoder, a small transformer"""
    epochs: Count = 15
    """the maximum number of epochs"""
    learning_rate: app.LearningRate = 2e-3
    """the peak learning rate"""
    tokens: Tokens = Tokens()
    network: Network = Network()


def problem(config: Config) -> app.Problem | app.Folds:
    """The class of a text."""
    from jaxnet.data import fit_texts, split

    # A transformer's first token stands for the whole text.
    encode = partial(fit_texts, **asdict(config.tokens), start=config.model == "encoder")
    texts = LABELLED[config.data](config)
    if config.folds:
        return app.Folds(texts, partial(task, config), prepare=lambda part: encode(part).arrays)
    parts = split(texts, app.SHARES, seed=config.seed)
    encoder = encode(parts[0])
    train, valid, test = map(encoder.arrays, parts)
    return app.Problem(
        task(config, train),
        train,
        valid,
        report=app.tested_on(test, parts[2].texts),
        encoder=encoder,
        class_names=texts.class_names,
    )


def task(config: Config, train: Arrays) -> GradientTask:
    """The network and its loss."""
    classes, optimizer = train.num_classes, config.optimizer_for(len(train))
    return app.classifier(network(config, classes), optimizer, classes)


def network(config: Config, num_classes: int) -> nn.Module:
    """A recurrent network, or a small transformer."""
    from jaxnet.models import BERT, BERTClassifier, RecurrentClassifier

    size, vocab_size = app.given(config), config.tokens.vocab_size
    if config.model in RECURRENT:
        size = {"dropout": 0.5, **size}
        return RecurrentClassifier(vocab_size, num_classes, config.model, **size)
    size = {"dropout": 0.1, "hidden": 4 * config.network.features, "segments": 1, **size}
    return BERTClassifier(BERT(vocab_size, config.tokens.length, **size), num_classes)


train = partial(app.run, problem)
main = app.command(Config, train, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
