from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxnet.errors import InputError
from jaxnet.metrics import classification_report

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("empty", [None, 2])
def test_the_report_is_scikit_learns(empty: int | None):
    labels, answers = RNG.integers(0, 4, 100), RNG.integers(0, 4, 100)
    if empty is not None:
        labels[labels == empty], answers[answers == empty] = 0, 0
    confusion = sklearn_metrics.confusion_matrix(labels, answers, labels=range(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn_metrics.classification_report(labels, answers, output_dict=True)
    report = classification_report(confusion)
    for name, *row in report.rows:
        known = expected.get(name, {"precision": 0, "recall": 0, "f1-score": 0, "support": 0})
        np.testing.assert_allclose(row, [known[key] for key in known], rtol=1e-9)
    macro = expected["macro avg"]
    assert report.summary() == pytest.approx(
        {"precision": macro["precision"], "recall": macro["recall"], "f1": macro["f1-score"]}
    )


def test_the_report_as_a_file(tmp_path):
    report = classification_report(np.array([[3, 1], [0, 4]]), ["cat", "dog, or so"])
    report.write_csv(tmp_path / "classes.csv")
    with open(tmp_path / "classes.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["class", "precision", "recall", "f1", "support"]
    assert rows[2][0] == "dog, or so"
    assert float(rows[2][1]) == 0.8


def test_what_is_no_confusion_matrix_is_refused():
    with pytest.raises(InputError, match=r"\[2, 3\]"):
        classification_report(np.ones((2, 3)))
    with pytest.raises(InputError, match="2 class names"):
        classification_report(np.eye(2), ["a"])
