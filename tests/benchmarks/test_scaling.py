from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import scaling
from benchmarks.race import Contender, Entry, Lap
from benchmarks.scaling import Options, Setting, outcomes, saving_seconds, settings

OPTIONS = Options(devices=(2, 4), axes=("data",), processes=(2,), batch_size=32, steps=10)


def entries(**laps: float) -> dict[Setting, Entry]:
    def entry(setting: Setting) -> Entry:
        lap = Lap(laps[setting.kind] * (1 if not setting.axis else setting.devices), 0.0, None)
        return Entry(Contender(setting.name, "jaxnet", ""), lap, 0.5, (lap, lap))

    return {setting: entry(setting) for setting in settings(OPTIONS)}


def test_settings_share_out_the_same_work():
    batches = {
        (s.kind, s.axis, s.devices): s.batch_size for s in settings(OPTIONS) if s.processes == 1
    }
    assert batches == {
        ("strong", "", 1): 32,
        ("weak", "", 1): 8,
        ("saving", "", 1): 32,
        ("strong", "data", 2): 32,
        ("weak", "data", 2): 16,
        ("strong", "data", 4): 32,
        ("weak", "data", 4): 32,
    }
    names = [setting.name for setting in settings(OPTIONS)]
    assert len(set(names)) == len(names)


def test_each_setting_gets_its_devices_and_processes(tmp_path):
    strong, weak = [setting for setting in settings(OPTIONS) if setting.processes > 1]
    assert (strong.devices, strong.batch_size) == (2, 32)
    assert (weak.devices, weak.batch_size) == (2, 16)
    assert strong.contender(OPTIONS, tmp_path).processes == 2
    assert strong.contender(OPTIONS, tmp_path).options["virtual"] == "1"
    (many,) = [s for s in settings(OPTIONS) if (s.kind, s.devices, s.processes) == ("weak", 4, 1)]
    assert many.contender(OPTIONS, tmp_path).processes == 1
    assert many.contender(OPTIONS, tmp_path).options["virtual"] == "4"
    assert "virtual" not in many.contender(replace(OPTIONS, virtual=False), tmp_path).options


@pytest.mark.parametrize("virtual", [True, False])
def test_ratios_are_against_what_one_device_does(virtual):
    options = replace(OPTIONS, virtual=virtual)
    measured = {o.setting: o for o in outcomes(options, entries(strong=1.0, weak=2.0, saving=1.5))}
    alone = measured[Setting("strong", "", 1, 32)]
    assert alone.seconds == (0.1, 0.1) and alone.ratios == (1.0, 1.0)
    strong = measured[Setting("strong", "data", 4, 32)]  # takes 4 s for 10 steps
    assert strong.seconds == (0.4, 0.4)
    assert strong.ratios == pytest.approx((4.0, 4.0) if virtual else (16.0, 16.0))
    weak = measured[Setting("weak", "data", 4, 32)]  # 8 s for 10 steps; 1 device 2 s for 40
    assert weak.ratios == pytest.approx((4.0, 4.0) if virtual else (16.0, 16.0))


def test_the_cost_of_a_save():
    measured = outcomes(OPTIONS, entries(strong=1.0, weak=1.0, saving=1.5))
    # 0.05 s more for each step, and a save every 4 steps.
    assert saving_seconds(OPTIONS, measured) == pytest.approx(0.2)


@pytest.mark.slow
def test_a_small_race(tmp_path, capsys, monkeypatch):
    # Settings differ in numbers only, and each is a process.
    all_of_them = scaling.settings
    monkeypatch.setattr(
        scaling, "settings", lambda options: [s for s in all_of_them(options) if s.kind != "weak"]
    )
    options = Options(
        devices=(2,),
        axes=("fsdp",),
        processes=(),
        batch_size=4,
        steps=2,
        save_steps=1,
        rounds=1,
        width=8,
        length=4,
        out=tmp_path,
    )
    scaling.main(options)
    written = json.loads((tmp_path / "scaling.json").read_text())
    assert [s["devices"] for s in written["settings"]] == [1, 1, 2]
    assert all(min(s["seconds"]) > 0 for s in written["settings"])
    assert "a save while training" in capsys.readouterr().out
