"""Which way a metric gets better: what its sums say (`Mean.better`), or the words of its name.

A name is read word by word, whole words of the field in any case: `val_acc`, `valAUC`, `ndcg@10`,
`MSELoss`. A name that says nothing, or two things, has no direction: nobody guesses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Direction = Literal["max", "min"]
"""Whether the largest or the smallest value is the best, as the `mode` of early stopping."""

_LARGER = """
acc accuracy precision recall sensitivity specificity f1 f2 fbeta auc auroc rocauc auprc aucpr ap
ndcg mrr kappa mcc matthews r2 bleu chrf rouge meteor elbo iou miou dice jaccard psnr ssim ppv npv
tpr tnr reward exact_match explained_variance positive_predictive_value negative_predictive_value
true_positive_rate true_negative_rate log_likelihood inception_score f_beta
"""
_SMALLER = """
loss losses logloss error errors err mse mae rmse mape smape msle rmsle sse perplexity ppl nll
crossentropy cross_entropy bce divergence deviance wer cer fid brier ece bpc fpr fnr
false_positive_rate false_negative_rate negative_log_likelihood
"""
_TERMS: Mapping[str, Direction] = {
    **dict.fromkeys(_LARGER.split(), "max"),
    **dict.fromkeys(_SMALLER.split(), "min"),
}
# The longest first, so that the parts of a term of several words aren't read for themselves. A
# number may stand behind a word: acc1, loss_2.
_TERM = re.compile(
    rf"(?:^|(?<=_))({'|'.join(sorted(_TERMS, key=len, reverse=True))})\d*(?=_|$)",
)
# What a loss is made of says nothing about the loss: `dice_loss`, `precision_error`.
_LAST = re.compile(r"_(?:loss|losses|error|errors)\d*$")
_TURNED = re.compile(r"(?:^|_)(?:neg|negative|minus|inverse|inverted|non|not|anti)(?=_|$)")
_JOINTS = re.compile(r"[^0-9a-zA-Z]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def direction_of(name: str) -> Direction | None:
    """Which way the metric called `name` gets better, as far as the words of its name say so.

    Example:
        >>> direction_of("val_acc"), direction_of("val_layer2_loss"), direction_of("recall@5")
        ('max', 'min', 'max')
        >>> print(direction_of("score"), direction_of("f1_loss_ratio"), direction_of("neg_mse"))
        None None None
    """
    words = _JOINTS.sub("_", name).strip("_").lower()
    found: set[Direction] = {_TERMS[term] for term in _TERM.findall(words)}
    if _TURNED.search(_TERM.sub("", words)):
        return None
    if _LAST.search(f"_{words}"):
        return "min"
    return found.pop() if len(found) == 1 else None


def declared(metrics: Mapping[str, object], prefix: str = "") -> dict[str, Direction]:
    """The directions that the sums of metrics say, by name with `prefix` before it.

    Example:
        >>> from jaxnet.metrics import Mean
        >>> declared({"hits": Mean(3.0, 4.0, "max"), "norm": Mean(3.0, 4.0)}, "val_")
        {'val_hits': 'max'}
    """
    said = {name: getattr(sums, "better", None) for name, sums in metrics.items()}
    return {prefix + name: better for name, better in said.items() if better is not None}
