"""Strict everywhere: no silent promotion of types or ranks, and a warning is an error.

It stands here and not in tests/, so that the doctests of jaxnet/ and models/ run under it too.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The shapes in these modules' signatures are checked here and nowhere else: at run time they cost
# nothing. Only what is imported from here on is checked.
jaxtyping.install_import_hook(
    [
        "jaxnet.layers.activations",
        "jaxnet.layers.convolution",
        "jaxnet.layers.maxout",
        "jaxnet.layers.pooling",
        "jaxnet.layers.separable",
        "jaxnet.layers.sequential",
        "jaxnet.layers.transposed",
        "jaxnet.losses",
        "jaxnet.metrics",
    ],
    "beartype.beartype",
)

# A compilation cache of this session's own: processes that tests start share it, the user's stays
# as it is.
if "JAXNET_CACHE_DIR" not in os.environ:
    os.environ["JAXNET_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxnet-tests-")
    atexit.register(shutil.rmtree, os.environ["JAXNET_CACHE_DIR"], ignore_errors=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With JAXNET_NO_SKIPS=1, as in CI, a skipped test is a failure: nothing is left untried.

    Only what needs data that isn't part of the repository may be skipped where that is absent.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    refused = [report for report in skipped if "JAXNET_DATA_DIR" not in str(report.longrepr)]
    if reporter and refused and os.environ.get("JAXNET_NO_SKIPS"):
        for report in refused:
            reporter.write_line(f"skipped, but nothing may be: {report.nodeid}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
