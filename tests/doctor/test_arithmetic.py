"""The reproducers are right, but for the rare ones that this release is known to get wrong."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.doctor.arithmetic import REPRODUCERS, TOLERANCE, Reproducer
from jaxnet.versions import release

JAXLIB = metadata.version("jaxlib")


def known(each: Reproducer) -> bool:
    since = each.right_since
    return since == "?" or (since is not None and release(JAXLIB, 3) < release(since, 3))


@pytest.mark.parametrize("each", REPRODUCERS, ids=lambda each: each.issue)
def test_what_is_wrong_is_known(each):
    error = each.error()
    if known(each):
        assert each.rare and error > TOLERANCE, f"{each.issue} is right now: set right_since"
    else:
        assert error <= TOLERANCE


def test_each_is_there_once():
    assert len({each.issue for each in REPRODUCERS}) == len(REPRODUCERS) >= 12


def test_wrong_numbers_are_found():
    sum_of_four = Reproducer("", "", lambda: (np.ones(4, np.float32),), jnp.sum, np.sum)
    assert sum_of_four.error() == 0
    assert replace(sum_of_four, expected=lambda x: 4.01).error() > TOLERANCE
    assert replace(sum_of_four, computed=lambda x: jnp.sum(x) / 0).error() == np.inf
    assert replace(sum_of_four, computed=lambda x: x).error() == np.inf
