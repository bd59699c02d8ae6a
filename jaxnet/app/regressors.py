"""What entrypoints that predict numbers share: the errors on the test set, and their picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.app.problem import Tested
from jaxnet.app.run_folder import title

if TYPE_CHECKING:
    from jaxnet.data import Arrays
    from jaxnet.data.scaling import Scale
    from jaxnet.training import FitResult, Trained


def report_numbers(test: Arrays, target: str) -> Callable[[Path, FitResult], Tested]:
    """The report on a network that predicts numbers: its errors, and predicted against true values.

    Args:
        test: the test set.
        target: what is predicted.
    """

    def report(folder: Path, result: FitResult) -> Tested:
        from jaxnet.report.predictions import plot_predicted

        predicted = result.model.predict(test.inputs)[:, 0]
        plot_predicted(test.labels, predicted, folder / "predicted.png", target, title(folder))
        return Tested({**result.model.evaluate(test), **_errors(test.labels, predicted)})

    return report


def measure_scaled(model: Trained, test: Arrays, scale: Scale | None) -> dict[str, Any]:
    """The errors of a network that predicts on the scale of 1, which is also that of the loss."""
    from sklearn.metrics import mean_absolute_error, mean_squared_error

    assert scale is not None
    predicted = model.predict(test.inputs)[:, 0]
    known, units = test.labels.astype(float), scale.undo(predicted)
    return {
        "loss": float(mean_squared_error(scale(known), predicted)),
        "mae": float(mean_absolute_error(known, units)),
        **_errors(known, units),
    }


def _errors(known: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The root mean squared error, and the share of the variance that is explained."""
    from sklearn.metrics import r2_score, root_mean_squared_error

    return {
        "rmse": float(root_mean_squared_error(known, predicted)),
        "r2": float(r2_score(known, predicted)),
    }
