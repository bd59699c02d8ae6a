"""The command `jaxnet doctor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.doctor.checks import all_checks
from jaxnet.doctor.facts import Facts
from jaxnet.doctor.findings import Finding
from jaxnet.errors import UsageError
from jaxnet.files import json_text

STYLES = {"ok": "green", "note": "blue", "warning": "yellow", "problem": "bold red"}
# A file or a pipe has no width of its own, and a command that is broken in two can't be copied.
LEAST_WIDTH = 120


@dataclass(frozen=True)
class Config:
    """Look at this machine, and say what to do about what isn't as it should be.

    The exit code is 1 where there is a problem. What is slow or odd is a warning or a note.
    """

    run_dir: Path = Path("runs")
    """where runs are to be written: a file of 32 MB is written there, timed and deleted"""
    run: Path | None = None
    """check the training step of this run instead: compiled and op by op, on one of its batches"""
    program: str | None = None
    """--run: the entrypoint that trained it, such as train.classify, where the run doesn't say"""
    json: bool = False
    """print the findings, and the facts behind them, as JSON"""


def doctor(config: Config) -> int:
    """Gather, judge and print."""
    if config.program and config.run is None:
        raise UsageError("--program says what trained a run: say which run, with --run FOLDER")
    facts, findings = None, ()
    if config.run is not None:
        from jaxnet.doctor import runs

        findings = (runs.check(config.run, config.program),)
    else:
        facts = Facts.gather(config.run_dir)
        findings = tuple(all_checks(facts))
    if config.json:
        print(as_json(facts, findings))
    else:
        show(findings)
    return cli.FAILED if any(each.level == "problem" for each in findings) else cli.DONE


def as_json(facts: Facts | None, findings: Sequence[Finding]) -> str:
    """The findings, and the facts behind them."""
    report: dict[str, Any] = {"findings": [asdict(each) for each in findings]}
    if facts is not None:
        report["facts"] = asdict(facts)
    return json_text(report, indent=1)


def show(findings: Sequence[Finding]) -> None:
    """Print a table, and how many findings are not `ok`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False)
    for column in ("", "", "what, and what to do about it"):
        table.add_column(column, overflow="fold")
    for each in findings:
        # Text, and no markup: square brackets mean something in both `pip install` and rich.
        what = Text(each.what)
        if each.advice:
            what.append(f"\n-> {each.advice}", style="bold")
        table.add_row(Text(each.level, style=STYLES[each.level]), Text(each.topic), what)
    console = Console()
    Console(width=max(console.width, LEAST_WIDTH)).print(table)
    counted = {level: sum(each.level == level for each in findings) for level in STYLES}
    print(", ".join(f"{number} {level}" for level, number in counted.items() if number))


def main() -> int:
    """The command."""
    return cli.run_alone(
        lambda: doctor(from_command_line(Config, sys.argv[1:], "python -m jaxnet doctor"))
    )
