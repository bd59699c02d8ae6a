"""Numerical settings of JAX: matmul precision and bitwise determinism.

PyTorch computes matrix products of float32 arrays in float32 by default
(`torch.set_float32_matmul_precision`). JAX leaves the precision to the device: CPUs use float32,
NVIDIA GPUs from Ampere on TF32 (11 bits of mantissa instead of 24), TPUs bfloat16 (8 bits). They
all accumulate in float32. This is independent of the dtype of a network (`mixed_precision`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

from jaxnet.errors import UsageError

log = logging.getLogger("jaxnet")

MatmulPrecision = Literal["highest", "tf32", "bf16"]
PRECISIONS: tuple[MatmulPrecision, ...] = get_args(MatmulPrecision)

# Their names in JAX's option `jax_default_matmul_precision`. Its "bfloat16" means the device's
# default, which on GPUs is TF32.
_JAX_NAMES: Mapping[MatmulPrecision, str] = {
    "highest": "highest",
    "tf32": "tensorfloat32",
    "bf16": "BF16_BF16_F32",
}
# All values of JAX's option except those for the device's default.
_MEANINGS: Mapping[str, MatmulPrecision] = {
    **dict.fromkeys(("highest", "float32", "F32_F32_F32"), "highest"),
    **dict.fromkeys(("high", "tensorfloat32", "TF32_TF32_F32"), "tf32"),
    "BF16_BF16_F32": "bf16",
}
_DEVICE_DEFAULT = (None, "default", "fastest", "bfloat16")
# NVIDIA's Ampere, the first with TF32 and bfloat16.
_AMPERE = (8, 0)

DETERMINISTIC_FLAG = "--xla_gpu_deterministic_ops=true"
"""With it XLA uses only deterministic operations on GPUs and doesn't autotune; an operation without
such a form fails to compile. CPUs and TPUs are deterministic anyway."""


def matmul_precision(precision: MatmulPrecision | None) -> AbstractContextManager[Any]:
    """A context that sets the precision of float32 matrix products and convolutions.

    Args:
        precision: `"highest"` is float32. `"tf32"` and `"bf16"` are hints, which CPUs ignore; for
            convolutions `"bf16"` keeps the device's default. None changes nothing.

    Raises:
        UsageError: an unknown precision.

    Example:
        >>> import jax
        >>> with matmul_precision("highest"):
        ...     product = jax.numpy.ones((2, 3)) @ jax.numpy.ones(3)
        >>> matmul_precision("half")
        Traceback (most recent call last):
        jaxnet.errors.UsageError: matmul precision: expected highest, tf32 or bf16, got 'half'
    """
    if precision is None:
        return nullcontext()
    if precision not in PRECISIONS:
        raise UsageError(f"matmul precision: expected highest, tf32 or bf16, got {precision!r}")
    import jax

    return jax.default_matmul_precision(_jax_name(precision))


def _jax_name(precision: MatmulPrecision) -> str:
    import jax

    # On CPUs XLA refuses some products with an explicit algorithm.
    device_default = precision == "bf16" and jax.default_backend() == "cpu"
    return "bfloat16" if device_default else _JAX_NAMES[precision]


def in_force() -> MatmulPrecision | None:
    """The current precision of float32 matrix products on this device; None if unknown."""
    import jax

    config: Any = jax.config
    device = jax.devices()[0]
    capability = getattr(device, "compute_capability", None)
    return effective(config.jax_default_matmul_precision, device.platform, capability)


def effective(
    option: str | None, platform: str, capability: str | None = None
) -> MatmulPrecision | None:
    """The precision that JAX's option results in on a device; None if unknown.

    Args:
        option: the value of `jax_default_matmul_precision`.
        platform: the platform of the device: `"cpu"`, `"gpu"`, `"tpu"`.
        capability: the compute capability of an NVIDIA GPU.

    Example:
        >>> effective(None, "cpu"), effective(None, "gpu", "9.0"), effective(None, "gpu", "7.5")
        ('highest', 'tf32', 'highest')
    """
    if platform == "cpu":
        return "highest"
    gpu = tuple(int(part) for part in capability.split(".")) if capability else None
    if platform == "gpu" and gpu is not None and gpu < _AMPERE:
        return "highest"
    if option in _DEVICE_DEFAULT:
        return "bf16" if platform == "tpu" else "tf32" if gpu else None
    return _MEANINGS.get(option)


def start(precision: MatmulPrecision | None, deterministic: bool) -> None:
    """Configure this process, before JAX initialises its devices.

    Args:
        precision: of float32 matrix products; None for the device's default.
        deterministic: see `DETERMINISTIC_FLAG`.

    Raises:
        UsageError: JAX has initialised its devices already, or `XLA_FLAGS` has the opposite flag.
    """
    if deterministic and not is_deterministic(os.environ):
        if "jax" in sys.modules and _has_devices():
            raise UsageError(
                "--deterministic sets an XLA flag, which JAX has read already: start the process "
                f"with XLA_FLAGS={DETERMINISTIC_FLAG}"
            )
        os.environ.update(deterministic_environment(os.environ))
    if precision is not None:
        import jax

        jax.config.update("jax_default_matmul_precision", _jax_name(precision))


def check_started(precision: MatmulPrecision | None, deterministic: bool) -> None:
    """Check that `start` configured this process; warn if its device ignores the precision.

    Raises:
        UsageError: JAX is configured otherwise.
    """
    import jax

    config: Any = jax.config
    found = config.jax_default_matmul_precision
    known = precision is None or found == _jax_name(precision)
    if not known and _MEANINGS.get(found) != precision:
        raise UsageError(
            f"the configuration asks for matrix products in {precision}, and in this process JAX "
            f"uses {found or 'the default of the device'}: call config.numerics.start() first"
        )
    if precision not in (None, in_force()):
        words = {"highest": "float32", None: "its default precision"}
        computes = words.get(in_force(), in_force())
        log.warning(
            "matrix products: %s was requested, and this device computes them in %s",
            precision,
            computes,
        )
    if deterministic and not is_deterministic(os.environ):
        raise UsageError(
            "the configuration asks for a deterministic run, and XLA_FLAGS lacks "
            f"{DETERMINISTIC_FLAG}: call config.numerics.start() before JAX starts"
        )


def is_deterministic(environ: Mapping[str, str]) -> bool:
    """Whether XLA is configured to be deterministic.

    Example:
        >>> is_deterministic({}), is_deterministic({"XLA_FLAGS": DETERMINISTIC_FLAG})
        (False, True)
    """
    return DETERMINISTIC_FLAG in environ.get("XLA_FLAGS", "").split()


def deterministic_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is bitwise deterministic, on GPUs too.

    Raises:
        UsageError: `XLA_FLAGS` has the opposite flag.
    """
    flags = environ.get("XLA_FLAGS", "").split()
    name = DETERMINISTIC_FLAG.partition("=")[0]
    opposite = [flag for flag in flags if flag.partition("=")[0] == name]
    if is_deterministic(environ):
        return dict(environ)
    if opposite:
        raise UsageError(
            f"XLA_FLAGS has {opposite[0]}, and a deterministic run needs {DETERMINISTIC_FLAG}"
        )
    return {**environ, "XLA_FLAGS": " ".join([*flags, DETERMINISTIC_FLAG])}


def _has_devices() -> bool:
    """Whether JAX has started its devices: it refuses another number of them then."""
    import jax

    config: Any = jax.config
    count = config.jax_num_cpu_devices
    try:
        jax.config.update("jax_num_cpu_devices", max(count, 0) + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", count)
    return False
