"""Mixtures of experts: many feed-forward networks, of which each token goes through a few."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxnet.errors import UsageError
from jaxnet.layers.dense import Dense

Make = Callable[..., Any]

LOSSES = "losses"
"""The collection for what layers add to the loss of each example, `(batch,)`, in training."""


class Routing(NamedTuple):
    """Where the tokens of each group go.

    Attributes:
        dispatch: `(groups, tokens, experts, capacity)`, 1 where a token has a slot of an expert.
        combine: the same with the weight of that expert for the token.
        balance: `(groups,)`, 1 where all experts have equal shares, up to their number where one
            of them has all.
    """

    dispatch: Float[Array, "groups tokens experts capacity"]
    combine: Float[Array, "groups tokens experts capacity"]
    balance: Float[Array, " groups"]


def route(
    logits: Float[Array, "groups tokens experts"], top_k: int, capacity: int, causal: bool = False
) -> Routing:
    """Give each token slots of the `top_k` experts that its logits favour, while there are any.

    First choices come before second ones, and among equals earlier tokens before later ones; a
    token that finds no slot left goes without that expert (Lepikhin et al. 2021, algorithm 1). The
    weights are the experts' probabilities, for more than one choice divided by their sum.

    So the first choice of a later token may take what would have been an earlier one's second.
    With `causal` all choices of a token come before those of later ones.

    The balance is the loss of Fedus et al. 2022, equation 4, without its factor: the number of
    experts times the sum over them of the share of tokens whose first choice it is, times the mean
    of its probability.

    Example:
        >>> logits = jnp.log(jnp.array([[[0.75, 0.25], [0.75, 0.25]]]))
        >>> routing = route(logits, top_k=1, capacity=1)
        >>> routing.dispatch[..., 0].tolist(), round(float(routing.balance[0]), 3)
        ([[[1.0, 0.0], [0.0, 0.0]]], 1.5)
    """
    groups, tokens, experts = logits.shape
    probabilities = jax.nn.softmax(logits, axis=-1)
    picked = _first_choices(probabilities, top_k)
    weights = (picked * probabilities[:, :, None]).sum(axis=-1)
    if top_k > 1:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    share = picked[:, :, 0].mean(axis=1)
    balance = experts * (share * probabilities.mean(axis=1)).sum(axis=-1)

    turns = picked if causal else picked.swapaxes(1, 2)
    in_turn = turns.reshape(groups, top_k * tokens, experts)
    # float32 counts exactly up to 2^24, far beyond the tokens of a group.
    slots = (jnp.cumsum(in_turn, axis=1) - in_turn).reshape(turns.shape)
    slots = slots if causal else slots.swapaxes(1, 2)
    slot = (slots * picked).sum(axis=-1).astype(jnp.int32)
    # A slot beyond the capacity has no 1 in it.
    placed = jax.nn.one_hot(slot, capacity, dtype=logits.dtype)
    dispatch = jnp.einsum("gtke,gtkc->gtec", picked, placed)
    combine = jnp.einsum("gtk,gtke,gtkc->gtec", weights, picked, placed)
    return Routing(dispatch, combine, balance)


def _first_choices(
    probabilities: Float[Array, "groups tokens experts"], top_k: int
) -> Float[Array, "groups tokens top_k experts"]:
    """1 where an expert is a token's first, second, ... choice.

    With `jax.lax.top_k` XLA would gather the examples of all devices on each of them.
    """
    choices: list[jax.Array] = []
    for _ in range(top_k):
        best = probabilities.argmax(axis=-1)
        choices.append(jax.nn.one_hot(best, probabilities.shape[-1], dtype=probabilities.dtype))
        probabilities = jnp.where(choices[-1] > 0, -1, probabilities)
    return jnp.stack(choices, axis=2)


class ExpertFeedForward(nn.Module):
    """A mixture of experts in the place of a feed-forward network (Shazeer et al. 2017).

    A router, a dense layer, picks for each token `top_k` of the experts; the output is the sum of
    theirs, weighted, see `route`. With one choice it is the layer of Fedus et al. 2022, "Switch
    transformers"; with two that of Lepikhin et al. 2021, "GShard".

    Each example is a group of its own: an expert has slots for `capacity_factor` times its equal
    share of the example's tokens, and a token for which there is none passes it by (in a
    transformer the residual connection carries it on). So what becomes of an example depends on no
    other, and not on how examples are sharded. This is in training; in evaluation
    there are slots for all tokens, and so none depends on others, such as padding.

    In training, what the balance of the experts costs goes into the collection `"losses"`, from
    which `jaxnet.training.Supervised` adds it to the loss.

    Parameters: `router`, and `experts` with those of the feed-forward network, each with the expert
    as leading axis.

    Args:
        feed_forward: makes an expert, `partial(FeedForward, 1024)` say.
        num_experts: how many there are.
        top_k: how many a token goes through.
        capacity_factor: the slots of an expert in training, as a multiple of its equal share.
        balance: the factor of the loss for unequal shares (Fedus et al. 2022, section 2.2).
        causal: whether a token's experts must not depend on later tokens, as in language models;
            see `route`.
        router_init: the initializer of the router's kernel.

    Raises:
        UsageError: an option is impossible.

    Example:
        >>> from functools import partial
        >>> from jaxnet.layers import FeedForward
        >>> layer = ExpertFeedForward(partial(FeedForward, 32), num_experts=4)
        >>> x = jnp.zeros((2, 5, 8))
        >>> y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
        >>> y.shape, variables["params"]["experts"]["up"]["kernel"].shape
        ((2, 5, 8), (4, 8, 32))
    """

    feed_forward: Make
    num_experts: int
    top_k: int = 2
    capacity_factor: float = 1.25
    balance: float = 0.01
    causal: bool = False
    router_init: Make = nn.initializers.lecun_normal()

    def setup(self) -> None:
        """The router and the experts."""
        if not 1 <= self.top_k <= self.num_experts:
            raise UsageError(
                f"expected top_k from 1 to num_experts={self.num_experts}, got {self.top_k}"
            )
        if not (self.capacity_factor > 0 and self.balance >= 0):
            raise UsageError(
                "expected a positive capacity_factor and a balance of at least 0, got "
                f"{self.capacity_factor} and {self.balance}"
            )
        # Choosing needs more digits than computing (Fedus et al. 2022, section 2.4).
        self.router = Dense(
            self.num_experts, use_bias=False, dtype=jnp.float32, kernel_init=self.router_init
        )
        self.experts = self.feed_forward()

    def __call__(
        self, x: Float[Array, "*dims features"], train: bool = False
    ) -> Float[Array, "*dims features"]:
        """`x`, each token transformed; the leading axis counts examples, the last but one tokens.

        Dropout draws from the random stream `"dropout"`.
        """
        groups = x.reshape(-1, *x.shape[-2:]) if x.ndim > 2 else x.reshape(-1, 1, x.shape[-1])
        tokens = groups.shape[1]
        capacity = self.capacity(tokens) if train else tokens
        routing = route(self.router(groups), self.top_k, capacity, self.causal)
        if train and self.balance:
            each = routing.balance.reshape(len(x), -1).mean(axis=1)
            self.sow(LOSSES, "balance", self.balance * each)
        slots = jnp.einsum("gtec,gtd->gecd", routing.dispatch.astype(x.dtype), groups)
        slots = self.transform(slots, train)
        y = jnp.einsum("gtec,gecd->gtd", routing.combine.astype(slots.dtype), slots)
        return y.reshape(x.shape)

    def capacity(self, tokens: int) -> int:
        """The capacity of an expert in training for an example of `tokens` tokens.

        Example:
            >>> ExpertFeedForward(None, num_experts=4, top_k=2).capacity(8)
            5
        """
        share = self.top_k * tokens / self.num_experts
        return min(tokens, max(1, math.ceil(self.capacity_factor * share)))

    def transform(
        self, slots: Float[Array, "groups experts capacity features"], train: bool
    ) -> Float[Array, "groups experts capacity features"]:
        """Each expert on what is in its slots.

        This is all of the layer in which experts take part. Whoever has them on many devices takes
        the place of this method (`flax.linen.intercept_methods`).
        """
        each = nn.vmap(
            lambda expert, slots: expert(slots, train),
            in_axes=1,
            out_axes=1,
            axis_size=self.num_experts,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
        )
        return each(self.experts, slots)
