"""The best state is kept where it takes no memory that training needs."""

from __future__ import annotations

import gc
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxnet import EarlyStopping
from jaxnet.training import Trainer, guard_nonfinite, kept
from jaxnet.training.kept import Kept
from tests.training.helpers import MLP, classifier, table

pytestmark = pytest.mark.usefixtures("shared_programs")


def live_bytes() -> int:
    return sum(array.nbytes for array in jax.live_arrays() if not array.is_deleted())


class Watch:
    """Measures what lives on the device after each dispatch, beside what lived before."""

    looks = False

    def __init__(self) -> None:
        gc.collect()  # what earlier tests left would be taken for memory that this one gave back
        self.before, self.most = live_bytes(), 0

    def on_chunk(self, step: int, loss: float | None) -> None:
        self.most = max(self.most, live_bytes() - self.before)


@pytest.mark.parametrize(("limit", "states"), [(1 << 30, 3), (0, 2)])
def test_a_large_best_state_is_kept_on_the_host(limit, states, monkeypatch):
    monkeypatch.setattr(kept, "ON_DEVICE_BYTES", limit)
    watch = Watch()
    trainer = Trainer(
        guard_nonfinite(classifier(MLP(hidden=20_000)), "stop"),
        EarlyStopping(monitor="val_loss"),
        callbacks=[watch],
    )
    result = trainer.fit(table(20), table(10, 1), epochs=3, batch_size=10)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(result.state))
    assert states - 0.1 < watch.most / size < states + 0.1
    assert result.best_step > 0


def test_a_run_is_the_same_wherever_its_best_state_was(monkeypatch):
    found: list[Any] = []
    for limit in (1 << 30, 0):
        monkeypatch.setattr(kept, "ON_DEVICE_BYTES", limit)
        result = Trainer(classifier()).fit(table(20), table(10, 1), epochs=4, batch_size=5)
        found.append((jax.tree.map(np.asarray, result.state.params), result.best_step))
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("data"), PartitionSpec(None, "x")])
def test_shards_come_back_to_their_devices(spec, monkeypatch):
    monkeypatch.setattr(kept, "ON_DEVICE_BYTES", 0)
    mesh = jax.make_mesh((2, 2), ("data", "x"), devices=jax.devices()[:4])
    sharding = NamedSharding(mesh, spec)
    values = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    state = {"kernel": jax.device_put(values, sharding), "key": jax.random.key(3)}
    held = Kept.of(state, lambda _: pytest.fail("it was copied on the devices"))
    expected = np.array(jax.random.key_data(state["key"]))
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    back = held.state()
    np.testing.assert_array_equal(back["kernel"], values)
    assert back["kernel"].sharding == sharding
    np.testing.assert_array_equal(jax.random.key_data(back["key"]), expected)
