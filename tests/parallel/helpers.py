"""Networks, batches, and steps on many devices beside those on one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet import losses, metrics
from jaxnet.data.pipeline.device_batches import Streamed
from jaxnet.models import CNN, GPT2, MLP, RecurrentLM, TwoTower
from jaxnet.parallel import Layout
from jaxnet.training import Retrieval, Supervised
from jaxnet.training.programs import Programs
from jaxnet.training.techniques.transforms import Technique

ROWS = 16


class Recorded(Technique):
    """A task whose state remembers the last gradient."""

    def init(self, key: Any, batch: Any) -> Any:
        state = self.task.init(key, batch)
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        return replace(state, memory={**state.memory, "gradient": zeros})

    def apply_gradients(self, state: Any, grads: Any, aux: Any) -> Any:
        new = self.task.apply_gradients(state, grads, aux)
        return replace(new, memory={**new.memory, "gradient": grads})


def supervised(model: Any, optimizer: Any = None) -> Supervised:
    optimizer = optimizer or optax.sgd(0.1, momentum=0.9)
    if isinstance(model, TwoTower):
        items = np.arange(5)[:, None]
        return Retrieval(model, losses.in_batch_softmax, optimizer, catalogue=items)
    return Supervised(
        model, losses.cross_entropy, optimizer, metrics={"accuracy": metrics.accuracy}
    )


def gpt() -> GPT2:
    return GPT2(64, length=8, features=64, num_layers=2, num_heads=8, dropout=0.0)


def cnn() -> CNN:
    return CNN((8, 8), (16,), num_classes=4, dropout=0.0, padding="SAME", batch_norm=True)


def mlp() -> MLP:
    return MLP(hidden=(64, 32), num_classes=4)


def experts() -> GPT2:
    return GPT2(64, 8, features=16, num_layers=1, num_heads=2, dropout=0.0, num_experts=8)


def recurrent() -> RecurrentLM:
    return RecurrentLM(64, embedding=8, features=8)


def towers() -> TwoTower:
    return TwoTower((7, 3), (5,), embedding=8, hidden=(16,), width=4)


MODELS = {
    "mlp": mlp,
    "cnn": cnn,
    "gpt2": gpt,
    "experts": experts,
    "recurrent": recurrent,
    "towers": towers,
}


def batches(name: str, count: int, rows: int = ROWS) -> list[dict[str, np.ndarray]]:
    """Batches for one of `MODELS`; a few rows are padding."""
    # With seeds 0 and 1 an activation of the CNN lies so near to a kink of ReLU that rounding
    # decides about gradients: on one device too, those of parameters that differ by 1e-7 differ by
    # 1e-3. With 2 the images' mean is almost 0, and what it is but rounding.
    rng = np.random.default_rng(3)
    made = []
    for _ in range(count):
        mask = np.arange(rows) < rows - 3
        if name == "towers":
            ids = rng.integers(0, (7, 3, 5), (rows, 3)).astype(np.int32)
            batch = {"inputs": ids, "labels": ids[:, 2], "mask": mask}
        elif name in ("gpt2", "experts", "recurrent"):
            tokens = rng.integers(0, 64, (rows, 9)).astype(np.int32)
            batch = {"inputs": tokens[:, :-1], "labels": tokens[:, 1:], "mask": mask}
        else:
            # Every row has a mean of its own, so that the statistics of a few rows aren't those of
            # the batch.
            inputs = rng.normal(size=(rows, 8, 8, 1)) + 3 * rng.normal(size=(rows, 1, 1, 1))
            labels = rng.integers(0, 4, rows).astype(np.int32)
            batch = {"inputs": inputs.astype(np.float32), "labels": labels, "mask": mask}
        made.append(batch)
    return made


def take_steps(task: Any, data: list[dict[str, np.ndarray]], layout: Layout) -> list[Any]:
    """State and metrics after each step, on the host."""
    programs = Programs(task, layout=layout)
    key = jax.random.key(0)
    state = programs.init(key, data[0])
    form = programs.form(programs.state(key, data[0]), data[0])
    taken = []
    for batch in data:
        feed = Streamed({name: column[None] for name, column in batch.items()})
        state, log = programs.train(form, state, feed, 1)
        taken.append((plain(programs.forms.to_plain(state)), log.fetch()))
    assert programs.compiles.repeated() == []
    return taken


def plain(state: Any) -> Any:
    """The state on the host, without its key."""
    return jax.device_get(replace(state, key=jnp.zeros(())))
