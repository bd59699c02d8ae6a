"""`import jaxnet` touches no device, and the floors of the house hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import jaxnet

ROOT = Path(jaxnet.__file__).parent
# From the ground up: a room imports only from floors below its own.
FLOORS = [
    {"ending", "errors", "switch", "units", "versions"},
    {"digests", "files", "locks", "names", "options", "trees", "numerics"},
    {"cache"},
    {"schedules"},
    {"losses", "layers", "optimizers", "summary"},
    {"metrics", "compute"},
    {"data", "cluster"},
    {"parallel", "report"},
    {"inference", "predictions"},
    {"training", "module_json"},
    {"bundle_files"},
    {"bundle", "generation", "retrieval"},
    {"app"},
    {"plan"},
    {"doctor", "prove_resume", "generate", "translate", "launch"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


REPOSITORY = ROOT.parent
# Every module of the repository, by name.
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("jaxnet", "models", "train", "benchmarks")
    for path in (REPOSITORY / folder).rglob("*.py")
}


def imported(name: str) -> set[str]:
    """The modules of the repository that one imports: at any time, and for its types too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one if one in MODULES else str(node.module) for one in whole}
    # As they are called where jaxnet is installed.
    found = {re.sub(r"^jaxnet\.(models|train)\b", r"\1", one) for one in found}
    return (found & MODULES.keys()) - {name}


def test_nothing_imports_from_its_own_floor_or_above():
    for name in MODULES:
        top, *rest = name.split(".")
        if top != "jaxnet" or not rest or rest[0] == "models":
            continue
        for other in imported(name):
            assert other.partition(".")[0] == "jaxnet", f"{name} imports {other}"
            room = other.split(".")[1:2]
            if room and room != rest[:1]:
                assert FLOOR[room[0]] < FLOOR[rest[0]], f"{name} imports {other}"


def test_there_are_no_circles():
    left = {name: imported(name) for name in MODULES}
    while done := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in done}
    assert not left, f"circles of imports within {sorted(left)}"


def test_one_file_knows_orbax_and_one_place_jits():
    sources = {
        # Without the examples in docstrings.
        path: re.sub(r"^ *(>>>|\.\.\.) .*$", "", path.read_text(), flags=re.M)
        for path in ROOT.rglob("*.py")
    }
    orbax = [p.name for p, text in sources.items() if "import orbax" in text]
    assert orbax == ["checkpoints.py"]
    jits = {p.name for p, text in sources.items() if "jax.jit(" in text or "@jax.jit" in text}
    assert jits <= {"programs.py", "summary.py"}, jits
    assert not [p for p, text in sources.items() if "jax._src" in text]


def test_import_touches_no_device():
    code = (
        "import jax, flax, jaxnet\n"
        "from jaxnet import Bundle, Supervised, Trainer, data, losses, metrics, optimizers\n"
        "import jaxnet.app.run_folder, jaxnet.app.run_options, models\n"
        "jax.config.update('jax_platforms', 'none such')  # fails once a device has been touched\n"
        "try:\n"
        "    jax.devices()\n"
        "except RuntimeError:\n"
        "    print('untouched')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "untouched\n"
