"""What an augmentation is, how several become one, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.errors import InputError, UsageError

Batch = Mapping[str, jax.Array]
Augmentation = Callable[[jax.Array, Batch], dict[str, jax.Array]]


def compose(*functions: Augmentation) -> Augmentation:
    """The functions one after the other, each with a key of its own.

    Example:
        >>> from jaxnet.data.augmentation import flip_left_right, flip_up_down
        >>> turn = compose(flip_left_right(1.0), flip_up_down(1.0))
        >>> images = jnp.arange(4.0).reshape(1, 2, 2, 1)
        >>> turn(jax.random.key(0), {"inputs": images})["inputs"].ravel().tolist()
        [3.0, 2.0, 1.0, 0.0]
    """

    def composed(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        for index, function in enumerate(functions):
            batch = function(jax.random.fold_in(key, index), batch)
        return dict(batch)

    return composed


def one_of(*functions: Augmentation) -> Augmentation:
    """For each batch one of the functions, all equally often.

    Such as `one_of(mixup(0.2), cutmix(1.0))`: what they return must agree in shapes and types.

    Raises:
        UsageError: there is no function to choose from.
    """
    if not functions:
        raise UsageError("one_of: expected at least one function")

    def chosen(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        draw, inner = jax.random.split(key)
        index = jax.random.randint(draw, (), 0, len(functions))
        return jax.lax.switch(index, functions, inner, dict(batch))

    return chosen


def on(name: str, *functions: Augmentation) -> Augmentation:
    """The functions on one of several inputs: `on("image", crop(2), flip_left_right())`.

    Args:
        name: of the input.
        functions: augmentations of that input, which leave the labels alone.

    Raises:
        InputError: (when it is called) there is no input of that name.
        UsageError: (when it is called) a function mixes examples, as mixup does.

    Example:
        >>> from jaxnet.data.augmentation import flip_left_right
        >>> inputs = {"age": jnp.ones((1, 1)), "image": jnp.arange(2.0).reshape(1, 1, 2, 1)}
        >>> flipped = on("image", flip_left_right(1.0))(jax.random.key(0), {"inputs": inputs})
        >>> flipped["inputs"]["image"].ravel().tolist()
        [1.0, 0.0]
    """
    function = compose(*functions)

    def augmentation(key: jax.Array, batch: Batch) -> dict[str, Any]:
        inputs: Any = batch["inputs"]
        if not isinstance(inputs, Mapping) or name not in inputs:
            names = ", ".join(inputs) if isinstance(inputs, Mapping) else "one array without a name"
            raise InputError(f"augmentation on {name!r}: the inputs are {names}")
        changed = function(key, {**batch, "inputs": inputs[name]})
        if others := changed.keys() - batch.keys():
            raise UsageError(
                f"augmentation on {name!r}: expected functions of one input alone, got one that "
                f"makes {', '.join(sorted(others))}: leave out mixup and cutmix"
            )
        return {**changed, "inputs": {**inputs, name: changed["inputs"]}}

    return augmentation


def on_images(change: Callable[[jax.Array, jax.Array], jax.Array]) -> Augmentation:
    """An augmentation that changes the images and nothing else.

    Args:
        change: `(key, images) -> images`, (B, H, W, C) both. What it returns in another type is
            brought back to the images': see `as_type_of`.

    Example:
        >>> inverted = on_images(lambda key, images: 255 - images)
        >>> batch = {"inputs": jnp.array([0, 55], jnp.uint8).reshape(1, 1, 2, 1)}
        >>> inverted(jax.random.key(0), batch)["inputs"].ravel().tolist()
        [255, 200]
    """

    def augmentation(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        images = images_of(batch)
        return {**batch, "inputs": as_type_of(images, change(key, images))}

    return augmentation


def one_input(batch: Batch) -> jax.Array:
    """The batch's inputs (B, ...).

    Raises:
        InputError: there are several.
    """
    inputs = batch["inputs"]
    if not hasattr(inputs, "ndim"):
        raise InputError(
            "this augmentation takes one array of inputs, and there are several: name one of them, "
            "augmentation.on('image', ...), and leave out mixup and cutmix"
        )
    return inputs


def images_of(batch: Batch) -> jax.Array:
    """The batch's images (B, H, W, C).

    Raises:
        InputError: its inputs are something else.
    """
    inputs = one_input(batch)
    if inputs.ndim != 4:
        raise InputError(
            "augmentation takes images (batch, height, width, channels), got inputs of shape "
            f"{inputs.shape}. Give grey images a last axis, images[..., None]; for other data "
            "leave it out or write a function (key, batch) -> batch of your own."
        )
    return inputs


def in_float(images: jax.Array) -> jax.Array:
    """The images in a type to compute in: float64 where they are, float32 from any other."""
    return images.astype(jnp.float64 if images.dtype == jnp.float64 else jnp.float32)


def as_type_of(images: jax.Array, changed: jax.Array) -> jax.Array:
    """`changed` in the type of `images`: rounded and kept in range where that is of integers."""
    dtype = images.dtype
    if changed.dtype == dtype:
        return changed
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        changed = jnp.clip(jnp.round(changed), limits.min, limits.max)
    return changed.astype(dtype)


def each(values: jax.Array) -> jax.Array:
    """One value an example, (B,), in the shape that meets images: (B, 1, 1, 1)."""
    return values[:, None, None, None]


def require(holds: bool, name: str, expected: str, got: object) -> None:
    """Raise `UsageError` where an argument is impossible."""
    if not holds:
        raise UsageError(f"{name}: expected {expected}, got {got!r}")


def require_probability(name: str, probability: float) -> None:
    """Raise `UsageError` where `probability` isn't one."""
    require(0 <= probability <= 1, name, "a probability in [0, 1]", probability)
