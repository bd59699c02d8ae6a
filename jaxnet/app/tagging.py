"""Tagged texts by the name that `--data` has, and what a run that learns to tag them reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.app.problem import Tested

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.data import Arrays
    from jaxnet.data.text.tagged import TaggedTexts
    from jaxnet.training import FitResult


def _python(config: Any) -> TaggedTexts:
    from jaxnet.data.text.tagged import load_code_mentions

    return load_code_mentions()


def _conll(config: Any) -> TaggedTexts:
    from jaxnet.data.text.tagged import read_conll

    return read_conll(config.data_path("a file with a word and its tag on each line"))


TAGGED: Mapping[str, Callable[[Any], TaggedTexts]] = {"python": _python, "conll": _conll}


def report_tags(texts: TaggedTexts, test: Arrays) -> Callable[[Path, FitResult], Tested]:
    """The report of a tagger: accuracy, each tag's precision, recall and F1, and the entities'.

    Args:
        texts: the sentences to test with.
        test: the same as the network gets them.
    """

    def report(folder: Path, result: FitResult) -> Tested:
        metrics, logits = result.model.evaluate(test), result.model.predict(test)
        return Tested({**metrics, **tag_scores(test.labels, logits.argmax(axis=-1), texts)})

    return report


def tag_scores(labels: np.ndarray, answers: np.ndarray, texts: TaggedTexts) -> dict[str, Any]:
    """The confusion matrix of tags, and where they are BIO, the scores of entities.

    Args:
        labels: (n, length) the numbers of the tags, `IGNORED` where there is none.
        answers: (n, length) those of a network.
        texts: the sentences, for the names of the tags.
    """
    import numpy as np

    from jaxnet.data.text.tagged import IGNORED
    from jaxnet.metrics.entities import entity_scores

    names, counted = texts.class_names, labels != IGNORED
    confusion = np.zeros((len(names), len(names)))
    np.add.at(confusion, (labels[counted], answers[counted]), 1)
    if not texts.bio:
        return {"confusion": confusion}
    true, predicted = (
        [[names[tag] for tag in row[kept]] for row, kept in zip(tags, counted, strict=True)]
        for tags in (labels, answers)
    )
    return {"confusion": confusion, **entity_scores(true, predicted)}
