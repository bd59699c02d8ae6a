"""Auxiliary outputs: their losses count in training only, and metrics read the main outputs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, metrics
from jaxnet.data.scaling import Scale
from jaxnet.errors import InputError, UsageError
from jaxnet.training import Supervised, clip, scaled_target, with_auxiliary, with_ema
from tests.networks import Dense
from tests.training.helpers import first_gradients, make_batch


class TwoHeads(nn.Module):
    """Main and auxiliary logits in training, the main ones in evaluation."""

    @nn.compact
    def __call__(self, inputs, train=False):
        main = Dense(3, name="main")(inputs)
        if not train and not self.is_initializing():
            return main
        auxiliary = Dense(3, name="auxiliary")(inputs)
        return (main, auxiliary) if train else main


def test_the_loss_adds_them_in_training_and_metrics_read_the_main_outputs():
    task = with_auxiliary(
        Supervised(
            TwoHeads(), losses.cross_entropy, optax.sgd(0.1), metrics={"right": metrics.accuracy}
        )
    )
    batch = {**make_batch(8), "labels": np.arange(8, dtype=np.int32) % 3}

    @jax.jit
    def run(key, batch):
        state = task.init(key, batch)
        logits = (
            Dense(3).apply({"params": state.params[name]}, batch["inputs"])
            for name in ("main", "auxiliary")
        )
        heads = [losses.cross_entropy(each, batch["labels"]).mean() for each in logits]
        return *heads, task.train_step(state, batch)[1], task.eval_step(state, batch)

    main, auxiliary, trained, evaluated = run(jax.random.key(0), batch)
    assert float(trained["loss"].compute()) == pytest.approx(
        float(main) + 0.3 * float(auxiliary), rel=1e-5
    )
    assert float(evaluated["loss"].compute()) == pytest.approx(float(main), rel=1e-5)
    assert float(trained["right"].compute()) == float(evaluated["right"].compute())


@pytest.mark.slow
def test_the_heads_share_of_the_gradient_is_the_weight():
    def gradients(weight):
        plain = Supervised(TwoHeads(), losses.cross_entropy, optax.sgd(1.0))
        task = with_auxiliary(plain, weight)
        batch = {**make_batch(8), "labels": np.zeros(8, np.int32)}
        return first_gradients([task], batch)[1][0]

    full, part = jax.tree.map(np.asarray, (gradients(1.0), gradients(0.25)))
    np.testing.assert_allclose(part["main"]["kernel"], full["main"]["kernel"], rtol=1e-5)
    np.testing.assert_allclose(
        part["auxiliary"]["kernel"], 0.25 * full["auxiliary"]["kernel"], rtol=1e-5
    )


def test_what_a_loss_ignores_it_ignores_within_every_wrapper():
    masked = losses.masked(partial(losses.cross_entropy, label_smoothing=0.1))
    plain = Supervised(TwoHeads(), masked, optax.sgd(0.1))
    sequence = jax.ShapeDtypeStruct((8, 5, 3), jnp.float32)
    labels = {"labels": np.full((8, 5), -1, np.int32)}
    wrapped = [
        plain,
        with_auxiliary(plain),
        clip(with_auxiliary(plain), 1.0),
        with_ema(with_auxiliary(plain), 0.9),
        replace(plain, loss=partial(with_auxiliary(plain).loss)),
        scaled_target(plain, Scale(0.0, 2.0)),
    ]
    for task in wrapped:
        task.check(sequence, labels, "data")  # -1 is no mistake
        with pytest.raises(InputError, match=r"from 0 to 2.*got -2 in row 0, position 0"):
            task.check(sequence, {"labels": labels["labels"] - 1}, "data")
    with pytest.raises(InputError, match="got -1 in row 0"):
        replace(plain, loss=losses.cross_entropy).check(sequence, labels, "data")


def test_what_changes_the_loss_is_put_within_techniques():
    task: Any = with_ema(Supervised(TwoHeads(), losses.cross_entropy, optax.sgd(0.1)), 0.9)
    with pytest.raises(UsageError, match=r"with_auxiliary changes the loss.*put techniques around"):
        with_auxiliary(task)
    with pytest.raises(UsageError, match=r"scaled_target changes the loss.*put techniques around"):
        scaled_target(task, Scale(0.0, 2.0))
