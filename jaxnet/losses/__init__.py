"""Losses: pure functions `loss(outputs, labels) -> (B,)`, one number an example, never reduced.

The mean over a batch belongs to the caller, who knows the weights and which rows are padding
(`jaxnet.metrics.weighted_mean`). Where an example has further axes (time, pixels, several
outputs), its loss is the mean over them. Everything is computed and returned in float32, or in
float64 where the outputs are; `bfloat16` and `float16` outputs are widened first.

`with_class_weights` and `masked` make a loss out of a loss (`jaxnet.losses.weighting`).

In the signatures a leading underscore marks axes that vary or that the function checks itself, with
a message of its own. (A leading space says nothing: it keeps linters from reading names of axes as
names of variables.)
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxnet.losses.classification import binary_cross_entropy as binary_cross_entropy
from jaxnet.losses.classification import binary_focal as binary_focal
from jaxnet.losses.classification import categorical_cross_entropy as categorical_cross_entropy
from jaxnet.losses.classification import categorical_hinge as categorical_hinge
from jaxnet.losses.classification import cross_entropy as cross_entropy
from jaxnet.losses.classification import focal as focal
from jaxnet.losses.classification import hinge as hinge
from jaxnet.losses.classification import kl_divergence as kl_divergence
from jaxnet.losses.classification import multiclass_hinge as multiclass_hinge
from jaxnet.losses.classification import squared_hinge as squared_hinge
from jaxnet.losses.labels import check_labels as check_labels
from jaxnet.losses.regression import absolute_error as absolute_error
from jaxnet.losses.regression import huber as huber
from jaxnet.losses.regression import log_cosh as log_cosh
from jaxnet.losses.regression import squared_error as squared_error
from jaxnet.losses.regression import sum_of_squares as sum_of_squares
from jaxnet.losses.retrieval import in_batch_softmax as in_batch_softmax
from jaxnet.losses.retrieval import log_frequencies as log_frequencies
from jaxnet.losses.shapes import paired as paired
from jaxnet.losses.shapes import widened as widened
from jaxnet.losses.weighting import Loss as Loss
from jaxnet.losses.weighting import balanced_class_weights as balanced_class_weights
from jaxnet.losses.weighting import masked as masked
from jaxnet.losses.weighting import named_class_weights as named_class_weights
from jaxnet.losses.weighting import position_counts as position_counts
from jaxnet.losses.weighting import with_class_weights as with_class_weights

LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "categorical_cross_entropy": categorical_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "kl_divergence": kl_divergence,
    "focal": focal,
    "binary_focal": binary_focal,
    "hinge": hinge,
    "squared_hinge": squared_hinge,
    "multiclass_hinge": multiclass_hinge,
    "categorical_hinge": categorical_hinge,
    "squared_error": squared_error,
    "absolute_error": absolute_error,
    "huber": huber,
    "log_cosh": log_cosh,
    "sum_of_squares": sum_of_squares,
}
"""The losses by name, for `jaxnet.names.lookup`."""
