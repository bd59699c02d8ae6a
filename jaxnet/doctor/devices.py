"""What JAX says of its devices and settings, as a line of JSON; see `facts.Jax`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from jaxnet.doctor.facts import Device, Jax


def answer() -> Jax:
    """Ask JAX; this touches the devices of this process."""
    import jax

    from jaxnet.cache import cache_folder

    config: Any = jax.config
    chosen = config.jax_compilation_cache_dir or cache_folder()
    return Jax(
        devices=tuple(map(_device, jax.local_devices())),
        x64=config.jax_enable_x64,
        matmul_precision=config.jax_default_matmul_precision,
        promotion=config.jax_numpy_dtype_promotion,
        cache=None if chosen is None else str(chosen),
    )


def _device(device: Any) -> Device:
    memory = device.memory_stats() or {}
    used, limit = memory.get("bytes_in_use"), memory.get("bytes_limit")
    return Device(device.platform, device.device_kind, used, limit)


if __name__ == "__main__":
    print(json.dumps(asdict(answer())))
