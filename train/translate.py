"""Train an encoder-decoder to translate, or to write one text from another in any other way.

    python -m train.translate                                   dates and money, to German
    python -m train.translate --data folder --data-dir DIR      train.en, train.de, val.*, test*.*
    python -m train.translate --data files --texts.source A --texts.target B    line by line
    python -m train.translate --help                            all options
    python -m jaxnet.translate --run-dir RUN --text "..."       what a trained one writes

The lines of two files may be anything that is to be made of something else, such as texts and their
summaries: --texts.length says how long texts may be, in tokens, for both.

Without data of your own it learns to write dates, amounts of money and of time, and countries in
German: what the package babel makes of the Unicode Common Locale Data Repository (Unicode License
v3). After each epoch a few translations of validation texts are printed and added to samples.txt.
At the end translations.tsv has those of the test texts, which BLEU compares with the references in
the way of sacrebleu's default, and attention.png shows what the decoder looks at.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from jaxnet import app
from jaxnet.app.language_reports import report_translations
from jaxnet.app.text_data import PAIRS, encoded_pairs
from jaxnet.options import Count, OnlyWith, Share

PROGRAM = "python -m train.translate"
# Of the validation texts, how many are translated after each epoch.
SAMPLES = 4


@dataclass(frozen=True)
class Texts:
    """What the network reads and writes."""

    languages: Annotated[tuple[str, str], OnlyWith(data=("cldr", "folder"))] = ("en", "de")
    """from which language to which"""
    source: Annotated[Path | None, OnlyWith(data="files")] = None
    """the texts to read, one on each line"""
    target: Annotated[Path | None, OnlyWith(data="files")] = None
    """the texts to write"""
    vocab_size: Count = 1000
    """the maximum size of the vocabulary, shared by both languages"""
    length: Count = 40
    """the maximum length of a text in training, in tokens; longer ones are left out"""


@dataclass(frozen=True)
class Network:
    """The network's size, in the terms of the paper (table 3)."""

    features: Count = 128
    """the width of the residual stream, d_model"""
    num_layers: Count = 2
    """the blocks of the encoder, and of the decoder, N"""
    num_heads: Count = 4
    """the number of attention heads, h"""
    hidden: Count = 512
    """the width of the feed-forward networks, d_ff"""
    dropout: Share = 0.1
    """the dropout rate, P_drop"""
    pre_norm: bool = True
    """pre-norm: layer normalisation before each sublayer, not after it"""


@dataclass(frozen=True)
class Config(app.Run):
    """Train an encoder-decoder, and leave a run folder with translations and the network."""

    DATA, MODELS = PAIRS, ("transformer",)

    data: str = "cldr"
    """cldr, folder or files"""
    data_dir: Annotated[Path | None, OnlyWith(data="folder")] = None
    """where the files lie"""
    model: str | None = None
    """transformer"""
    epochs: Count = 10
    """the maximum number of epochs"""
    batch_size: Count = 64
    """texts per training step"""
    learning_rate: app.LearningRate = 2e-3
    """the peak learning rate"""
    label_smoothing: Share = 0.1
    """label smoothing of the loss"""
    beams: Count = 4
    """the beam width"""
    optimizer: app.Optimizer = app.Optimizer(schedule="one_cycle")
    techniques: app.Techniques = app.Techniques(clip=1.0)
    texts: Texts = Texts()
    network: Network = Network()

    def named_by(self) -> tuple[str, ...]:
        """The data, or of files of your own the one that is read."""
        source = self.texts.source
        return (source.stem,) if self.data == "files" and source else super().named_by()

    @property
    def variant(self) -> str:
        """What the run folder is called by after the data."""
        return "translate"


def problem(config: Config) -> app.Problem:
    """The words of another text, one after the other."""
    from jaxnet import losses, metrics
    from jaxnet.data import TextEncoder, fit_tokenizer
    from jaxnet.data.text.tokenizer import START
    from jaxnet.generation import Translations
    from jaxnet.generation.translation import NEW_TOKENS
    from jaxnet.models import Transformer
    from jaxnet.training import TeacherForcing

    pairs, valid_pairs, test_pairs = PAIRS[config.data](config)
    tokenizer = fit_tokenizer([*pairs.source, *pairs.target], "bpe", config.texts.vocab_size)
    train, valid = encoded_pairs(tokenizer, (pairs, valid_pairs), config.texts.length)
    width = train.inputs.shape[1]
    new_tokens = max(NEW_TOKENS, width)
    loss = partial(losses.cross_entropy, label_smoothing=config.label_smoothing)
    shown = valid_pairs.source[:SAMPLES], valid_pairs.target[:SAMPLES]
    return app.Problem(
        TeacherForcing(
            Transformer(tokenizer.vocab_size, **app.given(config)),
            losses.masked(loss, ignored=0),
            config.optimizer_for(len(train)),
            eval_metrics={"accuracy": metrics.masked(metrics.accuracy, ignored=0)},
            start=tokenizer.id_of(START),
        ),
        train,
        valid,
        report=report_translations(tokenizer, test_pairs, new_tokens, config.beams),
        callbacks=lambda folder, task: [Translations(folder, tokenizer, *shown, new_tokens)],
        encoder=TextEncoder(tokenizer, width, end=True),
    )


train = partial(app.run, problem)
main = app.command(Config, train, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
