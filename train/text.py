"""Train a classifier of texts.

    python -m train.text                                      from which library is a sentence?
    python -m train.text --data sms_spam --data-dir FILE --folds 5 --epochs 6      99.1 %
    python -m train.text --data rt_polarity --data-dir DIR --folds 5 --epochs 6    75.8 %
    python -m train.text --data lines --data-dir FILE         CLASS, a tab and TEXT on each line
    python -m train.text --data folder --data-dir DIR         DIR/CLASS.txt, one text on each line
    python -m train.text --model encoder                      a small transformer
    python -m train.text --help                               all options

The sentences of the first command are from the documentation of numpy, scipy, scikit-learn and
matplotlib (BSD, and matplotlib's own licence), read from the installed packages, so it needs no
download. sms_spam is the SMS Spam Collection (Almeida and Hidalgo), rt_polarity the sentences of
film reviews of Pang and Lee (2005); the figures are the accuracy of an LSTM over five folds.

The folder of a run holds mistakes.csv, the texts that were taken for another class, and bundle/,
which takes texts: `Bundle.load(folder).predict_class(["..."])`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.recipe import CrossValidated, LearningRate, lookup_data, started
from jaxnet.errors import InputError, UsageError
from jaxnet.files import write_atomically
from jaxnet.names import lookup
from jaxnet.options import Count, OnlyWith, Share, settled

if TYPE_CHECKING:
    import flax.linen as nn
    import numpy as np

    from jaxnet.data import Arrays, TextEncoder, Texts
    from jaxnet.training import Supervised

PROGRAM = "python -m train.text"
RECURRENT = ("lstm", "gru", "rnn")
SHOWN_MISTAKES = 5


@dataclass(frozen=True)
class Tokens:
    """What the network reads of a text."""

    level: Literal["word", "character", "bpe"] = "word"
    """a token is a word, a character, or a frequent piece of a word"""
    vocab_size: Count = 8192
    """the most tokens that are told apart"""
    length: Count = 64
    """tokens of a text; longer ones are cut off"""
    lowercase: bool = True
    """capitals count as small letters"""
    min_count: Count = 1
    """how often a word has to occur to be told from an unknown one"""


@dataclass(frozen=True)
class Network:
    """The network's size."""

    embedding: Annotated[Count, OnlyWith(model=RECURRENT)] = 64
    """the width of a token's embedding"""
    features: Count = 64
    """the units of a recurrent layer in each direction; encoder: the width of a token"""
    num_layers: Count = 1
    """recurrent layers, or blocks of the encoder"""
    bidirectional: Annotated[bool, OnlyWith(model=RECURRENT)] = True
    """read the text from its end too"""
    pool: Annotated[Literal["last", "max", "mean"], OnlyWith(model=RECURRENT)] = "max"
    """what of the outputs goes to the dense layer"""
    num_heads: Annotated[Count, OnlyWith(model="encoder")] = 4
    """the heads of attention"""
    dropout: Share | None = None
    """the share of units left out in training; by default 0.5, and 0.1 in the encoder"""


@dataclass(frozen=True)
class Config(CrossValidated):
    """Train a classifier of texts, and leave a run folder with pictures and the network."""

    data: str = "docstrings"
    """docstrings, sms_spam, rt_polarity, lines for a file with CLASS, a tab and TEXT on each line,
    or folder for a file for each class"""
    data_dir: Annotated[
        Path | None, OnlyWith(data=("sms_spam", "rt_polarity", "lines", "folder"))
    ] = None
    """the file, or the folder with the files"""
    model: str | None = None
    """lstm (by default), gru, rnn, or encoder, a small transformer"""
    epochs: Count = 15
    """how often to go through the training data, at most"""
    learning_rate: LearningRate = 2e-3
    """the largest learning rate"""
    tokens: Tokens = Tokens()
    network: Network = Network()


def _docstrings(config: Config) -> Texts:
    from jaxnet.data import load_docstrings

    return load_docstrings()


def _sms_spam(config: Config) -> Texts:
    from jaxnet.data import read_labelled_lines

    path = _path(config, "sms_spam.tsv or the folder with it", "sms_spam.tsv")
    file = path / "sms_spam.tsv" if path.is_dir() else path
    return replace(read_labelled_lines(file), name="sms_spam")


def _rt_polarity(config: Config) -> Texts:
    from jaxnet.data import read_class_files

    what = "the folder with rt-polarity.pos and rt-polarity.neg"
    folder = _path(config, what, "rt_polarity", "rt-polaritydata")
    files = {"negative": folder / "rt-polarity.neg", "positive": folder / "rt-polarity.pos"}
    return read_class_files(files, "rt_polarity")


def _lines(config: Config) -> Texts:
    from jaxnet.data import read_labelled_lines

    return read_labelled_lines(_path(config, "a file with CLASS, a tab and TEXT on each line"))


def _folder(config: Config) -> Texts:
    from jaxnet.data import read_class_files

    folder = _path(config, "the folder with a text file for each class")
    files = {file.stem: file for file in sorted(folder.glob("[!.]*.txt"))}
    if len(files) < 2:
        raise InputError(f"{folder}: expected CLASS.txt for at least two classes, got {len(files)}")
    return read_class_files(files, folder.name)


def _path(config: Config, what: str, *names: str) -> Path:
    """What was said to hold the data, or what is called so where JAXNET_DATA_DIR says."""
    from jaxnet.data.at_hand import at_hand

    found = config.data_dir or at_hand(*names)
    if found is None:
        raise UsageError(f"--data {config.data} needs --data-dir, {what}")
    return found


def _recurrent(config: Config, num_classes: int) -> nn.Module:
    from jaxnet.models import RecurrentClassifier

    network = config.network
    return RecurrentClassifier(
        vocab_size=config.tokens.vocab_size,
        num_classes=num_classes,
        cell=config.model or "lstm",
        embedding=network.embedding,
        features=network.features,
        num_layers=network.num_layers,
        bidirectional=network.bidirectional,
        pool=network.pool,
        dropout=0.5 if network.dropout is None else network.dropout,
    )


def _encoder(config: Config, num_classes: int) -> nn.Module:
    from jaxnet.models import BERT, BERTClassifier

    network = config.network
    encoder = BERT(
        vocab_size=config.tokens.vocab_size,
        length=config.tokens.length,
        features=network.features,
        num_layers=network.num_layers,
        num_heads=network.num_heads,
        hidden=4 * network.features,
        segments=1,
        dropout=0.1 if network.dropout is None else network.dropout,
    )
    return BERTClassifier(encoder, num_classes)


DATA: Mapping[str, Callable[[Config], Texts]] = {
    "docstrings": _docstrings,
    "sms_spam": _sms_spam,
    "rt_polarity": _rt_polarity,
    "lines": _lines,
    "folder": _folder,
}
MODELS: Mapping[str, Callable[[Config, int], nn.Module]] = {
    **dict.fromkeys(RECURRENT, _recurrent),
    "encoder": _encoder,
}


def train(config: Config, fit: run_folder.Fit = run_folder.fit) -> int:
    """Train as configured, and write the run folder."""
    read = lookup_data(config.data, DATA)
    name = config.model or "lstm"
    lookup(name, MODELS, "model")
    config = settled(replace(config, model=name))
    folder = run_folder.located(config, name)
    config = replace(config, run_dir=folder)

    from jaxnet.app import cross_validation
    from jaxnet.data import split

    texts = read(config)
    if config.folds:
        task_for = cross_validation.shared(
            lambda train: _task(config, train), lambda train: config.steps_for(len(train))
        )
        return cross_validation.run(
            folder,
            config,
            texts,
            task_for,
            prepare_with=lambda train: _encoder_of(config, train).arrays,
        )
    parts = split(texts, (0.7, 0.1, 0.2), seed=config.seed)
    encoder = _encoder_of(config, parts[0])
    train, valid, test = map(encoder.arrays, parts)
    task = _task(config, train)
    result = fit(folder, config, task, train, valid, encoder=encoder)
    if result is None:
        return cli.PREEMPTED
    logits = result.model.predict(test)
    run_folder.finish(
        folder,
        result,
        result.model.evaluate(test),
        class_names=texts.class_names,
        encoder=encoder,
        predictions=(logits, test.labels),
    )
    write_mistakes(folder / "mistakes.csv", parts[2], logits)
    return cli.DONE


def _encoder_of(config: Config, train: Texts) -> TextEncoder:
    from dataclasses import asdict

    from jaxnet.data import fit_texts

    # A transformer's first token stands for the whole text.
    return fit_texts(train, **asdict(config.tokens), start=config.model == "encoder")


def _task(config: Config, train: Arrays) -> Supervised:
    from jaxnet import losses, metrics
    from jaxnet.training import Supervised

    return Supervised(
        MODELS[str(config.model)](config, train.num_classes),
        losses.cross_entropy,
        config.optimizer_for(len(train)),
        metrics={"accuracy": metrics.accuracy},
        eval_metrics={"confusion": metrics.confusion_matrix(train.num_classes)},
    )


def write_mistakes(file: Path, texts: Texts, logits: np.ndarray) -> None:
    """Write the texts that were taken for another class, the surest mistakes first; print some.

    Args:
        file: the CSV file to write.
        texts: n texts.
        logits: (n, classes), what the network says of them.
    """
    import numpy as np

    shares = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    predicted = shares.argmax(axis=-1)
    wrong = np.flatnonzero(predicted != texts.labels)
    wrong = wrong[np.argsort(-shares[wrong, predicted[wrong]], kind="stable")]
    rows = [
        (
            texts.class_names[texts.labels[row]],
            texts.class_names[predicted[row]],
            f"{shares[row, predicted[row]]:.3f}",
            texts.texts[row],
        )
        for row in wrong
    ]
    with write_atomically(file) as opened:
        csv.writer(opened).writerows([("true", "predicted", "probability", "text"), *rows])
    if rows:
        print(f"\nthe surest of {len(rows)} mistakes:")
    for true, taken, probability, text in rows[:SHOWN_MISTAKES]:
        print(f"  {true}, taken for {taken} ({probability}): {text[:90]}")


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
