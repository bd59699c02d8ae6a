"""What JAX says of its devices and settings, and how it computes: two lines of JSON.

See `answers.ask`. The first line is printed before anything is computed, which might never end.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from jaxnet.doctor.answers import Device, Jax


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


def main() -> None:
    """The process."""
    print(json.dumps(asdict(answer())), flush=True)
    from jaxnet.doctor.arithmetic import tried

    print(json.dumps(asdict(tried())), flush=True)


if __name__ == "__main__":
    main()
