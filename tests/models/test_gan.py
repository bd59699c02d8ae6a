from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.models import DCGANDiscriminator, DCGANGenerator, DenseDiscriminator, DenseGenerator
from jaxnet.module_json import from_json, to_json


@pytest.mark.parametrize(
    ("generator", "discriminator"),
    [
        (DenseGenerator((8, 8, 3), (16,)), DenseDiscriminator((16,))),
        (DCGANGenerator((28, 28, 1), 4), DCGANDiscriminator(4)),
        (DCGANGenerator((32, 32, 3), 4, stages=3), DCGANDiscriminator(4, stages=3)),
        (DCGANGenerator((12, 20, 1), 4), DCGANDiscriminator(4, batch_norm=False)),
    ],
)
def test_noise_becomes_images_and_images_scores(generator, discriminator):
    def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise = jax.random.normal(key, (5, 7))
        images, _ = generator.init_with_output(key, noise)
        return images, discriminator.init_with_output(key, images)[0]

    images, scores = jax.eval_shape(both, jax.random.key(0))
    assert images.shape == (5, *generator.shape)
    assert scores.shape == (5, 1)
    assert from_json(to_json(generator)) == generator
    assert from_json(to_json(discriminator)) == discriminator


@pytest.mark.slow
def test_the_start_is_the_papers():
    """Weights of deviation 0.02, and no batch normalisation next to the images."""
    noise = jnp.ones((4, 100))
    images, made = jax.jit(DCGANGenerator().init_with_output)(jax.random.key(0), noise)
    scored = jax.jit(DCGANDiscriminator().init)(jax.random.key(1), images)
    for params in (made["params"], scored["params"]):
        for name, layer in params.items():
            if "kernel" in layer:
                assert np.std(layer["kernel"]) == pytest.approx(0.02, rel=0.1)
                # A bias before a normalisation would do nothing.
                assert ("bias" in layer) == (layer["kernel"].shape[-1] == 1 or "Conv_0" in name)
    assert len([name for name in made["params"] if "BatchNorm" in name]) == 2
    assert len([name for name in scored["params"] if "BatchNorm" in name]) == 1
    assert np.abs(images).max() < 1


def test_sizes_that_do_not_double_are_refused():
    with pytest.raises(InputError, match="to 30x28 only if 4 divides both"):
        jax.eval_shape(DCGANGenerator((30, 28, 1)).init, jax.random.key(0), jnp.ones((1, 9)))
    with pytest.raises(InputError, match=r"at least 16x16, got \(1, 8, 8, 1\)"):
        jax.eval_shape(DCGANDiscriminator(stages=4).init, jax.random.key(0), jnp.ones((1, 8, 8, 1)))
