from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import Trainer, losses, retrieval
from jaxnet.data import Arrays, draw_interactions, leave_last_out
from jaxnet.data.interactions.interactions import as_lists
from jaxnet.errors import InputError
from jaxnet.models import TwoTower
from jaxnet.training import Retrieval, clip, with_ema
from tests.networks import quick_starts

pytestmark = pytest.mark.usefixtures("shared_programs")

PAIRS, _ = draw_interactions(users=60, items=20, each=8)
ITEMS = PAIRS.known_items.columns()
MODEL = TwoTower(PAIRS.known_users.column_sizes(), PAIRS.known_items.column_sizes(), 4, (6,), 3)
TASK = Retrieval(
    MODEL,
    partial(losses.in_batch_softmax, log_q=losses.log_frequencies(PAIRS.items, 20)),
    optax.adam(1e-2),
    catalogue=ITEMS,
)


def batch(rows: slice, size: int) -> dict[str, jax.Array]:
    data = PAIRS.take(np.arange(len(PAIRS))[rows]).arrays(PAIRS.items[rows])
    padding = size - len(data)
    # As the pipeline does: padding repeats rows from elsewhere.
    columns = {
        name: np.resize(column, (size, *column.shape[1:]))
        for name, column in data.columns().items()
    }
    mask = np.arange(size) < len(data)
    assert padding == (~mask).sum()
    return {name: jnp.asarray(column) for name, column in {**columns, "mask": mask}.items()}


@pytest.mark.slow
def test_padding_changes_neither_loss_nor_gradient():
    small, padded = batch(slice(0, 10), 10), batch(slice(0, 10), 16)

    @jax.jit
    def run(key: jax.Array, batches: Any) -> Any:
        state = TASK.init(key, batches[0])
        outcomes = [TASK.gradients(TASK.objective, state, one) for one in batches]
        return [(grads, aux.weight, aux.metrics["loss"]) for grads, aux in outcomes]

    with quick_starts():
        outcomes = run(jax.random.key(0), [small, padded])
    (grads, _, loss), (padded_grads, weight, padded_loss) = outcomes
    assert float(weight) == 10
    assert float(padded_loss.compute()) == pytest.approx(float(loss.compute()), rel=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), grads, padded_grads
    )


@pytest.mark.slow
def test_evaluation_is_the_softmax_over_the_catalogue():
    one = batch(slice(0, 12), 16)
    with quick_starts():
        state = jax.jit(TASK.init)(jax.random.key(0), one)
    predict = jax.jit(TASK.predict_step)
    users, items = retrieval.tower_vectors(
        lambda inputs: predict(state, {"inputs": inputs}), PAIRS.known_users.columns(), ITEMS
    )
    logits = np.asarray(users, np.float64)[PAIRS.users[:12]] @ np.asarray(items, np.float64).T
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    expected = -np.take_along_axis(log_p, PAIRS.items[:12, None], axis=1).mean()
    measured = jax.jit(TASK.eval_step)(state, one)
    assert measured["loss"].compute() == pytest.approx(float(expected), rel=1e-5)


def test_labels_outside_the_catalogue():
    data = PAIRS.arrays(PAIRS.items)
    wrong = Arrays(data.inputs, np.where(np.arange(len(data)) == 3, 20, data.labels))
    with pytest.raises(InputError, match=r"item numbers from 0 to 19.*got 20 in row 3"):
        Trainer(TASK, progress=False).fit(wrong, epochs=1)


@pytest.mark.slow
def test_learns_and_takes_techniques():
    pairs, _ = draw_interactions(users=400, items=20, each=8)
    train, valid, test = leave_last_out(pairs, 1, 2)
    users, items = pairs.known_users, pairs.known_items
    model = TwoTower(users.column_sizes(False), items.column_sizes(), 4, (8,), 4)
    task = with_ema(clip(replace(TASK, model=model), 5.0), 0.9)
    result = Trainer(task, progress=False).fit(
        train.arrays(train.items, False), valid.arrays(valid.items, False), epochs=12, batch_size=64
    )
    # What popularity alone comes to.
    share = train.popularity() / len(train)
    assert result.history.rows[-1]["val_loss"] < -np.log(share[valid.items]).mean() - 0.02
    vectors = retrieval.tower_vectors(result.model.predict, users.columns(False), items.columns())
    had = as_lists(train, valid)
    found, _ = retrieval.recommend(*vectors, 5, excluded=had)
    by_chance = 5 / (20 - 6)
    assert retrieval.measure(found, test.of_users(), (5,))["recall@5"] > 1.2 * by_chance
    for row, chosen in enumerate(found):
        assert not set(chosen) & set(had[row])
