"""Checkpoints go from one layout to another, bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import optax
import pytest

from jaxnet.parallel import Layout
from jaxnet.training import Checkpoints, Trainer, with_ema
from tests.parallel.equality import assert_leaves
from tests.parallel.helpers import plain, supervised
from tests.parallel.test_training import HYBRID, Dropped, rows
from tests.training.helpers import bits

OTHERS = {
    "the same": HYBRID,
    "1 device": Layout(),
    "2 devices": Layout(data=2),
    "4 devices": Layout(fsdp=4, fsdp_min_size=16),
    "another layout": Layout(data=4, tensor=2, rules=(("Dense_1/kernel", ("tensor",)),)),
}


def trainer(layout: Layout, folder: Any = None) -> Trainer:
    task = with_ema(supervised(Dropped(), optax.adam(1e-2)), 0.9)
    checkpoints = Checkpoints(folder, min_seconds=0) if folder else None
    return Trainer(task, layout=layout, checkpoints=checkpoints)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Any:
    """Two epochs on eight devices."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    return folder, trainer(HYBRID, folder).fit(rows(), epochs=2, batch_size=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_eight_devices_restores(name, saved):
    folder, result = saved
    programs = trainer(OTHERS[name]).programs
    batch = {k: v for k, v in zip(("inputs", "labels"), (x[:8] for x in rows()), strict=True)}
    batch["mask"] = batch["labels"] >= 0
    like = programs.state(jax.random.key(0), batch)
    store = Checkpoints(folder).open()
    restored = store.restore("last", like)
    store.close()
    assert restored is not None and restored.step == result.last_step
    assert bits(restored.state) == bits(result.state)
    if programs.on_mesh is None:
        assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(restored.state))
        return
    for leaf, wanted in zip(jax.tree.leaves(restored.state), jax.tree.leaves(like), strict=True):
        assert leaf.sharding == wanted.sharding


@pytest.mark.slow
@pytest.mark.parametrize("name", ["the same", "1 device", "another layout"])
def test_a_run_goes_on_under_another_layout(name, saved, tmp_path):
    folder = tmp_path / "checkpoints"
    trainer(HYBRID, folder).fit(rows(), epochs=1, batch_size=8)
    resumed = trainer(OTHERS[name], folder).fit(rows(), epochs=2, batch_size=8)
    if name == "the same":
        assert bits(resumed.state) == bits(saved[1].state)
    assert_leaves(plain(resumed.state).params, plain(saved[1].state).params, 1e-3)
    assert len(resumed.history) == 2
