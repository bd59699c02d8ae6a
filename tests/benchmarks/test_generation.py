from __future__ import annotations

import pytest

from benchmarks import generation
from tests.models import parity


@pytest.mark.slow
def test_all_contenders_write_the_same_tokens(tmp_path):
    parity.transformers()
    options = generation.Options(
        prompt=4, new_tokens=6, vocab_size=50, features=16, num_layers=1, num_heads=2, rounds=2
    )
    generation._save_weights(options, tmp_path / "weights.npz")
    speeds = generation.race(options, tmp_path / "weights.npz", batch=2)
    assert set(speeds) == set(generation.CONTENDERS)
    assert all(len(each) == 2 and min(each) > 0 for each in speeds.values())
