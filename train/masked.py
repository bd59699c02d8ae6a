"""Pre-train BERT: hide some tokens of a text and learn to tell which they were.

    python -m train.masked                                    the Python language reference
    python -m train.masked --data text --data-dir FILE        a text of your own
    python -m train.masked --help                             all options

The reference is the text behind Python's `help()` (PSF licence), so the first command needs no
download. Tokens are byte pairs, 15 % of them are hidden as in Devlin et al. 2019, section 3.1,
anew at each step. The last twentieth of the text is held out for the figures at the end, and the
twentieth before it for early stopping; what is hidden there is drawn once.

Beside what bundle and summary hold, the run folder has

filled.txt      pieces of held-out text as the network fills them in
attention.png   what each head attends to in one of them

The bundle takes texts. The trained encoder is the start of a classifier (section 3.2 of the paper):
`params["encoder"]` of the bundle's variables fits into `BERTClassifier` and `BERTTagger`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.recipe import LearningRate, Optimizer, ProseRun, Techniques, started
from jaxnet.names import lookup
from jaxnet.options import Count, Probability, Share, settled
from jaxnet.training.early_stopping import EarlyStopping

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.data import Arrays, Tokenizer
    from jaxnet.data.augmentation import Augmentation
    from jaxnet.training import Trained

PROGRAM = "python -m train.masked"
# Where the parts for validation and for testing begin.
HELD_OUT = (0.9, 0.95)
# Pieces that are written out, and the tokens of the picture.
SHOWN, DRAWN = 8, 24


@dataclass(frozen=True)
class Tokens:
    """What the network reads of the text."""

    vocab_size: Count = 2000
    """the most tokens that are told apart"""
    length: Count = 64
    """the tokens of a piece, its beginning and its end among them"""
    share: Probability = 0.15
    """the chance of a token to be hidden"""


@dataclass(frozen=True)
class Network:
    """The network's size."""

    num_layers: Count = 4
    """the blocks"""
    features: Count = 128
    """the width of a token"""
    num_heads: Count = 4
    """the heads of attention"""
    dropout: Share = 0.0
    """the share of units left out in training; what is hidden anew each time varies enough"""


@dataclass(frozen=True)
class Config(ProseRun):
    """Pre-train BERT, and leave a run folder with filled-in texts, pictures and the network."""

    model: str | None = None
    """bert"""
    epochs: Count = 40
    """how often to go through the training part, at most"""
    learning_rate: LearningRate = 2e-3
    """the largest learning rate"""
    optimizer: Optimizer = Optimizer(
        name="adamw", schedule="one_cycle", weight_decay=0.01, decay=("**/*kernel",)
    )
    techniques: Techniques = Techniques(clip=1.0)
    early_stopping: EarlyStopping = EarlyStopping(monitor="val_loss", patience=10)
    tokens: Tokens = Tokens()
    network: Network = Network()


@dataclass(frozen=True, eq=False)
class Data:
    """The text as the network gets it.

    Attributes:
        tokenizer: what makes tokens of it.
        hide: what hides some of them.
        train: pieces with nothing hidden.
        valid: pieces with some tokens hidden, always the same.
        test: likewise.
    """

    tokenizer: Tokenizer
    hide: Augmentation
    train: Arrays
    valid: Arrays
    test: Arrays


def train(config: Config, fit: run_folder.Fit = run_folder.fit) -> int:
    """Train as configured, and write the run folder."""
    lookup(config.model or "bert", {"bert": None}, "model")
    config = settled(replace(config, model="bert"))
    folder = run_folder.located(config, "bert")
    config = replace(config, run_dir=folder)

    from jaxnet import losses, metrics
    from jaxnet.data import TextEncoder
    from jaxnet.models import BERT, BERTMaskedLM
    from jaxnet.training import Supervised, augment

    data, size = _read(config), config.network
    network = BERT(
        data.tokenizer.vocab_size,
        config.tokens.length,
        size.features,
        size.num_layers,
        size.num_heads,
        hidden=4 * size.features,
        dropout=size.dropout,
        init_std=size.features**-0.5,
    )
    task = Supervised(
        BERTMaskedLM(network),
        losses.masked(losses.cross_entropy),
        config.optimizer_for(len(data.train)),
        metrics={"accuracy": metrics.masked(metrics.accuracy)},
    )
    encoder = TextEncoder(data.tokenizer, config.tokens.length, start=True)
    result = fit(folder, config, augment(task, data.hide), data.train, data.valid, encoder=encoder)
    if result is None:
        return cli.PREEMPTED
    figures = {**result.model.evaluate(data.test), **_unigram(data)}
    _show(folder, data, result.model)
    run_folder.finish(folder, result, figures, encoder=encoder)
    return cli.DONE


def _read(config: Config) -> Data:
    from jaxnet.data import Arrays, fit_tokenizer, token_pieces
    from jaxnet.data.augmentation import mask_tokens, masked_once
    from jaxnet.data.text.tokenizer import END, MASK, PAD, START, UNKNOWN

    parts = config.read(*HELD_OUT)
    tokenizer = fit_tokenizer(parts[0], "bpe", config.tokens.vocab_size, mask=True)
    start, end, mask = map(tokenizer.id_of, (START, END, MASK))
    special = tuple(map(tokenizer.id_of, (PAD, UNKNOWN, START, END)))
    hide = mask_tokens(mask, tokenizer.vocab_size, special, config.tokens.share)
    train, valid, test = (
        token_pieces(tokenizer.encode(part), config.tokens.length, start, end) for part in parts
    )
    return Data(
        tokenizer,
        hide,
        Arrays(train, train, name="training"),
        masked_once(valid, hide, 2 * config.seed, "validation"),
        masked_once(test, hide, 2 * config.seed + 1, "test"),
    )


def _unigram(data: Data) -> dict[str, float]:
    """How good it is to guess always the token that is the most frequent in training."""
    import numpy as np

    from jaxnet.data.augmentation import IGNORED

    body = data.train.inputs[:, 1:-1]
    counts = np.bincount(body.ravel(), minlength=data.tokenizer.vocab_size)
    hidden = data.test.labels[data.test.labels != IGNORED]
    share = (counts + 1) / (counts + 1).sum()
    return {
        "unigram_accuracy": float((hidden == counts.argmax()).mean()),
        "unigram_loss": float(-np.log(share[hidden]).mean()),
    }


def _show(folder: Path, data: Data, model: Trained) -> None:
    """Write and print some held-out pieces, filled in, and draw what the heads attend to."""
    import numpy as np

    from jaxnet.cluster import processes
    from jaxnet.files import write_atomically
    from jaxnet.report.plots import plot_attention
    from jaxnet.training.attention_maps import self_attention_maps

    rows = np.linspace(0, len(data.test) - 1, min(SHOWN, len(data.test))).astype(int)
    guesses = model.predict(data.test.inputs[rows]).argmax(axis=-1)
    lines = [
        _filled(data.tokenizer, data.test.inputs[row], data.test.labels[row], guess)
        for row, guess in zip(rows, guesses, strict=True)
    ]
    with write_atomically(folder / "filled.txt") as file:
        file.write("\n\n".join(lines) + "\n")
    print("Filled in; where it was wrong, what stood there follows the bar:\n")
    print("\n\n".join(lines[:3]) + "\n")
    # Of several processes each may have a part of the state, and the first one draws.
    state = processes.on_host(model.state) if processes.several() else model.state
    if not processes.is_first():
        return
    network, _, variables = model.trainer.task.inference(state)  # pyright: ignore[reportAttributeAccessIssue]
    piece = data.test.inputs[rows[:1]]
    weights = self_attention_maps(network.module, variables, piece)[:, 0, :, :DRAWN, :DRAWN]
    names = [str(data.tokenizer.backend.id_to_token(int(token))) for token in piece[0, :DRAWN]]
    plot_attention(
        weights,
        [name.replace("Ġ", " ").replace("Ċ", "\\n") for name in names],
        folder / "attention.png",
        title=run_folder.title(folder),
    )


def _filled(tokenizer: Tokenizer, tokens: np.ndarray, labels: np.ndarray, guess: np.ndarray) -> str:
    """The text, with [guess] or [guess|truth] where a token was hidden."""
    from jaxnet.data.augmentation import IGNORED

    parts = []
    for token, label, answer in zip(tokens, labels, guess, strict=True):
        if label == IGNORED:
            parts.append(tokenizer.decode([token]))
            continue
        said, true = tokenizer.decode([answer]), tokenizer.decode([label])
        parts.append(f"[{said}]" if answer == label else f"[{said}|{true}]")
    return " ".join("".join(parts).split())


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
