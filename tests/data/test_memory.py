"""Memory on its way to the device: used again, and never while somebody looks at it."""

from __future__ import annotations

import gc

import jax
import numpy as np
import pytest

from jaxnet.data.pipeline.memory import ALIGNMENT, Memory


def test_memory_is_used_again_but_not_while_it_is_held():
    memory = Memory()
    first = memory.array((4, 3), np.float32)
    row = first[1]
    address = first.ctypes.data
    del first
    assert memory.array((4, 3), np.float32).ctypes.data != address  # `row` holds it
    del row
    assert memory.array((3, 4), np.float32).ctypes.data == address
    other = memory.array((5, 3), np.float32)
    assert other.ctypes.data % ALIGNMENT == 0


def test_an_array_on_the_device_keeps_its_contents():
    memory = Memory()
    kept = []
    for number in range(50):
        array = memory.array((100, 100), np.float32)
        array[...] = number
        kept.append(jax.device_put(array))
        del array
    for number, array in enumerate(kept):
        assert (np.asarray(array) == number).all()
    addresses = {array.unsafe_buffer_pointer() for array in kept}
    assert len(addresses) == 50
    del kept, array
    gc.collect()
    jax.device_put(np.float32(0)).block_until_ready()  # JAX lets go of what it held
    again = [memory.array((100, 100), np.float32).ctypes.data for _ in range(2)]
    assert set(again) <= addresses


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.float64])
def test_memory_of_any_type(dtype):
    array = Memory().array((3, 0, 2), dtype)
    assert array.shape == (3, 0, 2) and array.dtype == dtype
    assert Memory().array((7,), dtype).flags.writeable
