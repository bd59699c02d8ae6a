"""What functions over `jax.shard_map` rely on, and a trap in it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxnet.parallel import Layout
from jaxnet.parallel.shard_map_utils import batch_axes, free_axes, zeros_within
from tests.parallel.test_ring import draw


def loss(w, x):
    return jnp.square(x @ w).mean()


@pytest.mark.parametrize("form", ["as it comes", "varying"])
def test_the_gradient_by_a_replicated_parameter_is_a_sum_already(form):
    """JAX adds it up among devices where the parameter meets what differs from device to device.

    A mean over devices afterwards is then too large by their number, silently; so parameters are
    made varying first wherever the functions of `jaxnet.parallel` take gradients by hand.
    """
    mesh, w, x = Layout(data=8).mesh(), draw(3), draw(16, 3, seed=1)

    def local(w, x):
        if form == "varying":
            w = lax.pcast(w, "data", to="varying")
        return lax.pmean(jax.grad(loss)(w, x), "data")

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    times = 8 if form == "as it comes" else 1
    np.testing.assert_allclose(jax.jit(mapped)(w, x), times * jax.grad(loss)(w, x), rtol=1e-5)


def test_axes_that_are_mapped_already_are_not_free():
    seen = []

    def local(x):
        seen.append((dict(free_axes()), batch_axes()))
        return x + zeros_within(x.shape, x.dtype)

    with jax.set_mesh(Layout(data=2, fsdp=2, stage=2).mesh()):
        assert batch_axes() == ("data", "fsdp")
        specs = P(("stage", "data"))
        x = jax.shard_map(local, in_specs=specs, out_specs=specs, axis_names={"stage", "data"})(
            jnp.arange(8.0)
        )
    assert x.tolist() == list(range(8))
    free, batch = seen[0]
    assert not {"stage", "data"} & set(free) and free["fsdp"] == 2 and batch == ("fsdp",)
    assert not free_axes()
