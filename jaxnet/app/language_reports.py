"""What runs over texts report: figures of a language model, gaps filled in, translations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.app.problem import Tested
from jaxnet.app.run_folder import title

if TYPE_CHECKING:
    from jaxnet.data import Arrays, ParallelTexts, Tokenizer
    from jaxnet.training import FitResult, Trained

# Pieces that are filled in and written out, and the tokens of a picture of attention.
FILLED, DRAWN = 8, 24


def per_character(metrics: Mapping[str, Any], tokens_per_character: float) -> dict[str, Any]:
    """The metrics of a language model, with its perplexity and its loss per character.

    Args:
        metrics: with the `loss` of a token in nats.
        tokens_per_character: of the text that was tested on.

    Example:
        >>> figures = per_character({"loss": math.log(16)}, 0.25)
        >>> round(figures["perplexity"], 6), round(figures["bits_per_character"], 6)
        (16.0, 1.0)
    """
    loss = float(metrics["loss"])
    nats = tokens_per_character * loss
    return {
        **metrics,
        "perplexity": math.exp(loss),
        "nats_per_character": nats,
        "bits_per_character": nats / math.log(2),
    }


def report_filled(
    tokenizer: Tokenizer, train: Arrays, test: Arrays
) -> Callable[[Path, FitResult], Tested]:
    """The report of a masked language model: gaps filled in, attention, and how good guessing is.

    Args:
        tokenizer: what made the tokens.
        train: pieces with nothing hidden.
        test: pieces with some tokens hidden.
    """

    def report(folder: Path, result: FitResult) -> Tested:
        metrics = {**result.model.evaluate(test), **_unigram(tokenizer, train, test)}
        _show_filled(folder, tokenizer, result.model, test)
        return Tested(metrics)

    return report


def _unigram(tokenizer: Tokenizer, train: Arrays, test: Arrays) -> dict[str, float]:
    """How good it is to guess always the token that is the most frequent in training."""
    import numpy as np

    from jaxnet.data.augmentation import IGNORED

    body = train.inputs[:, 1:-1]
    counts = np.bincount(body.ravel(), minlength=tokenizer.vocab_size)
    hidden = test.labels[test.labels != IGNORED]
    share = (counts + 1) / (counts + 1).sum()
    return {
        "unigram_accuracy": float((hidden == counts.argmax()).mean()),
        "unigram_loss": float(-np.log(share[hidden]).mean()),
    }


def _show_filled(folder: Path, tokenizer: Tokenizer, model: Trained, test: Arrays) -> None:
    """Write and print some held-out pieces, filled in, and draw what the heads attend to."""
    import numpy as np

    from jaxnet.cluster import processes
    from jaxnet.report.attention import plot_attention
    from jaxnet.report.filled import filled_in, write_filled
    from jaxnet.training.attention_maps import self_attention_maps

    rows = np.linspace(0, len(test) - 1, min(FILLED, len(test))).astype(int)
    guesses = model.predict(test.inputs[rows]).argmax(axis=-1)
    # Of several processes each may have a part of the state, and the first one draws.
    if processes.several():
        model = replace(model, state=processes.on_host(model.state))
    if not processes.is_first():
        return
    texts = [
        filled_in(tokenizer, test.inputs[row], test.labels[row], guess)
        for row, guess in zip(rows, guesses, strict=True)
    ]
    write_filled(folder / "filled.txt", texts)
    network, _, variables = model.inference()
    assert network.module is not None  # a module of the zoo
    piece = test.inputs[rows[:1]]
    weights = self_attention_maps(network.module, variables, piece)[:, 0, :, :DRAWN, :DRAWN]
    names = [str(tokenizer.backend.id_to_token(int(token))) for token in piece[0, :DRAWN]]
    shown = [name.replace("Ġ", " ").replace("Ċ", "\\n") for name in names]
    plot_attention(weights, shown, folder / "attention.png", title=title(folder))


def report_translations(
    tokenizer: Tokenizer, test: ParallelTexts, new_tokens: int, beams: int
) -> Callable[[Path, FitResult], Tested]:
    """The report of a translator: translations of the test texts, their BLEU, and attention.

    Args:
        tokenizer: that of both languages, which is left in the run folder too.
        test: texts and their translations.
        new_tokens: the most tokens of a translation.
        beams: the width of the beam search.
    """

    def report(folder: Path, result: FitResult) -> Tested:
        bleu = _translate(folder, result.model, tokenizer, test, new_tokens, beams)
        tokenizer.save(folder / "tokenizer.json")
        return Tested({"bleu": bleu})

    return report


def _translate(
    folder: Path,
    trained: Trained,
    tokenizer: Tokenizer,
    test: ParallelTexts,
    new_tokens: int,
    beams: int,
) -> float:
    """Translate the test texts, write them and a picture of attention; their BLEU, 0 to 100."""
    from jaxnet import metrics
    from jaxnet.files import write_atomically
    from jaxnet.generation import translate, translation_attention
    from jaxnet.report.attention import plot_attention

    network, _, variables = trained.inference()
    assert network.module is not None  # a module of the zoo
    model = network.module
    made = translate(model, variables, tokenizer, test.source, new_tokens, beams=beams)
    with write_atomically(folder / "translations.tsv") as file:
        for row in zip(test.source, made, test.target, strict=True):
            file.write("\t".join(row) + "\n")
    first = next((i for i, text in enumerate(made) if text), None)
    if first is not None:
        texts = test.source[first], made[first]
        weights, written, read = translation_attention(model, variables, tokenizer, *texts)
        path = folder / "attention.png"
        plot_attention(weights, written, path, sources=read, title=title(folder))
    references = [[metrics.mteval_words(text)] for text in test.target]
    candidates = [metrics.mteval_words(text) for text in made]
    return 100 * float(metrics.bleu(candidates, references, smoothing="exp").compute())
