"""Programs written by hand, and programs that the compiler makes for eight devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.errors import InputError
from jaxnet.plan.collectives import Collective, axes_of, by_kind, group, moved, read

LOOP = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %p = (s32[], f32[4,2]{1,0}) parameter(0)
  %x = f32[4,2]{1,0} get-tuple-element(%p), index=1
  %cp = f32[4,2]{1,0} collective-permute(%x), channel_id=3, source_target_pairs={{0,1},{1,2},{3,0}}
  ROOT %t = (s32[], f32[4,2]{1,0}) tuple(%i, %cp)
}

%outer (p: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %ag = bf16[32,2]{1,0:T(8,128)} all-gather(%y), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  ROOT %w = (s32[], f32[4,2]{1,0}) while(%p), condition=%cond, body=%inner, TURNS
}

%cond (p: (s32[], f32[4,2])) -> pred[] {
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%yes (p: f32[4]) -> f32[4] {
  ROOT %a2a = (f32[1]{0}, /*index=1*/f32[1]{0}) all-to-all(%a, %b), replica_groups={{0,1},{2,3}}
}

%no (p: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}

ENTRY %main (x: f32[4,2]) -> f32[4,2] {
  %x = f32[4,2]{1,0} parameter(0)
  %ar = (f32[4,2]{1,0}, f32[]) all-reduce(%x, %l), replica_groups={}, to_apply=%add
  %one = f32[4]{0} all-reduce(%z), replica_groups={{0},{1},{2}}, to_apply=%add
  %rs = f32[3]{0} reduce-scatter(%z), replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
  %w = (s32[], f32[4,2]{1,0}) while(%t), body=%outer, condition=%cond, \
backend_config={"known_trip_count":{"n":"5"}}
  %c = f32[4]{0} conditional(%q, %u, %v), branch_computations={%no, %yes}
  %s = (f32[8]{0}, f32[64]{0}) all-gather-start(%z), replica_groups=[1,8]<=[8], dimensions={0}
  %d = f32[64]{0} all-gather-done(%s)
  ROOT %r = f32[4,2]{1,0} get-tuple-element(%w), index=1
}
"""
KNOWN = LOOP.replace("TURNS", 'backend_config={"known_trip_count":{"n":"3"},"x":{"y":"1"}}')


def test_a_program_by_hand():
    assert read(KNOWN) == (
        Collective("all-reduce", 4 * 8 + 4, tuple(range(8))),
        Collective("reduce-scatter", 4 * 12, (0, 2, 4, 6)),
        # [2,4]<=[4,2]T(1,0): 0..7 as 4 rows of 2, turned, so each column is a group.
        Collective("all-gather", 2 * 64, (0, 2, 4, 6), count=5),
        Collective("collective-permute", 4 * 8, (3, 0), count=15),
        Collective("all-to-all", 4 * 2, (0, 1)),
        Collective("all-gather", 4 * 64, tuple(range(8))),
    )


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    found = {one.kind: one for one in read(LOOP.replace("TURNS", "metadata={}"))}
    assert found["collective-permute"].unbounded and found["collective-permute"].count == 5
    assert not found["all-reduce"].unbounded


def test_groups_by_the_axes_of_a_mesh():
    ring = LOOP.replace("[2,4]<=[4,2]T(1,0)", "mesh['a'=2,'b'=2,'c'=2] {AXES}")
    for axes, members in (("'b'", (0, 2)), ("'a','c'", (0, 1, 4, 5))):
        (found,) = (c for c in read(ring.replace("AXES", axes)) if c.size == 2 * 64)
        assert found.group == members
    # 0..7 as 4 rows of 2, turned: 0, 2, 4, 6, 1, 3, 5, 7.
    turned = ring.replace("] {AXES}", "], device_ids=([4,2]T(1,0)) {'a'}")
    (found,) = (c for c in read(turned) if c.size == 2 * 64)
    assert found.group == (0, 1)
    with pytest.raises(InputError, match="written in an unknown way: %ag = "):
        read(ring.replace("AXES", "'a':(1)2"))


def test_what_a_device_sends():
    ring = tuple(range(4))
    sent = {
        kind: Collective(kind, 400, ring, 2).moved
        for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
    }
    half = {"all-gather": 600, "reduce-scatter": 600, "all-to-all": 600}
    assert sent == {"all-reduce": 1200, **half}
    assert Collective("collective-permute", 400, (0, 1), 2).moved == 800
    both = [Collective("all-reduce", 400, ring), Collective("all-gather", 400, ring)]
    assert moved(both) == 900
    assert by_kind(both) == {"all-reduce": (1, 600.0), "all-gather": (1, 300.0)}


def test_groups_and_axes_are_each_other_s_reverse():
    sizes = {"data": 2, "fsdp": 2, "tensor": 3}
    for axes in (("data",), ("fsdp", "tensor"), ("data", "tensor"), ("data", "fsdp", "tensor")):
        devices = group(sizes, axes)
        assert axes_of(devices, sizes) == axes
        assert len(devices) == np.prod([sizes[name] for name in axes])


def compiled(function, *arrays) -> tuple[Collective, ...]:
    return read(jax.jit(function).lower(*arrays).compile().as_text())


@pytest.fixture
def mesh():
    if jax.device_count() < 8:
        pytest.skip(f"needs 8 devices, and there are {jax.device_count()}")
    return jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


def test_loops_that_the_compiler_made(mesh):
    def step(x):
        def turn(x, _):
            x = lax.ppermute(x, "tensor", [(i, (i + 1) % 4) for i in range(4)])
            return lax.psum(x, "data"), None

        return lax.scan(turn, x, None, length=6)[0]

    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=P("data", "tensor"),
        out_specs=P("data", "tensor"),
        check_vma=False,
    )
    sharding = NamedSharding(mesh, P("data", "tensor"))
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32, sharding=sharding)
    found = {one.kind: one for one in compiled(mapped, x)}
    permute, reduce = found["collective-permute"], found["all-reduce"]
    assert (permute.size, permute.count) == (16, 6)
    assert (reduce.size, reduce.count, reduce.group) == (16, 6, (0, 4))
    assert axes_of(permute.group, dict(mesh.shape)) == ("tensor",)


def test_the_other_kinds_that_the_compiler_made(mesh):
    def step(x):
        whole = lax.all_gather(x, "tensor", tiled=True)
        parts = lax.psum_scatter(whole * 2, "tensor", tiled=True)
        return lax.all_to_all(parts, "tensor", 0, 0, tiled=True)

    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=P(("data", "tensor")), out_specs=P(("data", "tensor"))
    )
    sharding = NamedSharding(mesh, P(("data", "tensor")))
    x = jax.ShapeDtypeStruct((32, 3), jnp.float32, sharding=sharding)
    found = {one.kind: one for one in compiled(mapped, x)}
    assert {kind: one.size for kind, one in found.items()} == {
        "all-gather": 4 * 16 * 3,
        "reduce-scatter": 4 * 16 * 3,
        "all-to-all": 4 * 4 * 3,
    }
    assert {one.group for one in found.values()} == {(0, 1, 2, 3)}
