"""Bins over all numbers, as fine as the leading bits of a float32: small ones for small numbers.

The map from a number to its bin is monotone, the same everywhere, and known before the data is, so
that what is counted or summed in bins merges by addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_MANTISSA, _BIAS = 23, 127  # of IEEE 754 binary32


@dataclass(frozen=True)
class Bins:
    """Bins with edges at all float32 of `bits` bits after the leading one.

    Attributes:
        bits: there are `2**bits` bins between a number and its double.
        octaves: sizes from `2**-octaves` to `2**octaves` have bins of their own; smaller ones fall
            into the bins next to 0, larger ones into the outermost.

    Example:
        >>> bins = Bins(bits=1, octaves=2)
        >>> print(bins.of(jnp.array([-9.0, -1.0, 0.0, 1.0, 1.4, 1.5, 9.0])))
        [ 0  3  8 12 12 13 15]
        >>> bins.count
        16
    """

    bits: int
    octaves: int

    @property
    def _half(self) -> int:
        return 2 * self.octaves << self.bits

    @property
    def count(self) -> int:
        """The number of bins."""
        return 2 * self._half

    def of(self, values: Float[Array, "*dims"]) -> Int[Array, "*dims"]:
        """The bin of each number, int32; that of NaN is some bin."""
        least, most = np.float32(2.0**-self.octaves), np.float32(2.0**self.octaves)
        sizes = jnp.clip(jnp.abs(values.astype(jnp.float32)), least, np.nextafter(most, least))
        leading = jax.lax.bitcast_convert_type(sizes, jnp.int32) >> (_MANTISSA - self.bits)
        steps = jnp.clip(leading - ((_BIAS - self.octaves) << self.bits), 0, self._half - 1)
        return jnp.where(values < 0, self._half - 1 - steps, self._half + steps)

    @cached_property
    def centres(self) -> Float[np.ndarray, " bins"]:
        """float32: the middle of each bin."""
        leading = np.arange(self._half, dtype=np.int32) + ((_BIAS - self.octaves) << self.bits)
        edges = leading << (_MANTISSA - self.bits)
        middles = (edges + (1 << (_MANTISSA - self.bits - 1))).view(np.float32)
        return np.concatenate([-middles[::-1], middles])
