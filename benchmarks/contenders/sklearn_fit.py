"""scikit-learn's MLPClassifier, one more epoch a round; adam also where a race uses rmsprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.neural_network import MLPClassifier

from benchmarks.workloads import Contestant, Data, Workload


def setup(workload: Workload, data: Data, options: Mapping[str, str]) -> Contestant:
    images = data.shaped(workload, scale=True)
    batch_size: Any = workload.batch_size  # declared a string, for the sake of "auto"
    model = MLPClassifier(
        workload.hidden,
        alpha=0.0,
        batch_size=batch_size,
        learning_rate_init=workload.learning_rate,
        random_state=0,
    )
    classes = sorted(set(images.labels.tolist()))

    def train(round_index: int) -> float:
        model.partial_fit(images.inputs, images.labels, classes=classes)
        return float(model.loss_)

    def evaluate() -> float:
        return float(model.score(images.test_inputs, images.test_labels))

    return Contestant(train, evaluate)
