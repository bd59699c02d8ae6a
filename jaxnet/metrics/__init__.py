"""Metrics: pure functions `metric(outputs, labels, weights) -> Sums`.

`outputs` are what the network gives: logits, or numbers in regression. `weights` (B,) says how much
each example counts; 0 leaves it out, whatever it holds. What comes back is a small pytree of SUMS
over the batch: two of them merge by adding leaf by leaf (`merge`), on the device, between devices
(`psum`) or on the host, and `.compute()` turns the total into the number. So the value over an
epoch is exact, however it was cut into batches.

Options are keywords, given with `functools.partial(metrics.f_beta, beta=2.0)`. Metrics of
classification take three forms of outputs and labels:

    yes or no       one logit an example, (B,) or (B, 1); labels (B,) of 0 and 1. The rates are
                    those of "yes".
    one of C        logits (B, ..., C), of which the largest is the answer; integer labels (B, ...).
                    The rates are those of each class against the rest, averaged.
    any of K        logits (B, ..., K), each a yes or no of its own, and labels of the same shape.
                    Metrics of answers need a `threshold` then, such as 0.5, for otherwise one-hot
                    labels would pass for these. The rates are those of each label, averaged.

A label below 0 is no class but a gap: every metric of class numbers leaves it out, a position of a
sequence like an example. What can't be makes the metric NaN, so that early stopping sees it: an
output that is NaN, which is no answer and never right; a class number of C or more; a label of yes
or no outside of 0 to 1. (-1 for "no", as `losses.hinge` takes it, is none here, where it might be a
gap as well: give `labels > 0`, or say that it is one with `masked`.) What has weight 0 is left out,
whatever it holds.

Where a value is undefined: a rate whose denominator is 0 (precision without a positive answer, say)
is 0, as in scikit-learn, or what `zero_division` says; an area under a curve, R2, explained
variance and kappa are NaN; an average is over the classes for which there is something to average;
and where nothing was counted everything is NaN.

On the device the sums are float32 (float64 where the outputs are), which counts examples exactly up
to 2**24 (16.7 million) in one dispatch; the trainer adds the dispatches on the host in float64.
`jaxnet.metrics.curves` has what needs all predictions at once: exact areas, curves, thresholds.

A metric says which way it gets better (`Mean.better`), by which early stopping goes. What a metric
of one's own may look like is in `jaxnet.metrics.own`.

The signatures name axes as those of `jaxnet.losses` do.
"""

from __future__ import annotations

from jaxnet.metrics.accuracy import accuracy as accuracy
from jaxnet.metrics.accuracy import exact_match as exact_match
from jaxnet.metrics.accuracy import masked as masked
from jaxnet.metrics.accuracy import multilabel_accuracy as multilabel_accuracy
from jaxnet.metrics.accuracy import top_k_accuracy as top_k_accuracy
from jaxnet.metrics.areas import average_precision as average_precision
from jaxnet.metrics.areas import roc_auc as roc_auc
from jaxnet.metrics.by_name import METRICS as METRICS
from jaxnet.metrics.confusion import Confusion as Confusion
from jaxnet.metrics.confusion import balanced_accuracy as balanced_accuracy
from jaxnet.metrics.confusion import cohen_kappa as cohen_kappa
from jaxnet.metrics.confusion import confusion_matrix as confusion_matrix
from jaxnet.metrics.confusion import matthews_correlation as matthews_correlation
from jaxnet.metrics.curves import average_precision_of as average_precision_of
from jaxnet.metrics.curves import best_threshold as best_threshold
from jaxnet.metrics.curves import mean_area as mean_area
from jaxnet.metrics.curves import precision_recall_curves as precision_recall_curves
from jaxnet.metrics.curves import roc_auc_of as roc_auc_of
from jaxnet.metrics.curves import roc_curves as roc_curves
from jaxnet.metrics.language import BleuCounts as BleuCounts
from jaxnet.metrics.language import bleu as bleu
from jaxnet.metrics.language import mteval_words as mteval_words
from jaxnet.metrics.language import perplexity as perplexity
from jaxnet.metrics.own import larger_is_better as larger_is_better
from jaxnet.metrics.own import smaller_is_better as smaller_is_better
from jaxnet.metrics.precision_recall import f1 as f1
from jaxnet.metrics.precision_recall import f_beta as f_beta
from jaxnet.metrics.precision_recall import negative_predictive_value as negative_predictive_value
from jaxnet.metrics.precision_recall import precision as precision
from jaxnet.metrics.precision_recall import recall as recall
from jaxnet.metrics.precision_recall import specificity as specificity
from jaxnet.metrics.regression import explained_variance as explained_variance
from jaxnet.metrics.regression import mean_absolute_error as mean_absolute_error
from jaxnet.metrics.regression import mean_squared_error as mean_squared_error
from jaxnet.metrics.regression import r2 as r2
from jaxnet.metrics.regression import root_mean_squared_error as root_mean_squared_error
from jaxnet.metrics.reports import classification_report as classification_report
from jaxnet.metrics.retrieval import ndcg_at as ndcg_at
from jaxnet.metrics.retrieval import recall_at as recall_at
from jaxnet.metrics.sums import Mean as Mean
from jaxnet.metrics.sums import Metric as Metric
from jaxnet.metrics.sums import Score as Score
from jaxnet.metrics.sums import Sums as Sums
from jaxnet.metrics.sums import merge as merge
from jaxnet.metrics.sums import weighted_mean as weighted_mean
