from __future__ import annotations

import numpy as np
import pytest

from benchmarks import batch_streams
from benchmarks.batch_streams import ARRAYS, GENERATOR, LOADER, Case


@pytest.mark.slow
def test_each_contender_is_timed_in_each_round_and_sees_all_rows():
    pytest.importorskip("torch")
    case = Case(6, (3,), 8, rows=64)
    for epoch in batch_streams.contenders(case).values():
        result = epoch()
        assert result.last_step == 8 and np.isfinite(result.history["loss"]).all()
    seconds = batch_streams.measure(case, rounds=2)
    assert list(seconds) == [ARRAYS, GENERATOR, LOADER]
    assert all(len(each) == 2 for each in seconds.values())
    np.testing.assert_allclose(batch_streams.ratios(seconds, ARRAYS), 1.0)
