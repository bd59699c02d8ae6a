"""Pre-train BERT: hide some tokens of a text and learn to tell which they were.

    python -m train.masked                                    the Python language reference
    python -m train.masked --data text --data-dir FILE        a text of your own
    python -m train.masked --help                             all options

The reference is the text behind Python's `help()` (PSF licence), so the first command needs no
download. Tokens are byte pairs, 15 % of them are masked as in Devlin et al. 2019, section 3.1,
again at each step. The last twentieth of the text is held out for the figures at the end, and the
twentieth before it for early stopping; what is hidden there is drawn once.

Beside what bundle and summary hold, the run folder has

filled.txt      pieces of held-out text as the network fills them in
attention.png   what each head attends to in one of them

The bundle takes texts. The trained encoder is the start of a classifier (section 3.2 of the paper):
`params["encoder"]` of the bundle's variables fits into `BERTClassifier` and `BERTTagger`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from jaxnet import app
from jaxnet.app.language_reports import report_filled
from jaxnet.app.text_networks import Encoder, bert
from jaxnet.options import Count, Probability

PROGRAM = "python -m train.masked"
# Where the parts for validation and for testing begin.
HELD_OUT = (0.9, 0.95)


@dataclass(frozen=True)
class Tokens:
    """What the network reads of the text."""

    vocab_size: Count = 2000
    """the maximum size of the vocabulary"""
    length: Count = 64
    """the tokens of a piece, its beginning and its end among them"""
    share: Probability = 0.15
    """the probability that a token is hidden"""


@dataclass(frozen=True)
class Config(app.ProseRun):
    """Pre-train BERT, and leave a run folder with filled-in texts, pictures and the network."""

    MODELS = ("bert",)

    model: str | None = None
    """bert"""
    epochs: Count = 40
    """the maximum number of epochs"""
    learning_rate: app.LearningRate = 2e-3
    """the peak learning rate"""
    optimizer: app.Optimizer = app.Optimizer(
        name="adamw", schedule="one_cycle", weight_decay=0.01, decay=("**/*kernel",)
    )
    techniques: app.Techniques = app.Techniques(clip=1.0)
    tokens: Tokens = Tokens()
    network: Encoder = Encoder(num_layers=4, dropout=0.0)


def problem(config: Config) -> app.Problem:
    """What stood where tokens of a text are hidden."""
    from jaxnet import losses, metrics
    from jaxnet.data import Arrays, TextEncoder, fit_tokenizer, token_pieces
    from jaxnet.data.augmentation import mask_tokens, masked_once
    from jaxnet.data.text.tokenizer import END, MASK, PAD, START, UNKNOWN
    from jaxnet.training import Supervised, augment

    tokens, parts = config.tokens, config.read(*HELD_OUT)
    tokenizer = fit_tokenizer(parts[0], "bpe", tokens.vocab_size, mask=True)
    start, end, mask = map(tokenizer.id_of, (START, END, MASK))
    special = tuple(map(tokenizer.id_of, (PAD, UNKNOWN, START, END)))
    hide = mask_tokens(mask, tokenizer.vocab_size, special, tokens.share)
    pieces, valid, test = (
        token_pieces(tokenizer.encode(part), tokens.length, start, end) for part in parts
    )
    train = Arrays(pieces, pieces, name="training")
    # The masks are sampled once here, and at each step in training.
    valid = masked_once(valid, hide, 2 * config.seed, "validation")
    test = masked_once(test, hide, 2 * config.seed + 1, "test")
    task = Supervised(
        bert("BERTMaskedLM", config, tokenizer.vocab_size),
        losses.masked(losses.cross_entropy),
        config.optimizer_for(len(train)),
        metrics={"accuracy": metrics.masked(metrics.accuracy)},
    )
    return app.Problem(
        augment(task, hide),
        train,
        valid,
        report=report_filled(tokenizer, train, test),
        encoder=TextEncoder(tokenizer, tokens.length, start=True),
    )


train = partial(app.run, problem)
main = app.command(Config, train, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
