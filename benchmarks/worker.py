"""A contender's own process: one JSON line in, one JSON line out (see `benchmarks.race`)."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

_PR_SET_PDEATHSIG = 1


def main() -> None:
    _die_with_the_race()
    replies = _own_stdout()
    job = json.loads(sys.stdin.readline())
    # Imported here, so that a thread pool sees the environment and nothing else before its library.
    from benchmarks.workloads import Workload, load, synthetic

    workload = Workload(**{k: _tuple(v) for k, v in job["workload"].items()})
    if job["synthetic"]:
        data = synthetic(workload, *job["synthetic"])
    else:
        data = load(workload, Path(job["data_dir"]) if job["data_dir"] else None)
    setup = importlib.import_module(job["module"]).setup
    contestant = setup(workload, data, job["options"])
    loss, seconds = _timed(contestant.train, 0)
    accuracy = contestant.evaluate()
    _reply(replies, loss=loss, seconds=seconds, accuracy=accuracy, source=data.source)
    for line in sys.stdin:
        loss, seconds = _timed(contestant.train, json.loads(line)["round"])
        _reply(replies, loss=loss, seconds=seconds)


def _timed(train: Any, round_index: int) -> tuple[float, float]:
    start = time.perf_counter()
    loss = train(round_index)
    return loss, time.perf_counter() - start


def _die_with_the_race() -> None:
    """Linux: be killed when the race is, because a stopped process wouldn't see its pipe close."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _own_stdout() -> IO[str]:
    """The pipe to the race, out of reach of whatever a library prints."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return pipe


def _reply(pipe: IO[str], **fields: Any) -> None:
    pipe.write(json.dumps(fields) + "\n")
    pipe.flush()


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
