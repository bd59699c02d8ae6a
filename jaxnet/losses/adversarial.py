"""The games of two networks: one that makes things up, and one that scores how real they look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ScoreLoss = Callable[[Float[Array, " batch"]], Float[Array, " batch"]]


class GanLoss(NamedTuple):
    """What scores cost either player, one loss an example; each lowers its own.

    Attributes:
        real: what the scores (B,) of real examples cost the discriminator.
        generated: what the scores (B,) of generated ones cost it.
        generator: what the scores (B,) of generated examples cost the generator.

    Example:
        >>> scores = jnp.array([0.0, 4.0])  # log-odds that an example is real
        >>> print(GAMES["non_saturating"].generator(scores).round(3))
        [0.693 0.018]
        >>> print(GAMES["minimax"].generator(scores).round(3))
        [-0.693 -4.018]
    """

    real: ScoreLoss
    generated: ScoreLoss
    generator: ScoreLoss


def _logistic(generator: ScoreLoss) -> GanLoss:
    """`-log D(x)` and `-log(1 - D(G(z)))` where a score is the log-odds of D."""
    return GanLoss(lambda s: jax.nn.softplus(-s), jax.nn.softplus, generator)


GAMES: Mapping[str, GanLoss] = {
    "minimax": _logistic(lambda s: -jax.nn.softplus(s)),
    "non_saturating": _logistic(lambda s: jax.nn.softplus(-s)),
    "wasserstein": GanLoss(jnp.negative, lambda s: s, jnp.negative),
    "least_squares": GanLoss(lambda s: jnp.square(s - 1), jnp.square, lambda s: jnp.square(s - 1)),
}
"""The games by name.

| name | the generator's loss | source |
|---|---|---|
| `minimax` | `log(1 - D)`, flat where it is caught | Goodfellow et al. 2014, equation 1 |
| `non_saturating` | `-log D`, the same goal and steep there | the same, section 3 |
| `wasserstein` | `-D`, a critic's score without bounds | Arjovsky et al. 2017, equation 3 |
| `least_squares` | `(D - 1)^2` | Mao et al. 2017, equation 9, a = 0, b = c = 1 |

The critic of `wasserstein` has to be kept smooth:
`jaxnet.training.tasks.adversarial.gradient_penalty`.
"""
