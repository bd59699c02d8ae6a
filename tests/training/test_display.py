"""What a run shows of itself: bars, and lines in a log. The clock is the tests' own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from jaxnet.training import display
from jaxnet.training.callbacks import Plan
from jaxnet.training.display import NotebookBar, ProgressBar, ProgressLines, displays
from jaxnet.training.history import History


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


def plan(**options: Any) -> Plan:
    return Plan(**{"epochs": 40, "steps_per_epoch": 10, "steps": 400, "first_step": 0, **options})


def row(epoch: int, loss: float) -> dict[str, float]:
    measured = {"val_loss": loss + 1, "learning_rate": 0.0021, "Dense_0/norm": 3.0}
    return {"epoch": epoch, "step": 10 * epoch, "loss": loss, **measured}


def said(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_log_has_the_first_epoch_the_last_and_one_every_few_seconds(clock, capsys):
    lines = ProgressLines()
    lines.on_start(plan(name="fold 2/5", history=History()))
    assert said(capsys) == ["fold 2/5  40 epochs of 10 steps; compiling"]
    lines.on_chunk(2, None)  # from here on it is quick: what came before was compiling
    for epoch in range(1, 34):
        clock.now += 1
        lines.on_chunk(10 * epoch, 0.5)
        lines.on_epoch(row(epoch, 0.5), None)
    lines.on_stop("no_improvement")
    written = said(capsys)
    assert written[0] == (
        "fold 2/5  epoch 1/40  loss 0.5000  val_loss 1.5000  lr 0.0021  8 steps/s  left 0:00:49"
    )
    epochs = [int(line.split("epoch ")[1].split("/")[0]) for line in written]
    assert epochs == [1, 6, 11, 16, 21, 26, 31, 33, 33]
    assert written[-1] == "fold 2/5  epoch 33/40  ended: no improvement"


def test_a_long_epoch_has_a_line_every_half_minute(clock, capsys):
    lines = ProgressLines()
    lines.on_start(plan(history=History(), steps_per_epoch=100, steps=4000))
    for step in range(0, 100, 10):
        lines.on_chunk(step + 10, 0.25)
        clock.now += 10
    assert said(capsys)[1:] == [
        "epoch 1/40  step 40/4000  loss 0.2500  1 steps/s  left 1:06:00",
        "epoch 1/40  step 70/4000  loss 0.2500  1 steps/s  left 1:05:30",
        "epoch 1/40  step 100/4000  loss 0.2500  1 steps/s  left 1:05:00",
    ]


def test_a_run_that_goes_on_says_from_where_and_tells_epochs_apart(clock, capsys):
    lines = ProgressLines()
    lines.on_start(plan(history=History((row(1, 0.5), row(2, 0.25))), first_step=20))
    assert said(capsys) == ["40 epochs of 10 steps, resuming after step 20; compiling"]
    lines.on_chunk(24, 0.125)
    # What an epoch under way has of the one before is called by that one's number.
    assert lines.epoch == "epoch 3/40"
    assert lines.numbers == "loss 0.1250  (epoch 2: val_loss 1.2500)"


def test_a_bar_in_a_notebook_is_a_cell_that_is_drawn_anew(clock):
    cells = []

    class Cell:
        def __init__(self, table: Any) -> None:
            self.tables = [table]
            cells.append(self)

        def update(self, table: Any) -> None:
            self.tables.append(table)

    bar = NotebookBar(lambda table, display_id: Cell(table))
    bar.on_start(plan(name="<b>", history=History()))
    for step in range(1, 11):
        clock.now += 0.125
        bar.on_chunk(step, 0.5)
    bar.on_epoch(row(1, 0.5), None)
    bar.on_stop("no_improvement")
    (cell,) = cells
    assert len(cell.tables) == 1 + 5 + 1  # half as often as there were steps, and the end
    assert str(cell.tables[0]) == "<b>  epoch 1/40  0/400 steps  compiling"
    assert str(cell.tables[-2]).endswith("10/400 steps  loss 0.5000  8 steps/s  left 0:00:49")
    numbers = "loss 0.5000  val_loss 1.5000  lr 0.0021  ended: no improvement"
    assert str(cell.tables[-1]) == f"<b>  epoch 1/40  10/400 steps  {numbers}"
    shown = ElementTree.fromstring(cell.tables[-1]._repr_html_())
    (moving,) = shown
    assert (moving.tag, moving.get("value"), moving.get("max")) == ("progress", "10", "400")
    assert "".join(shown.itertext()).split() == str(cell.tables[-1]).split()


NOTEBOOK = """
import numpy as np, flax.linen as nn
from jaxnet import Supervised, Trainer
x = np.ones((8, 2), np.float32)
def fit(epochs, *callbacks):
    task = Supervised(nn.Dense(1), "squared_error", "sgd")
    for fold in "1/2", "2/2":
        Trainer(task, callbacks=callbacks).fit((x, x[:, 0]), epochs=epochs, name="fold " + fold)
class Fails:
    def on_epoch(self, row, trained):
        raise ValueError("mine")
"""


@pytest.mark.slow
def test_a_real_notebook_has_one_output_for_each_run(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [NOTEBOOK, "fit(3)", "fit(3, Fails())", "fit(1); print('done')"]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        allow_errors=True,
        timeout=300,
        resources={"metadata": {"path": str(Path(__file__).parents[2])}},
    ).execute()
    _, folds, failed, last = (cell.outputs for cell in notebook.cells)
    assert [output.output_type for output in folds] == ["display_data"] * 2
    for number, output in enumerate(folds, 1):
        assert output.data["text/plain"].startswith(f"fold {number}/2  epoch 3/3  3/3 steps  loss ")
        assert '<progress value="3" max="3"' in output.data["text/html"]
        assert output.data["text/plain"].endswith("ended: epochs")
    assert [output.output_type for output in failed] == ["display_data", "error"]
    assert failed[0].data["text/plain"].endswith("ended: error")
    assert "The callback Fails.on_epoch raised this." in "".join(failed[1].traceback)
    assert [output.output_type for output in last] == ["display_data", "display_data", "stream"]
    assert last[2].text == "done\n"


def test_the_place_decides_what_is_shown(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert [type(one) for one in displays(True)] == [ProgressLines]
    assert displays(None) == displays(False) == []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert [type(one) for one in displays(None)] == [ProgressBar]
    shell = SimpleNamespace(kernel=object())
    notebook = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=print))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    (bar,) = displays(None)
    assert isinstance(bar, NotebookBar) and bar.show is print
    # IPython in a terminal is a terminal.
    notebook.get_ipython = lambda: SimpleNamespace()
    assert [type(one) for one in displays(None)] == [ProgressBar]
