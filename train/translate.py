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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jaxnet.app import cli, run_folder
from jaxnet.app.command_line import from_command_line
from jaxnet.app.recipe import LearningRate, Optimizer, Run, Techniques, lookup_data, started
from jaxnet.errors import UsageError
from jaxnet.names import lookup
from jaxnet.options import Count, OnlyWith, Share, settled

if TYPE_CHECKING:
    import flax.linen as nn

    from jaxnet.data import Arrays, ParallelTexts, Tokenizer
    from jaxnet.training import Trained

    Parts = tuple[ParallelTexts, ParallelTexts, ParallelTexts]

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
    """the most tokens that are told apart, in both languages together"""
    length: Count = 40
    """the most tokens of a text in training; longer ones are left out"""


@dataclass(frozen=True)
class Network:
    """The network's size, in the terms of the paper (table 3)."""

    features: Count = 128
    """the width of a token, d_model"""
    num_layers: Count = 2
    """the blocks of the encoder, and of the decoder, N"""
    num_heads: Count = 4
    """the heads of attention, h"""
    hidden: Count = 512
    """the width of the feed-forward networks, d_ff"""
    dropout: Share = 0.1
    """the share of units left out in training, P_drop"""
    pre_norm: bool = True
    """normalise before each part and not after it"""


@dataclass(frozen=True)
class Config(Run):
    """Train an encoder-decoder, and leave a run folder with translations and the network."""

    data: str = "cldr"
    """cldr, folder or files"""
    data_dir: Annotated[Path | None, OnlyWith(data="folder")] = None
    """where the files lie"""
    model: str | None = None
    """transformer"""
    epochs: Count = 10
    """how often to go through the training texts, at most"""
    batch_size: Count = 64
    """texts a step"""
    learning_rate: LearningRate = 2e-3
    """the largest learning rate"""
    label_smoothing: Share = 0.1
    """the share of the probability that is spread over all tokens in the loss"""
    beams: Count = 4
    """how many translations are followed at a time in the search for the best"""
    optimizer: Optimizer = Optimizer(schedule="one_cycle")
    techniques: Techniques = Techniques(clip=1.0)
    texts: Texts = Texts()
    network: Network = Network()

    def named_by(self) -> tuple[str, ...]:
        """The data, or of files of your own the one that is read."""
        source = self.texts.source
        return (source.stem,) if self.data == "files" and source else super().named_by()


def _cldr(config: Config) -> Parts:
    from jaxnet.data import load_cldr, split

    texts = load_cldr(languages=config.texts.languages)
    train, valid, test = split(texts, (0.9, 0.05, 0.05), seed=config.seed)
    return train, valid, test


def _folder(config: Config) -> Parts:
    from jaxnet.data import parallel_folder

    if config.data_dir is None:
        raise UsageError("--data folder needs --data-dir, the folder with train.*, val.* and test*")
    return parallel_folder(config.data_dir, config.texts.languages)


def _files(config: Config) -> Parts:
    from jaxnet.data import read_parallel, split

    if config.texts.source is None or config.texts.target is None:
        raise UsageError("--data files needs --texts.source and --texts.target")
    texts = read_parallel(config.texts.source, config.texts.target)
    train, valid, test = split(texts, (0.9, 0.05, 0.05), seed=config.seed)
    return train, valid, test


DATA: Mapping[str, Callable[[Config], Parts]] = {
    "cldr": _cldr,
    "folder": _folder,
    "files": _files,
}


def train(config: Config, fit: run_folder.Fit = run_folder.fit) -> int:
    """Train as configured, and write the run folder."""
    read = lookup_data(config.data, DATA)
    name = config.model or "transformer"
    lookup(name, {"transformer": None}, "model")
    config = settled(replace(config, model=name))
    folder = run_folder.located(config, "translate")
    config = replace(config, run_dir=folder)

    from jaxnet import losses, metrics
    from jaxnet.data import TextEncoder, fit_tokenizer
    from jaxnet.data.text.tokenizer import START
    from jaxnet.generation import Translations
    from jaxnet.generation.translation import NEW_TOKENS
    from jaxnet.training import TeacherForcing

    train, valid, test = read(config)
    sides = [*train.source, *train.target]
    tokenizer = fit_tokenizer(sides, "bpe", config.texts.vocab_size)
    model = _model(config, tokenizer.vocab_size)
    learnt, watched = _arrays(config, tokenizer, (train, valid))
    task = TeacherForcing(
        model,
        losses.masked(
            partial(losses.cross_entropy, label_smoothing=config.label_smoothing), ignored=0
        ),
        config.optimizer_for(len(learnt)),
        eval_metrics={"accuracy": metrics.masked(metrics.accuracy, ignored=0)},
        start=tokenizer.id_of(START),
    )
    shown = valid.source[:SAMPLES], valid.target[:SAMPLES]
    # The weights that are evaluated write, a moving average say: the task with all techniques
    # knows which these are.
    applied = config.techniques.apply(config.optimizer.apply(task))
    width = learnt.inputs.shape[1]
    new_tokens = max(NEW_TOKENS, width)
    samples = Translations(folder, applied, tokenizer, *shown, new_tokens)
    encoder = TextEncoder(tokenizer, width, end=True)
    result = fit(folder, config, task, learnt, watched, callbacks=[samples], encoder=encoder)
    if result is None:
        return cli.PREEMPTED
    bleu = _report(config, folder, result.model, tokenizer, test, new_tokens)
    tokenizer.save(folder / "tokenizer.json")
    run_folder.finish(folder, result, {"bleu": bleu}, encoder=encoder)
    return cli.DONE


def _model(config: Config, vocab_size: int) -> nn.Module:
    from jaxnet.models import Transformer

    network = config.network
    return Transformer(
        vocab_size,
        network.features,
        network.num_layers,
        network.num_heads,
        network.hidden,
        network.dropout,
        network.pre_norm,
    )


def _arrays(
    config: Config, tokenizer: Tokenizer, parts: tuple[ParallelTexts, ...]
) -> tuple[Arrays, ...]:
    """Tokens of the texts that aren't too long, no wider than needed; each token counts alike."""
    import numpy as np

    from jaxnet.data import Arrays
    from jaxnet.errors import InputError
    from jaxnet.losses import position_counts

    kept = []
    for texts in parts:
        sides = [tokenizer.encode_batch(side, end=True) for side in (texts.source, texts.target)]
        lengths = np.maximum(*((side > 0).sum(axis=1) for side in sides))
        fit = lengths <= config.texts.length
        if not fit.any():
            raise InputError(
                f"{texts.name}: all texts have more than {config.texts.length} tokens; allow more "
                "with --texts.length"
            )
        kept.append((texts.name, lengths[fit].max(), [side[fit] for side in sides]))
    width = max(longest for _, longest, _ in kept)

    def cut(tokens: np.ndarray) -> np.ndarray:
        return np.pad(tokens, ((0, 0), (0, max(0, width - tokens.shape[1]))))[:, :width]

    return tuple(
        Arrays(cut(source), cut(target), position_counts(cut(target), ignored=0), name=name)
        for name, _, (source, target) in kept
    )


def _report(
    config: Config,
    folder: Path,
    trained: Trained,
    tokenizer: Tokenizer,
    test: ParallelTexts,
    new_tokens: int,
) -> float:
    """Translate the test texts, write them and a picture of attention; their BLEU, 0 to 100."""
    from jaxnet import metrics
    from jaxnet.files import write_atomically
    from jaxnet.generation import translate, translation_attention
    from jaxnet.report.plots import plot_attention

    network, _, variables = trained.trainer.task.inference(trained.state)  # pyright: ignore[reportAttributeAccessIssue]
    model = network.module
    made = translate(model, variables, tokenizer, test.source, new_tokens, beams=config.beams)
    with write_atomically(folder / "translations.tsv") as file:
        for row in zip(test.source, made, test.target, strict=True):
            file.write("\t".join(row) + "\n")
    first = next((i for i, text in enumerate(made) if text), None)
    if first is not None:
        texts = test.source[first], made[first]
        weights, written, read = translation_attention(model, variables, tokenizer, *texts)
        title = run_folder.title(folder)
        plot_attention(weights, written, folder / "attention.png", sources=read, title=title)
    references = [[metrics.mteval_words(text)] for text in test.target]
    candidates = [metrics.mteval_words(text) for text in made]
    return 100 * float(metrics.bleu(candidates, references, smoothing="exp").compute())


def main() -> int:
    """The command."""
    return cli.run(lambda: train(started(from_command_line(Config, sys.argv[1:], PROGRAM))))


if __name__ == "__main__":
    sys.exit(main())
