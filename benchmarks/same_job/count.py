"""Counts the lines of each job, and prints the table of the guide.

    python -m benchmarks.same_job.count

Counted are the lines within a job's function as `ruff format` leaves them, without imports,
comments, blank lines and a last line that only returns a name.
"""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent
LIBRARIES = {"jaxnet": "jaxnet", "keras": "Keras 3", "lightning": "Lightning 2"}
JOBS = {
    "own_module": "a network of one's own, with dropout",
    "two_inputs": "two inputs",
    "two_outputs": "two outputs, a loss and metrics for each",
    "data_frame": "a pandas frame",
    "torch_dataset": "a PyTorch `Dataset`",
    "torch_loader": "a PyTorch `DataLoader`",
    "generator": "a generator of batches",
    "own_loss": "a loss of one's own",
    "own_metric": "a metric",
    "own_schedule": "a learning-rate schedule",
    "own_optimizer": "an optimizer",
    "own_step": "a training step: normalised gradients",
    "callback_that_stops": "a callback that stops the run",
    "stop_rule": "early stopping; the best weights are restored",
    "cross_validation": "k-fold cross-validation, stratified",
    "class_weights": "balanced class weights",
    "predictions_in_a_frame": "predictions as a data frame: class names, probabilities",
    "save load": "save here, predict class names in another process",
    "tensorboard": "TensorBoard",
    "wandb": "Weights & Biases",
    "progress_in_a_notebook": "a progress bar in a notebook",
}


def lines(source: str) -> dict[str, int]:
    """The number of lines of each function of a module.

    Example:
        >>> lines("def job(data):\\n    # Fit.\\n    import jaxnet\\n\\n    fit(\\n  data)\\n")
        {'job': 2}
    """
    text = source.splitlines()
    counts = {}
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        body = [one for one in function.body if not isinstance(one, ast.Import | ast.ImportFrom)]
        if isinstance(body[-1], ast.Return) and isinstance(body[-1].value, ast.Name):
            body.pop()
        taken = [text[i] for one in body for i in range(one.lineno - 1, one.end_lineno or 0)]
        counts[function.name] = sum(
            bool(line.strip()) and not line.strip().startswith("#") for line in taken
        )
    return counts


def counted() -> dict[str, dict[str, int]]:
    """The number of lines of each job, by library."""
    of = {name: lines((HERE / f"{name}_jobs.py").read_text("utf-8")) for name in LIBRARIES}
    return {
        job: {name: sum(of[name][part] for part in job.split()) for name in LIBRARIES}
        for job in JOBS
    }


def table() -> str:
    """The counts as a Markdown table."""
    rows = [f"| lines for | {' | '.join(LIBRARIES.values())} |", "|---|---|---|---|"]
    for job, numbers in counted().items():
        rows.append(f"| {JOBS[job]} | {' | '.join(map(str, numbers.values()))} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
