"""Tasks that aren't classification: many devices do what one does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import optax
import pytest

from jaxnet import losses
from jaxnet.data import draw_interactions
from jaxnet.losses.adversarial import GAMES
from jaxnet.losses.density import bernoulli
from jaxnet.models import (
    VAE,
    Autoencoder,
    DenseDecoder,
    DenseDiscriminator,
    DenseEncoder,
    DenseGenerator,
    Transformer,
    TwoTower,
)
from jaxnet.parallel import Layout
from jaxnet.training import Retrieval, TeacherForcing
from jaxnet.training.tasks.adversarial import Adversarial
from jaxnet.training.tasks.reconstruction import GaussianNoise, Reconstruction
from jaxnet.training.tasks.variational import Variational
from tests.parallel.equality import assert_leaves
from tests.parallel.helpers import take_steps

ROWS, STEPS = 16, 3
Case = tuple[Any, list[dict[str, Any]]]


def rows(column: Callable[[np.random.Generator], Any]) -> list[dict[str, Any]]:
    """Batches, the last rows of which are padding."""
    draw = np.random.default_rng(0)
    mask = np.arange(ROWS) < ROWS - 3
    return [{**column(draw), "mask": mask} for _ in range(STEPS)]


def images(draw: np.random.Generator) -> dict[str, Any]:
    return {"inputs": draw.random((ROWS, 8, 8, 1), np.float32)}


def game(**options: Any) -> Case:
    players = DenseGenerator((8, 8, 1), (16,)), DenseDiscriminator((16,), dropout=0.0)
    sgd = optax.sgd(0.05)
    return Adversarial(*players, sgd, sgd, latent=4, **options), rows(images)


def penalised() -> Case:
    return game(game=GAMES["wasserstein"], critic_steps=2, gradient_penalty=10.0)


def variational() -> Case:
    model = VAE(DenseEncoder(8, (16,)), DenseDecoder((8, 8, 1), (16,)))
    return Variational(model, bernoulli, optax.sgd(0.01)), rows(images)


def denoising() -> Case:
    model = Autoencoder(DenseEncoder(4, (16,)), DenseDecoder((8, 8, 1), (16,)))
    task = Reconstruction(model, bernoulli, optax.sgd(0.01), noise=GaussianNoise(0.3))
    return task, rows(images)


def translation() -> Case:
    model = Transformer(16, 16, 1, 2, 32, 0.0, pre_norm=True)
    loss = losses.masked(partial(losses.cross_entropy, label_smoothing=0.1), ignored=0)

    def sentences(draw: np.random.Generator) -> dict[str, Any]:
        tokens = draw.integers(4, 16, (2, ROWS, 8))
        # Each row has a length of its own, so that the rows of a device aren't all that count.
        tokens[:, np.arange(8) >= draw.integers(2, 9, (ROWS, 1))] = 0
        source, target = tokens.astype(np.int32)
        return {"inputs": source, "labels": target}

    return TeacherForcing(model, loss, optax.sgd(0.1)), rows(sentences)


def candidates() -> Case:
    pairs, _ = draw_interactions(users=60, items=20, each=8)
    users, items = pairs.known_users.column_sizes(), pairs.known_items.column_sizes()
    frequencies = losses.log_frequencies(pairs.items, 20)
    task = Retrieval(
        TwoTower(users, items, 4, (6,), 3),
        partial(losses.in_batch_softmax, log_q=frequencies),
        optax.sgd(0.1),
        catalogue=pairs.known_items.columns(),
    )

    def some(draw: np.random.Generator) -> dict[str, Any]:
        chosen = pairs.take(draw.permutation(len(pairs))[:ROWS])
        return chosen.arrays(chosen.items).columns()

    return task, rows(some)


CASES = {
    "game": game,
    "game with a penalty": penalised,
    "variational": variational,
    "denoising": denoising,
    "translation": translation,
    "candidates": candidates,
}


@cache
def on_one_device(name: str) -> list[Any]:
    return take_steps(*CASES[name](), Layout())


FSDP = Layout(fsdp=4, fsdp_min_size=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout"),
    [(name, FSDP if name == "game" else Layout(data=4)) for name in CASES],
    ids=list(CASES),
)
def test_every_leaf_is_that_of_one_device(name, layout):
    taken = take_steps(*CASES[name](), layout)
    for got, expected in zip(taken, on_one_device(name), strict=True):
        assert_leaves(got, expected)
