from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.models import VAE, Autoencoder, ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from jaxnet.module_json import from_json, to_json

DENSE = (DenseEncoder(4, (16,)), DenseDecoder((28, 28, 1), (16,)))
CONV = (ConvEncoder(4, (3, 5)), ConvDecoder((28, 28, 1), (5, 3)))


@pytest.mark.parametrize("parts", [DENSE, CONV])
@pytest.mark.parametrize("kind", [Autoencoder, VAE])
def test_images_come_back_in_their_shape(kind, parts):
    encoder, decoder = parts
    model = kind(encoder, decoder)
    images = jnp.zeros((3, 28, 28, 1))
    outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert outputs.shape == images.shape
    assert set(variables["params"]) == {"encoder", "decoder"}
    assert from_json(to_json(model)) == model


@pytest.mark.slow
def test_a_code_is_what_images_are_drawn_from():
    model = Autoencoder(*DENSE)
    images = jax.random.uniform(jax.random.key(1), (3, 28, 28, 1))

    @jax.jit
    def run() -> tuple:
        outputs, variables = model.init_with_output(jax.random.key(0), images)
        codes = model.apply(variables, images, method="encode")
        drawn = jax.nn.sigmoid(jnp.asarray(model.apply(variables, codes, method="decode")))
        return outputs, codes, drawn

    outputs, codes, drawn = run()
    assert codes.shape == (3, 4)
    np.testing.assert_allclose(drawn, outputs, rtol=1e-6)
    assert ((outputs > 0) & (outputs < 1)).all()


def test_a_size_that_cannot_be_halved_is_refused():
    with pytest.raises(InputError, match="to 30x28 only if 4 divides both"):
        jax.eval_shape(ConvDecoder((30, 28, 1)).init, jax.random.key(0), jnp.ones((1, 4)))
