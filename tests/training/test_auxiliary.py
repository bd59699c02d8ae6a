"""Auxiliary outputs: their losses count in training only, and metrics read the main outputs."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, metrics
from jaxnet.training import Supervised, with_auxiliary
from tests.training.helpers import make_batch


class TwoHeads(nn.Module):
    """Main and auxiliary logits in training, the main ones in evaluation."""

    @nn.compact
    def __call__(self, inputs, train=False):
        main = nn.Dense(3, name="main")(inputs)
        if not train and not self.is_initializing():
            return main
        auxiliary = nn.Dense(3, name="auxiliary")(inputs)
        return (main, auxiliary) if train else main


def test_the_loss_adds_them_in_training_and_metrics_read_the_main_outputs():
    task = with_auxiliary(
        Supervised(
            TwoHeads(), losses.cross_entropy, optax.sgd(0.1), metrics={"right": metrics.accuracy}
        )
    )
    batch = {**make_batch(8), "labels": jnp.arange(8, dtype=jnp.int32) % 3}
    state = task.init(jax.random.key(0), batch)
    main, auxiliary = (
        losses.cross_entropy(
            nn.Dense(3).apply({"params": state.params[name]}, batch["inputs"]),
            batch["labels"],
        ).mean()
        for name in ("main", "auxiliary")
    )
    _, trained = jax.jit(task.train_step)(state, batch)
    evaluated = jax.jit(task.eval_step)(state, batch)
    assert float(trained["loss"].compute()) == pytest.approx(
        float(main + 0.3 * auxiliary), rel=1e-5
    )
    assert float(evaluated["loss"].compute()) == pytest.approx(float(main), rel=1e-5)
    assert float(trained["right"].compute()) == float(evaluated["right"].compute())


def test_the_heads_share_of_the_gradient_is_the_weight():
    def gradients(weight):
        plain = Supervised(TwoHeads(), losses.cross_entropy, optax.sgd(1.0))
        task = with_auxiliary(plain, weight)
        batch = {**make_batch(8), "labels": jnp.zeros(8, jnp.int32)}
        state = task.init(jax.random.key(0), batch)
        return jax.jit(lambda s: task.gradients(task.objective, s, batch)[0])(state)

    full, part = gradients(1.0), gradients(0.25)
    np.testing.assert_allclose(part["main"]["kernel"], full["main"]["kernel"], rtol=1e-5)
    np.testing.assert_allclose(
        part["auxiliary"]["kernel"], 0.25 * full["auxiliary"]["kernel"], rtol=1e-5
    )
