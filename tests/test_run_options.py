"""The configuration's parts, as what they build."""

from __future__ import annotations

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.app.optimizer_options import Optimizer
from jaxnet.app.technique_options import Augment
from jaxnet.data.augmentation import compose
from jaxnet.errors import UsageError

# A value of each field that shows.
CHOSEN = {
    "flip": True,
    "flip_up_down": True,
    "crop": 2,
    "resized_crop": 0.25,
    "rotate": 20.0,
    "translate": 0.2,
    "zoom": 0.2,
    "shear": 20.0,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.2,
    "grayscale": 0.5,
    "noise": 0.1,
    "cutout": 3,
    "erase": 0.5,
    "mixup": 0.5,
    "cutmix": 1.0,
}


@pytest.mark.slow
def test_every_field_augments():
    assert {field.name for field in fields(Augment)} == {*CHOSEN, "auto", "reflect"}
    images = np.random.default_rng(0).uniform(size=(16, 8, 8, 3)).astype(np.float32)
    batch = {
        "inputs": jnp.asarray(images),
        "labels": jnp.arange(16),
        "mask": jnp.ones(16, bool),
    }

    def all_of_them(key, batch):
        made = {name: Augment(**{name: value}) for name, value in CHOSEN.items()}
        return {name: compose(*one.functions())(key, batch)["inputs"] for name, one in made.items()}

    for name, varied in jax.jit(all_of_them)(jax.random.key(0), batch).items():
        assert (np.asarray(varied) != images).any(), name

    whole = Augment(**CHOSEN, reflect=True)
    assert len(whole.functions()) == 14
    assert Augment().functions() == ()
    out = jax.jit(compose(*whole.functions()))(jax.random.key(0), batch)
    assert np.isfinite(out["inputs"]).all()


def test_what_suits_the_data_is_taken_where_nothing_was_chosen():
    usual = Augment(flip=True, crop=4)
    assert Augment().suited(usual) == usual
    assert Augment().suited(None) == Augment()
    for chosen in (Augment(auto=False), Augment(mixup=0.2), replace(usual, crop=2)):
        assert chosen.suited(usual) == chosen


def test_impossible_amounts_are_refused():
    for wrong in (Augment(crop=-1), Augment(hue=2.0), Augment(mixup=-1.0), Augment(erase=3.0)):
        with pytest.raises(UsageError, match="expected"):
            wrong.functions()


def test_the_schedules_take_their_options_and_weight_decay_spares_what_is_not_named():
    options = Optimizer(
        "momentum",
        schedule="piecewise",
        boundaries=(1, 2),
        weight_decay=0.5,
        decay=("**/kernel",),
    )
    optimizer = options.build(0.1, steps=4)
    params = {"layer": {"kernel": jnp.asarray(2.0), "bias": jnp.asarray(2.0)}}
    state, zeros, velocity = optimizer.init(params), jax.tree.map(jnp.zeros_like, params), 0.0
    for rate in (0.1, 0.01, 0.001, 0.001):
        updates, state = optimizer.update(zeros, state, params)
        velocity = 1.0 + 0.9 * velocity  # half of 2, and what went before
        assert float(updates["layer"]["kernel"]) == pytest.approx(-rate * velocity)
        assert float(updates["layer"]["bias"]) == 0
    assert Optimizer(schedule="step", transition_steps=10).build(0.1, 40)
    assert Optimizer(schedule="warmup_cosine", warmup_steps=10).build(0.1, 40)
    with pytest.raises(UsageError, match="needs boundaries="):
        Optimizer(schedule="piecewise").build(0.1, 40)
    with pytest.raises(UsageError, match="schedule 'cosine' has no option 'boundaries'"):
        Optimizer(schedule="cosine", boundaries=(5,)).build(0.1, 40)
