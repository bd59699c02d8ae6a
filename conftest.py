"""Strict everywhere: no silent promotion of types or ranks, and a warning is an error.

It stands here and not in tests/, so that the doctests of jaxnet/ and models/ run under it too.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxtyping
import pytest

# Doctests leave their last value in `builtins._`, and a list there breaks tyro's import.
import tyro  # noqa: F401

from jaxnet.cache import enable_compilation_cache

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# A CPU becomes eight devices, for tests/parallel; what uses one device uses the first.
jax.config.update("jax_num_cpu_devices", 8)

# The shapes in these modules' signatures are checked here and nowhere else: at run time they cost
# nothing. Only what is imported from here on is checked.
jaxtyping.install_import_hook(
    [
        "jaxnet.layers.activations",
        "jaxnet.layers.attention",
        "jaxnet.layers.convolution",
        "jaxnet.layers.experts",
        "jaxnet.layers.kv_cache",
        "jaxnet.layers.maxout",
        "jaxnet.layers.pooling",
        "jaxnet.layers.positions",
        "jaxnet.layers.nearest",
        "jaxnet.layers.separable",
        "jaxnet.layers.sequential",
        "jaxnet.layers.transformer",
        "jaxnet.layers.transposed",
        "jaxnet.losses",
        "jaxnet.metrics",
    ],
    "beartype.beartype",
)

# A compilation cache of this session's own: its workers and the processes that tests start share
# it, the user's stays as it is.
if "JAXNET_CACHE_DIR" not in os.environ:
    os.environ["JAXNET_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxnet-tests-")
    atexit.register(shutil.rmtree, os.environ["JAXNET_CACHE_DIR"], ignore_errors=True)
enable_compilation_cache()


@pytest.fixture(autouse=True, scope="module")
def _programs_end_with_their_module() -> Iterator[None]:
    """Compiled programs are let go: those of a whole session take up gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _loggers_are_silent_again() -> None:
    """A command in this process (`app.cli.run`) makes some talk, and later tests count lines."""
    for name in ("layout", "chosen", "resume"):
        logging.getLogger(f"jaxnet.{name}").setLevel(logging.NOTSET)


PASSED = os.environ.get("JAXNET_PASSED")
"""A file that lists tests that need not run again, and to which those are added that pass."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Examples in docstrings are slow: each operation in them is compiled by itself.

    What passed already is left out, so that CI's second run is only what its first one lacked.
    """
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.slow)
    if PASSED and Path(PASSED).exists():
        known = set(Path(PASSED).read_text().splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in known])
        items[:] = [item for item in items if item.nodeid not in known]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With JAXNET_NO_SKIPS=1, as in CI, a skipped test is a failure: nothing is left untried.

    Only what needs data that isn't part of the repository may be skipped where that is absent.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # a worker of pytest-xdist; the process that started it reports
        return
    if PASSED:
        with Path(PASSED).open("a") as file:
            file.writelines(f"{report.nodeid}\n" for report in reporter.stats.get("passed", []))
    skipped = reporter.stats.get("skipped", [])
    refused = [report for report in skipped if "JAXNET_DATA_DIR" not in str(report.longrepr)]
    if refused and os.environ.get("JAXNET_NO_SKIPS"):
        for report in refused:
            reporter.write_line(f"skipped, but nothing may be: {report.nodeid}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
