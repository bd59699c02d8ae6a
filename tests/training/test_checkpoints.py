"""Checkpoints: what goes in comes out, damage is found and named, and old ones go."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet.errors import CheckpointError, UsageError
from jaxnet.training import Checkpoints, Trainer, inventory
from jaxnet.training.checkpoints import CheckpointStore, read_arrays
from jaxnet.training.state import TrainState
from tests.training.helpers import MLP, bits, classifier, table

pytestmark = pytest.mark.usefixtures("shared_programs")


def _state(seed: int = 0, hidden: int = 4) -> TrainState:
    """A state with leaves of all the kinds that training makes."""
    rng = np.random.default_rng(seed)
    params = {
        "Dense_0": {"kernel": jnp.asarray(rng.normal(size=(3, hidden)), jnp.float32)},
        "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
    }
    return TrainState(
        step=jnp.asarray(seed, jnp.int32),
        params=params,
        collections={"batch_stats": {"mean": jnp.asarray(rng.normal(size=3), jnp.float32)}},
        opt_state=optax.chain(optax.clip(1.0), optax.adam(0.1)).init(params),
        key=jax.random.key(seed),
        memory={"skipped": jnp.asarray(True), "empty": {}},
    )


def _progress(best_step: int, **more: Any) -> dict[str, Any]:
    return {"stopping": {"best_step": best_step}, **more}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CheckpointStore]:
    opened = Checkpoints(tmp_path / "checkpoints").open()
    yield opened
    opened.close()


def _fill(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        store.save(step, _state(step), _progress(-1), -1)
    store.finish()


# --- what goes in comes out ---------------------------------------------------------------------


def test_a_state_comes_back_bit_for_bit(store):
    state = _state(7)
    progress = _progress(-1, history=[{"loss": 0.1 + 0.2}], sums=[[1e-308, 3.0]], reason=None)
    store.save(7, state, progress, -1)
    store.finish()
    restored = store.restore("last", jax.eval_shape(lambda: _state(7)))
    assert restored.step == 7
    assert bits(restored.state) == bits(state)
    assert jax.tree.structure(restored.state) == jax.tree.structure(state)
    assert restored.progress == progress


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_typed_keys_survive(impl, store):
    state = {"one": jax.random.key(3, impl=impl), "many": jax.random.split(jax.random.key(4), 3)}
    store.save(1, state, _progress(-1), -1)
    store.finish()
    restored = store.restore("last", jax.eval_shape(lambda: state)).state
    for name, key in state.items():
        assert restored[name].dtype == key.dtype
        assert (restored[name] == key).all()
    drawn = jax.random.normal(restored["one"], (4,))
    np.testing.assert_array_equal(drawn, jax.random.normal(state["one"], (4,)))


def test_a_state_may_be_donated_once_save_returns(store):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 2 + 1, state), donate_argnums=0)
    state = {"large": jnp.arange(3_000_000.0), "small": jnp.arange(3.0)}
    expected, like = bits(state), jax.eval_shape(lambda: state)
    store.save(1, state, _progress(-1), -1)
    for _ in range(3):
        state = overwrite(state)
    for leaf in jax.tree.leaves(state):
        leaf.block_until_ready().delete()
    store.finish()
    assert bits(store.restore("last", like).state) == expected


def test_a_new_store_finds_what_another_saved(store, tmp_path):
    _fill(store, 1, 2)
    other = Checkpoints(tmp_path / "checkpoints").open()
    assert other.steps() == [1, 2]
    assert bits(other.restore("last", _state()).state) == bits(_state(2))
    other.close()


def test_an_empty_store_has_nothing(store):
    assert store.restore("last", _state()) is None
    assert store.restore("best", _state()) is None


def test_arrays_can_be_read_without_the_model(store, tmp_path):
    _fill(store, 5)
    arrays = read_arrays(tmp_path / "checkpoints", 5)
    np.testing.assert_array_equal(
        arrays["params/Dense_0/kernel"], _state(5).params["Dense_0"]["kernel"]
    )
    np.testing.assert_array_equal(arrays["key"], jax.random.key_data(jax.random.key(5)))


# --- what hangs ---------------------------------------------------------------------------------


def test_a_save_that_hangs_is_an_exception_within_the_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNET_PROGRESS_TIMEOUT", "0.5")
    answers = threading.Event()
    store = Checkpoints(tmp_path / "checkpoints").open()
    try:
        monkeypatch.setattr(store, "_write_inventory", lambda: answers.wait(100))
        with pytest.raises(CheckpointError, match="saving has got no further since") as error:
            _fill(store, 1)
        assert str(tmp_path / "checkpoints") in str(error.value)
        store.close()  # which doesn't hang either
    finally:
        answers.set()
        store._manager.close()


HANGING = """
import sys, threading
from pathlib import Path
from jaxnet.app import cli
from jaxnet.training import Checkpoints
from tests.training.test_checkpoints import _progress, _state
def work():
    store = Checkpoints(Path(sys.argv[1])).open()
    store._write_inventory = lambda: threading.Event().wait()
    store.save(1, _state(1), _progress(1), 1)
    try:
        store.finish()
    finally:  # what would clean up in that folder may hang too
        threading.Event().wait()
sys.exit(cli.run(work))
"""


@pytest.mark.slow
def test_a_command_ends_where_a_save_hangs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HANGING, str(tmp_path)],
        env={**os.environ, "JAXNET_PROGRESS_TIMEOUT": "2"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1, done.stderr
    assert f"error: {tmp_path}: saving has got no further since" in done.stderr


# --- which are kept -----------------------------------------------------------------------------


def test_the_newest_and_the_best_are_kept(tmp_path):
    store = Checkpoints(tmp_path, keep=2).open()
    best = {1: 1, 2: 2, 3: 2, 4: 2, 5: 5, 6: 5}
    kept = {}
    for step, best_step in best.items():
        store.save(step, _state(step), _progress(best_step), best_step)
        store.finish()
        kept[step] = store.steps()
    assert kept == {1: [1], 2: [1, 2], 3: [2, 3], 4: [2, 3, 4], 5: [2, 4, 5], 6: [5, 6]}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["5", "6"]
    store.close()


def test_a_damaged_one_leaves_the_best_of_the_one_before_it(tmp_path):
    store = Checkpoints(tmp_path, keep=2).open()
    for step, best_step in {1: 1, 2: 1, 3: 1, 4: 4}.items():
        store.save(step, _state(step), _progress(best_step), best_step)
    store.finish()
    _cut(_data_file(tmp_path / "4"))
    assert store.restore("last", _state()).step == 3
    assert store.restore("best", _state()).step == 1
    store.close()


def test_slots_are_the_newest_and_the_best(store):
    for step in (1, 2, 3):
        store.save(step, _state(step), _progress(1), 1)
    store.finish()
    assert store.steps() == [1, 2, 3]
    for slot, step in (("last", 3), ("best", 1), (2, 2)):
        restored = store.restore(slot, _state())
        assert restored.step == step
        assert bits(restored.state) == bits(_state(step))


def test_the_last_is_the_best_where_none_was_judged_or_it_is(store):
    _fill(store, 4)
    assert store.restore("best", _state()).step == 4
    store.save(5, _state(5), _progress(5), 5)
    store.finish()
    assert store.restore("best", _state()).step == 5


def test_a_step_is_saved_once(store):
    _fill(store, 1)
    store.save(1, _state(2), _progress(-1), -1)
    store.finish()
    assert bits(store.restore("last", _state()).state) == bits(_state(1))


def test_saving_asks_nobody_whether_to_stop(store, monkeypatch):
    # JAX's service takes the number of each question for how far a process is: the loop's alone.
    asked = []
    service = "jax.experimental.multihost_utils.reached_preemption_sync_point"
    monkeypatch.setattr(service, lambda number: asked.append(number))
    _fill(store, 1)
    assert asked == []


def test_newer_ones_can_be_dropped_and_saved_again(store):
    _fill(store, 1, 2)
    store.drop_after(1)
    assert store.steps() == [1]
    store.save(2, _state(9), _progress(-1), -1)
    store.finish()
    assert bits(store.restore("last", _state()).state) == bits(_state(9))


@pytest.mark.parametrize("options", [{"keep": 0}, {"every_steps": 0}])
def test_impossible_values(options, tmp_path):
    with pytest.raises(UsageError, match=f"{next(iter(options))}|keep at least 1"):
        Checkpoints(tmp_path, **options)


# --- another model ------------------------------------------------------------------------------


def test_another_model_is_compared_leaf_by_leaf(store, tmp_path):
    _fill(store, 1)
    other = _state(hidden=6)
    other = replace(
        other,
        collections={},
        params={**other.params, "half": other.params["half"].astype(jnp.float32)},
        memory={**other.memory, "ema": jnp.zeros(2)},
    )
    with pytest.raises(CheckpointError) as raised:
        store.restore("last", other)
    message = str(raised.value)
    assert f"{tmp_path}/checkpoints/1 is a checkpoint of another model" in message
    assert "! params/Dense_0/kernel expected float32[3,6], got float32[3,4]" in message
    assert "! params/half expected float32[5], got bfloat16[5]" in message
    assert "+ collections/batch_stats/mean float32[3] (not expected)" in message
    assert "- memory/ema float32[2] (expected, missing)" in message
    assert "--no-resume" in message


def test_another_model_is_not_taken_for_damage(store, caplog):
    """The run must not go back to an older checkpoint, nor delete this one."""
    _fill(store, 1, 2)
    with pytest.raises(CheckpointError, match="of another model"):
        store.restore("last", _state(hidden=5))
    assert store.steps() == [1, 2]
    assert not caplog.records


# --- damage -------------------------------------------------------------------------------------


def _data_file(folder: Path) -> Path:
    """The largest file of arrays."""
    return max((folder / "state" / "d").iterdir(), key=lambda file: file.stat().st_size)


def _cut(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


def _remove(file: Path) -> Path:
    file.unlink()
    return file


def _flip(file: Path) -> Path:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(bytes(content))
    return file


def _empty(file: Path) -> Path:
    file.write_text("")
    return file


def _say(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


DAMAGES: dict[str, Callable[[Path], Path]] = {
    "data cut": lambda folder: _cut(_data_file(folder)),
    "data removed": lambda folder: _remove(_data_file(folder)),
    "data flipped": lambda folder: _flip(_data_file(folder)),
    "data emptied": lambda folder: _empty(_data_file(folder)),
    "manifest cut": lambda folder: _cut(folder / "state" / "manifest.ocdbt"),
    "metadata removed": lambda folder: _remove(folder / "state" / "_METADATA"),
    "progress cut": lambda folder: _cut(folder / "progress" / "metadata"),
    "progress removed": lambda folder: _remove(folder / "progress" / "metadata"),
    "progress flipped": lambda folder: _flip(folder / "progress" / "metadata"),
    "inventory removed": lambda folder: _remove(folder / "inventory.json"),
    "inventory cut": lambda folder: _cut(folder / "inventory.json"),
    "inventory emptied": lambda folder: _empty(folder / "inventory.json"),
    "inventory without files": lambda folder: _say(folder / "inventory.json", "{}"),
    "another step's": lambda folder: _copy_of_another(folder),
    "inventory of something else": lambda folder: _say(folder / "inventory.json", '{"state": 5}'),
}


def _copy_of_another(folder: Path) -> Path:
    shutil.rmtree(folder)
    return Path(shutil.copytree(folder.with_name("2"), folder))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints 1, 2 and 3; copy it."""
    store = Checkpoints(tmp_path_factory.mktemp("good"), keep=3).open()
    _fill(store, 1, 2, 3)
    store.close()
    return store.folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_the_one_before_it_is_used(
    damage, good, tmp_path, caplog, capfd
):
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    file = DAMAGES[damage](folder / "3")
    store = Checkpoints(folder).open()
    restored = store.restore("last", _state())
    store.close()
    assert restored.step == 2
    assert bits(restored.state) == bits(_state(2))
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert str(file) in warning.getMessage()
    assert "newest good checkpoint, step 2" in warning.getMessage()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_certain_one_that_is_damaged_is_an_error(damage, good, tmp_path):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    file = DAMAGES[damage](tmp_path / "1")
    with pytest.raises(CheckpointError) as raised:
        CheckpointStore(tmp_path, keep=2).restore(1, _state())
    assert str(file) in str(raised.value)
    assert "--no-resume" in str(raised.value)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("earlier", [False, True], ids=["parts", "one checksum a file"])
def test_a_single_bit_is_found_wherever_it_is(place, earlier, good, tmp_path, monkeypatch):
    monkeypatch.setattr(inventory, "PART", 1000)
    folder = tmp_path / "3"
    shutil.copytree(good / "3", folder)
    file = _data_file(folder)
    file.write_bytes(np.random.default_rng(0).bytes(4500))
    inventory.write_inventory(folder, "state", "progress")
    noted = json.loads((folder / "inventory.json").read_text())
    assert len(noted[str(file.relative_to(folder))]) == 1 + 5
    if earlier:  # as inventories were written before files were read in parts
        noted = {
            name: [size, zlib.crc32((folder / name).read_bytes())]
            for name, (size, *_) in noted.items()
        }
        (folder / "inventory.json").write_text(json.dumps(noted))
    inventory.check_inventory(folder)
    content = bytearray(file.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=f"{file} was changed: its checksum is wrong"):
        inventory.check_inventory(folder)


def test_all_damaged_names_them_all(good, tmp_path):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    files = [_cut(_data_file(tmp_path / "1")), _remove(_data_file(tmp_path / "2"))]
    files.append(_flip(tmp_path / "3" / "progress" / "metadata"))
    with pytest.raises(CheckpointError) as raised:
        CheckpointStore(tmp_path, keep=2).restore("last", _state())
    for file in files:
        assert str(file) in str(raised.value)
    assert "--no-resume" in str(raised.value)


def test_what_a_kill_left_of_a_save_is_ignored_and_cleared_away(good, tmp_path, caplog):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    for step in (4, 9):
        shutil.copytree(good / "3", tmp_path / f"{step}.orbax-checkpoint-tmp")
    store = Checkpoints(tmp_path).open()
    assert store.restore("last", _state()).step == 3
    assert not caplog.records
    store.save(4, _state(4), _progress(-1), -1)
    store.finish()
    assert bits(store.restore("last", _state()).state) == bits(_state(4))
    store.close()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["3", "4"]


def test_what_a_kill_left_of_a_deletion_is_not_restored(good, tmp_path, caplog):
    """Half of an old folder, with whatever files are left of it."""
    for rest in ("inventory.json", "progress"):
        folder = tmp_path / rest
        shutil.copytree(good, folder)
        kept = shutil.move(folder / "3" / rest, tmp_path / "kept")
        shutil.rmtree(folder / "3")
        (folder / "3").mkdir()
        shutil.move(kept, folder / "3" / rest)
        assert CheckpointStore(folder, keep=2).restore("last", _state()).step == 2


# --- no place to write --------------------------------------------------------------------------

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import jax, jax.numpy as jnp
from jaxnet.errors import CheckpointError
from jaxnet.training import Checkpoints

small = {"kernel": jnp.arange(4.0)}
large = {"kernel": jax.random.normal(jax.random.key(0), (int(sys.argv[2]),))}
progress = {"stopping": {"best_step": -1}}
store = Checkpoints(Path(sys.argv[1])).open()
store.save(1, small, progress, -1)
store.finish()
if sys.argv[3] == "limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
try:
    store.save(2, large, progress, -1)
    store.finish()
except CheckpointError as error:
    print(error)
else:
    raise SystemExit("the large state was saved")
store.close()
assert store.steps() == [1], store.steps()
assert (store.restore("last", small).state["kernel"] == small["kernel"]).all()
store.save(2, small, progress, -1)  # once there is room
store.close()
assert store.steps() == [1, 2], store.steps()
"""


def _fill_disk(tmp_path: Path, folder: Path, numbers: int, kind: str) -> None:
    script = tmp_path / "full_disk.py"
    script.write_text(FULL_DISK)
    command = [sys.executable, str(script), str(folder), str(numbers), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"{folder}/2" in done.stdout
    assert "the checkpoint of step 2 can't be written" in done.stdout
    assert "the newest good one is step 1" in done.stdout


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_an_error_and_the_earlier_one_stays(tmp_path):
    pytest.importorskip("resource", reason="limits of processes are a matter of Unix")
    _fill_disk(tmp_path, tmp_path / "checkpoints", 100_000, "limit")


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_the_earlier_one_stays(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes the rights of root")
    try:
        _fill_disk(tmp_path, disk / "checkpoints", 200_000, "disk")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_writes_that_end_after_a_failed_save_are_not_heard_of(tmp_path):
    """What tensorstore says when Orbax has closed its loop; all else is heard."""
    script = (
        "import sys, types; from pathlib import Path; import jax.numpy as jnp\n"
        "from jaxnet.training import Checkpoints\n"
        "sys.unraisablehook = lambda event: print(event.exc_value)\n"
        "store = Checkpoints(Path(sys.argv[1])).open()\n"
        "store.save(1, {'kernel': jnp.ones(2)}, {'stopping': {'best_step': -1}}, -1)\n"
        "store.close()\n"
        "for error in (RuntimeError('Event loop is closed'), RuntimeError('others')):\n"
        "    sys.unraisablehook(types.SimpleNamespace(exc_value=error, object=None))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "others\n"), done.stderr


def test_a_folder_that_cant_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
        with pytest.raises(CheckpointError, match=rf"{folder}: checkpoints can't be written here"):
            Checkpoints(folder).open()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc to write into")
def test_a_folder_that_cant_be_written_any_more_is_named_before_orbax_begins(store):
    """Orbax's threads would wait for minutes for folders that can't be made."""
    _fill(store, 1)
    (store.folder / ".probe-0").mkdir()  # as little to be written as on a read-only file system
    said = f"{store.folder}/2: the checkpoint of step 2 can't be written: Is a directory. Nothing"
    with pytest.raises(
        CheckpointError, match=f"{said} else is lost: the newest good one is step 1"
    ):
        store.save(2, _state(), _progress(2), 2)
    assert not [file for file in store.folder.iterdir() if "orbax" in file.name]


def test_a_folder_that_cant_be_written_is_named():
    with pytest.raises(CheckpointError, match=r"/proc/checkpoints: checkpoints can't be written"):
        Checkpoints(Path("/proc/checkpoints")).open()
    with pytest.raises(CheckpointError, match=r"/proc/self/fdinfo: checkpoints can't be written"):
        Checkpoints(Path("/proc/self/fdinfo")).open()


# --- a run --------------------------------------------------------------------------------------


def _fit(folder: Path, **options: Any) -> Any:
    trainer = Trainer(classifier(MLP(hidden=2)), checkpoints=Checkpoints(folder))
    return trainer.fit(table(8), **{"epochs": 1, "batch_size": 4, **options})


@pytest.mark.slow
def test_a_run_says_nothing_on_the_screen(tmp_path):
    script = "from tests.training.test_checkpoints import _fit, Path; import sys\n" + (
        "for epochs in (2, 3): _fit(Path(sys.argv[1]), epochs=epochs)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"seed": 5}, {"batch_size": 2}])
def test_another_seed_or_batch_size_cant_go_on(change, tmp_path):
    _fit(tmp_path)
    (name,) = change
    with pytest.raises(UsageError, match=rf"{tmp_path}: .*started with {name} .*--no-resume"):
        _fit(tmp_path, epochs=2, **change)
    assert json.loads((tmp_path / "2" / "progress" / "metadata").read_text())
    result = _fit(tmp_path, epochs=2, resume=False, **change)
    assert result.history["epoch"] == [1, 2]
