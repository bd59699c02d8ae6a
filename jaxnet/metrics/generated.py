"""What a classifier of real examples reads in generated ones."""

from __future__ import annotations

import numpy as np

from jaxnet.errors import InputError


def judged(logits: np.ndarray, least: float = 0.02) -> dict[str, int | float]:
    """How varied and how clear generated examples are to a classifier.

    Args:
        logits: (n, classes), the classifier's for n generated examples.
        least: the share of the examples from which on a class counts as seen.

    Returns:
        `classes_seen`: how many classes at least that share of the examples is read as.
        `confidence`: the mean probability of the class that is read.
        `inception_score`: `exp` of the mean divergence of an example's probabilities from their
            mean, from 1 (all examples look alike, or none is clear) to the number of classes
            (Salimans et al. 2016, "Improved techniques for training GANs", section 4, there with
            a classifier of ImageNet). It compares only among runs with the same classifier.

    Raises:
        InputError: there is not one row of at least two logits for each example.

    Example:
        >>> judged(np.array([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]))["classes_seen"]
        2
    """
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2:
        raise InputError(f"expected logits (n, classes) of a classifier, got {logits.shape}")
    logits = logits.astype(np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    p = np.exp(log_p)
    shares = np.bincount(p.argmax(axis=1), minlength=p.shape[1]) / len(p)
    # A class that no example has a chance of adds nothing, where 0 log 0 would be NaN.
    log_mean = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
    divergence = (p * (log_p - log_mean)).sum(axis=1).mean()
    return {
        "classes_seen": int((shares >= least).sum()),
        "confidence": float(p.max(axis=1).mean()),
        "inception_score": float(np.exp(divergence)),
    }
