"""Parameter averaging with the replicas on devices of their own."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from jaxnet.errors import UsageError
from jaxnet.parallel import Layout
from jaxnet.training import guard_nonfinite, local_sgd
from jaxnet.training.programs import Programs
from jaxnet.training.techniques.local_sgd import REPLICAS, averaged
from tests.parallel.equality import assert_leaves, collectives
from tests.training.helpers import classifier, make_batch

PLAIN = classifier(optimizer=optax.sgd(0.1))
LAYOUT = Layout(data=8, rules=REPLICAS)


def trained(task, count, layout):
    """The state after some steps, and the text of the step's program."""
    batch = make_batch(16, masked=3)
    mesh = layout.mesh()
    with jax.set_mesh(mesh):
        state = jax.jit(task.init)(jax.random.key(0), batch)
        lies = layout.shardings(state, mesh)
        state = jax.device_put(state, lies)
        batch = jax.device_put(batch, layout.batch(batch, mesh))
        step = jax.jit(task.train_step, out_shardings=(lies, None)).lower(state, batch).compile()
        for _ in range(count):
            state, _ = step(state, batch)
    return state, step.as_text()


@pytest.mark.slow
def test_with_a_period_of_1_it_is_data_parallel_training():
    replicas, _ = trained(local_sgd(PLAIN, 8, period=1), 3, LAYOUT)
    whole, _ = trained(PLAIN, 3, Layout(data=8))
    assert_leaves(averaged(replicas).params, whole.params, 1e-6)
    kernel = replicas.params["Dense_0"]["kernel"]
    assert kernel.shape[0] == 8 and kernel.sharding.shard_shape(kernel.shape)[0] == 1


def test_a_layout_gives_each_device_its_replicas():
    batch = jax.tree.map(np.asarray, make_batch(16))
    programs = Programs(guard_nonfinite(local_sgd(PLAIN, 8), "stop"), layout=Layout(data=4))
    kernel = programs.state(jax.random.key(0), batch).params["Dense_0"]["kernel"]
    assert kernel.shape[0] == 8 and kernel.sharding.shard_shape(kernel.shape)[0] == 2
    programs = Programs(local_sgd(PLAIN, 8), layout=Layout(data=4, fsdp=2))
    message = "local_sgd shards its replicas over data and can't be combined with fsdp=2"
    with pytest.raises(UsageError, match=message):
        programs.state(jax.random.key(0), batch)


@pytest.mark.slow
def test_devices_talk_about_parameters_only_where_they_meet():
    text = trained(local_sgd(PLAIN, 8, period=4), 0, LAYOUT)[1]
    params = (4 * 8 + 8 + 8 * 3 + 3) * 4
    # Each computation of a program begins with its name; those of a branch are not the main one.
    main = text[text.index("ENTRY") :]
    assert sum(size for _, size in collectives(text)) >= params
    assert sum(size for _, size in collectives(main)) < params / 2
