"""`python -m train.gan`, as a user runs it, on digits."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxnet import Bundle
from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.report.pictures import CAPTION
from tests.parallel.jobs import Job
from train.gan import PROGRAM, Config, train

QUICK = ["--no-progress", "--epochs", "2", "--batch-size", "60"]


def gan(*arguments: str | Path) -> int:
    dense, small = "--network.hidden 32", "--network.features 4 --network.stages 1"
    size = dense if "dense" in arguments else small
    words = [*QUICK, *size.split(), *map(str, arguments)]
    return cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))


def pixels(picture: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(picture) as image:
        return np.asarray(image)


def check_run_folder(folder: Path) -> dict:
    """Complete, and with no picture that is empty."""
    pictures = ["generated", "interpolation", "real", "losses", "curves"]
    for name in [*pictures, "samples/epoch_1", "samples/epoch_2"]:
        assert pixels(folder / f"{name}.png").std() > 1, name
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stop_reason"] == "epochs"
    assert summary["best_step"] == summary["last_step"] == 2 * 21
    noise = np.random.default_rng(0).normal(size=(3, 100)).astype(np.float32)
    images = Bundle.load(folder / "bundle").predict(noise)
    assert images.shape == (3, 8, 8, 1)
    assert np.abs(images).max() <= 1
    return summary


@pytest.mark.slow
def test_a_convolutional_game(tmp_path):
    """DCGAN's is this one without the penalty and the average."""
    words = ["--model", "wgan_gp", "--rules.ema", "0.9", "--run-dir", tmp_path]
    assert gan(*words) == cli.DONE
    assert "classes_seen" not in check_run_folder(tmp_path)
    header = (tmp_path / "history.csv").read_text().splitlines()[0].split(",")
    assert "gradient_penalty" in header


@pytest.mark.slow
def test_a_dense_game_leaves_its_pictures_its_generator_and_what_its_judge_read(tmp_path):
    words = ["--model", "dense", "--judge", "train", "--run-dir", tmp_path]
    assert gan(*words) == cli.DONE
    summary = check_run_folder(tmp_path)
    assert "gradient_penalty" not in (tmp_path / "history.csv").read_text().splitlines()[0]
    # The same noise in every picture: the last one shows what the end shows.
    last = pixels(tmp_path / "samples" / "epoch_2.png")
    title = 2 * CAPTION
    np.testing.assert_array_equal(last[title:], pixels(tmp_path / "generated.png")[title:])
    first = pixels(tmp_path / "samples" / "epoch_1.png").astype(int)
    assert np.abs(first - last).mean() > 1
    # A finished run isn't trained again.
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert gan(*words) == cli.DONE
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert 1 <= summary["classes_seen"] <= 10
    assert 0.1 < summary["confidence"] <= 1
    assert 1 <= summary["inception_score"] <= 10
    judged = json.loads((tmp_path / "judge" / "summary.json").read_text())
    assert judged["test_accuracy"] > 0.9
    # Its bundle serves another run.
    again = ["--model", "dense", "--judge", tmp_path / "judge", "--run-dir", tmp_path / "again"]
    assert gan(*again) == cli.DONE
    other = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert other["classes_seen"] == summary["classes_seen"]


JUDGE = """
import sys, time
from pathlib import Path
import jax
from jaxnet.app import cli
from jaxnet.app.run_options import Layout
from train import classify, gan

home = Path(sys.argv[1])
bundle = home / "bundle" / "bundle.json"

def train(config):  # the first process writes, and the others return at once
    assert config.layout.data == 2 and config.batch_size % 50 == 0
    if jax.process_index() == 0:
        time.sleep(2)
        bundle.parent.mkdir(parents=True)
        bundle.touch()
    return cli.DONE

def work():
    code = gan.train_judge(gan.Config(layout=Layout(data=2), run_dir=home.parent), 100)
    assert bundle.exists()
    return code

classify.train = train
sys.exit(cli.run(work))
"""


@pytest.mark.slow
def test_processes_wait_for_the_judges_bundle(tmp_path):
    with Job([sys.executable, "-c", JUDGE, str(tmp_path / "judge")], 2) as job:
        for number, (code, errors) in job.ends().items():
            assert code == cli.DONE, f"process {number}: {errors}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "dcgn"], cli.WRONG_USAGE, "unknown model 'dcgn'; did you mean 'dcgan'?"),
        (["--data", "titanic"], cli.WRONG_USAGE, "unknown data 'titanic'"),
        (["--rules.game", "poker"], cli.WRONG_USAGE, "unknown game 'poker'"),
        (["--rules.ema", "2"], cli.WRONG_USAGE, "expected --rules.ema from 0 to below 1, got 2.0"),
        (["--network.latent", "0"], cli.WRONG_USAGE, "latent of at least 1"),
        (
            ["--rules.critic-steps", "0"],
            cli.WRONG_USAGE,
            "--rules.critic-steps of at least 1, got 0",
        ),
        (
            ["--rules.discriminator-rate", "0"],
            cli.WRONG_USAGE,
            "--rules.discriminator-rate above 0",
        ),
        (["--network.features", "0"], cli.WRONG_USAGE, "expected --network.features of at least 1"),
        (["--layout.stage", "2"], cli.WRONG_USAGE, "--layout.stage 2: it shares out"),
        (["--layout.expert", "-1"], cli.WRONG_USAGE, "--layout.expert -1: it shares out"),
        (["--network.stages", "4"], cli.FAILED, "only if 16 divides both"),
        (["--techniques.accumulate", "2"], cli.WRONG_USAGE, "accumulate needs a task that"),
        (["--techniques.clip", "1"], cli.WRONG_USAGE, "Adversarial has a step of its own"),
        (["--early-stopping.monitor", "loss"], cli.WRONG_USAGE, "generator_loss"),
        (["--judge", "absent"], cli.FAILED, "absent"),
        (["--model", "wgan_gp", "--batch-size", "64"], cli.WRONG_USAGE, "that 5 divides"),
    ],
)
def test_wrong_use_is_a_message_and_an_exit_code(arguments, code, message, tmp_path, capsys):
    try:
        assert gan("--run-dir", tmp_path / "run", *arguments) == code
    except SystemExit as exit:  # what the command line itself refuses
        assert exit.code == code
    assert message in capsys.readouterr().err
