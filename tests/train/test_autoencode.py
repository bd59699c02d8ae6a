"""`python -m train.autoencode`, as a user runs it, on digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxnet import Bundle
from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.app.reconstructions import SHOWN
from jaxnet.data import fit_range, load_digits, sample
from jaxnet.report.pictures import CAPTION, tiled
from tests.train.test_gan import pixels
from train.autoencode import PROGRAM, Config, train

DENSE, CONV = ["--network.hidden", "32"], ["--network.filters", "8"]


def autoencode(*arguments: str | Path) -> int:
    size = CONV if {"conv", "conv_vae"} & {*arguments} else DENSE
    words = ["--no-progress", *size, "--epochs", "3", *map(str, arguments)]
    return cli.run(lambda: train(from_command_line(Config, words, PROGRAM)))


def check_run_folder(folder: Path, *further: str) -> dict:
    """Complete, and with no picture that is empty."""
    names = ["reconstructions", "latent", "curves", "samples/epoch_1", "samples/epoch_3", *further]
    for name in names:
        assert pixels(folder / f"{name}.png").std() > 1, name
    images = load_digits().inputs[:5]
    outputs = Bundle.load(folder / "bundle").predict(images)
    assert outputs.shape == images.shape
    assert ((outputs >= 0) & (outputs <= 1)).all()
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_noise_is_removed_by_a_dense_autoencoder(tmp_path):
    assert autoencode("--noise", "0.5", "--run-dir", tmp_path) == cli.DONE
    summary = check_run_folder(tmp_path)
    assert summary["test_mse"] < 0.5 * 0.5**2  # that of the noisy images themselves
    # Clean, noisy and reconstructed images below one another.
    assert pixels(tmp_path / "reconstructions.png").shape[0] == 3 * (56 + 2) - 2 + 2 * CAPTION


@pytest.mark.slow
def test_a_variational_autoencoder_draws_its_plane(tmp_path):
    assert autoencode("--model", "vae", "--latent", "2", "--run-dir", tmp_path) == cli.DONE
    summary = check_run_folder(tmp_path, "generated", "plane")
    assert summary["test_elbo"] == -summary["test_loss"]
    parts = summary["test_reconstruction"] + summary["test_kl"]
    assert summary["test_loss"] == pytest.approx(parts, rel=1e-5)
    assert pixels(tmp_path / "reconstructions.png").shape[0] == 2 * (56 + 2) - 2 + 2 * CAPTION


@pytest.mark.slow
def test_pictures_are_of_the_network_that_is_evaluated(tmp_path):
    technique = ["--techniques.local-sgd-replicas", "2", "--techniques.ema", "0.99"]
    technique += ["--techniques.precision", "bf16"]
    few = ["--epochs", "1", "--early-stopping.patience", "9"]
    assert autoencode("--run-dir", tmp_path, *few, *technique) == cli.DONE
    parts = Config(data="digits").read()
    images = sample(parts.test).inputs[:SHOWN]
    predicted = Bundle.load(tmp_path / "bundle").predict(images)
    shown = np.stack([fit_range(sample(parts.train))(images), predicted])
    grid = tiled(shown)
    height, width = grid.shape[:2]
    for name in ("reconstructions", "samples/epoch_1"):
        # A title stands above the images, and what the rows are on their left.
        drawn = pixels(tmp_path / f"{name}.png")[-height:, -width:]
        drawn = drawn if drawn.ndim == grid.ndim else drawn[..., 0]
        np.testing.assert_allclose(drawn, grid, atol=1)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["conv", "conv_vae"])
def test_convolutional_ones(model, tmp_path):
    augmented = ["--augment.crop", "1"] if model == "conv" else ["--vae.binarize", "fixed"]
    assert autoencode("--model", model, *augmented, "--run-dir", tmp_path) == cli.DONE
    check_run_folder(tmp_path, *(["generated"] if model == "conv_vae" else []))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "va"], cli.WRONG_USAGE, "unknown model 'va'; did you mean 'vae'?"),
        (["--latent", "0"], cli.WRONG_USAGE, "latent of at least 1"),
        (["--noise", "-1"], cli.WRONG_USAGE, "noise of at least 0"),
        (["--model", "vae", "--vae.beta", "-1"], cli.WRONG_USAGE, "beta of at least 0"),
        (["--model", "vae", "--vae.binarize", "twice"], cli.WRONG_USAGE, "binarize"),
        (
            ["--model", "conv", "--network.filters", "4", "4", "4", "4"],
            cli.FAILED,
            "only if 16 divides both",
        ),
    ],
)
def test_wrong_use_is_a_message_and_an_exit_code(arguments, code, message, tmp_path, capsys):
    try:
        assert autoencode("--run-dir", tmp_path / "run", *arguments) == code
    except SystemExit as exit:  # what the command line itself refuses
        assert exit.code == code
    assert message in capsys.readouterr().err
