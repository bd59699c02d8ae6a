"""Strict everywhere: no silent promotion of types or ranks, and a warning is an error."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A compilation cache of this session's own: processes that tests start share it, the user's stays
# as it is.
if "JAXNET_CACHE_DIR" not in os.environ:
    os.environ["JAXNET_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxnet-tests-")
    atexit.register(shutil.rmtree, os.environ["JAXNET_CACHE_DIR"], ignore_errors=True)

DATA = Path(os.environ.get("JAXNET_DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder with MNIST's four IDX files, where it is at hand."""
    folder = DATA / "mnist"
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("MNIST is absent: set JAXNET_DATA_DIR to a folder that holds mnist/*.gz")
    return folder


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With JAXNET_NO_SKIPS=1, as in CI, a skipped test is a failure: nothing is left untried."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("JAXNET_NO_SKIPS") and skipped:
        for report in skipped:
            reporter.write_line(f"skipped, but nothing may be: {report.nodeid}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
