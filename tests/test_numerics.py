"""The precision of matrix products, and determinism: set before JAX starts, recorded, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import Bundle, numerics
from jaxnet.app.run_options import Numerics
from jaxnet.errors import InputError, UsageError
from jaxnet.numerics import DETERMINISTIC_FLAG, effective, in_force, matmul_precision

# In a process of its own: what commands import and set before JAX starts.
COMMANDS = """
import importlib, json, os, sys
from jaxnet.app.command_line import from_command_line
from jaxnet.app.run_options import started

for name in {names}:
    module = importlib.import_module("train." + name)
    config = started(from_command_line(module.Config, ["--deterministic"], name))
    assert config.numerics.deterministic, name
before_jax = "jax" not in sys.modules
started(from_command_line(module.Config, ["--matmul-precision", "bf16"], name))
import jax
print(json.dumps([before_jax, os.environ["XLA_FLAGS"], jax.config.jax_default_matmul_precision]))
"""
NAMES = [
    *("autoencode", "classify", "gan", "language", "masked"),
    *("recommend", "regress", "text", "translate", "vanishing"),
]


@pytest.mark.slow
def test_every_command_sets_xlas_flag_before_it_imports_jax():
    environ = {**os.environ, "XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
    code = COMMANDS.format(names=NAMES)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    before_jax, flags, precision = json.loads(done.stdout)
    assert before_jax
    assert flags == f"--xla_cpu_enable_fast_math=false {DETERMINISTIC_FLAG}"
    assert precision == "bfloat16"  # on processors


@pytest.mark.parametrize(
    ("option", "platform", "capability", "precision"),
    [
        ("tensorfloat32", "cpu", None, "highest"),
        ("BF16_BF16_F32", "gpu", "8.0", "bf16"),
        ("highest", "gpu", "9.0", "highest"),
        ("bfloat16", "gpu", "9.0", "tf32"),
        ("high", "gpu", "7.0", "highest"),
        (None, "gpu", None, None),
        (None, "tpu", None, "bf16"),
        ("float32", "tpu", None, "highest"),
        ("ANY_F8_ANY_F8_F32", "gpu", "9.0", None),
    ],
)
def test_what_jaxs_option_means_on_a_device(option, platform, capability, precision):
    assert effective(option, platform, capability) == precision


@pytest.mark.parametrize(
    ("precision", "text"),
    [("highest", "[HIGHEST, HIGHEST]"), ("tf32", "[HIGH, HIGH]"), ("bf16", "_type = bf16")],
)
def test_products_are_asked_for_in_that_precision(precision, text, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    matrix = jax.ShapeDtypeStruct((4, 4), np.float32)
    with matmul_precision(precision):
        assert text in jax.jit(jnp.matmul).lower(matrix, matrix).as_text()
    with matmul_precision(None):
        assert text not in jax.jit(jnp.matmul).lower(matrix, matrix).as_text()


def test_a_process_that_was_not_set_up_is_refused(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    Numerics().check()
    with pytest.raises(UsageError, match=r"in tf32, and .* the default of the device: call config"):
        Numerics("tf32").check()
    with pytest.raises(UsageError, match=DETERMINISTIC_FLAG):
        Numerics(deterministic=True).check()
    for precision in numerics.PRECISIONS:
        with matmul_precision(precision):
            Numerics(precision).check()


def test_a_hint_that_the_device_does_not_take_is_said(caplog):
    with matmul_precision("tf32"):
        Numerics("tf32").check()
    assert "tf32 was requested, and this device computes them in float32" in caplog.text


def test_the_flag_comes_too_late_once_jax_has_devices(monkeypatch):
    jax.devices()
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with pytest.raises(UsageError, match=f"start the process with XLA_FLAGS={DETERMINISTIC_FLAG}"):
        Numerics(deterministic=True).start()
    monkeypatch.setenv("XLA_FLAGS", DETERMINISTIC_FLAG)
    Numerics(deterministic=True).start()


def test_the_opposite_flag_is_refused():
    flags = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=false"}
    with pytest.raises(UsageError, match="xla_gpu_deterministic_ops=false"):
        numerics.deterministic_environment(flags)
    once = numerics.deterministic_environment({})
    assert numerics.deterministic_environment(once) == once == {"XLA_FLAGS": DETERMINISTIC_FLAG}


class Told(nn.Module):
    """Puts out which precision it was traced with, as a number."""

    @nn.compact
    def __call__(self, x):
        config = jax.config.jax_default_matmul_precision
        known = (None, "highest", "tensorfloat32", "bfloat16")
        return nn.Dense(1)(x) * 0 + known.index(config)


@pytest.mark.slow
def test_a_bundle_predicts_with_the_precision_of_training(tmp_path):
    x = np.ones((2, 3), np.float32)
    weights = Told().init(jax.random.key(0), x)
    for number, precision in enumerate((None, *numerics.PRECISIONS)):
        bundle = Bundle(
            Told(), weights, jax.ShapeDtypeStruct((3,), np.float32), matmul_precision=precision
        )
        bundle.save(tmp_path, with_model=False)
        loaded = Bundle.load(tmp_path, Told())
        assert loaded.matmul_precision == precision
        assert loaded.predict(x).tolist() == [[number], [number]]


def test_a_bundle_of_before_leaves_it_to_the_device_and_one_of_later_is_refused(tmp_path):
    weights = {"params": {"kernel": np.eye(3, dtype=np.float32)}}
    model = nn.Dense(3, use_bias=False)
    Bundle(model, weights, jax.ShapeDtypeStruct((3,), np.float32)).save(tmp_path)
    file = tmp_path / "bundle.json"
    values = json.loads(file.read_text())
    del values["matmul_precision"]
    file.write_text(json.dumps(values))
    assert Bundle.load(tmp_path).matmul_precision is None
    file.write_text(json.dumps({**values, "matmul_precision": "fp8"}))
    with pytest.raises(InputError, match="matmul_precision is 'fp8'"):
        Bundle.load(tmp_path)


def test_here_products_are_float32():
    assert in_force() == "highest"
