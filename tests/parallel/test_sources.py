"""Several processes train on data that is read as it goes, and come to what one process does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.parallel.jobs import Job, assert_same, result_of

pytest.importorskip("grain", reason="needs the extra [grain]")
pytestmark = pytest.mark.slow

KINDS = ("records", "image folder", "grain", "arrays")


def trained(folder: Path, processes: int) -> Path:
    with Job([sys.executable, "-m", "tests.parallel.sources", str(folder)], processes) as job:
        for number, (code, errors) in job.ends(timeout=150).items():
            assert code == 0, f"process {number}: {errors}"
    return folder


def test_every_kind_of_source_in_several_processes_is_as_in_one(tmp_path_factory):
    one, two, three = (trained(tmp_path_factory.mktemp(f"{n}"), n) for n in (1, 2, 3))
    for kind in KINDS:
        expected = result_of(one / kind)
        for several in (two, three):
            assert_same(result_of(several / kind), expected, 1e-6)
    # All kinds hold the same data.
    for kind in KINDS[1:]:
        assert_same(result_of(one / kind), result_of(one / KINDS[0]), 1e-6)
