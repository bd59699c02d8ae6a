"""The transformer encoder in Keras, of its own layers."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from benchmarks.workloads import CLASSES, Workload


class Positions(layers.Layer):
    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.table = self.add_weight(shape=(length, width), name="positions")

    def call(self, x: Any) -> Any:
        return x + self.table


def encoder(workload: Workload) -> keras.Model:
    width, (hidden,) = workload.embedding, workload.hidden
    inputs = keras.Input((workload.length,), dtype="int32")
    x = layers.Embedding(workload.vocabulary, width)(inputs)
    x = Positions(workload.length, width)(x)
    for _ in range(workload.blocks):
        h = layers.LayerNormalization(epsilon=1e-5)(x)
        attention = layers.MultiHeadAttention(workload.heads, width // workload.heads)
        x = layers.Add()([x, attention(h, h)])
        h = layers.LayerNormalization(epsilon=1e-5)(x)
        h = layers.Dense(width)(layers.Dense(hidden, activation="gelu")(h))
        x = layers.Add()([x, h])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-5)(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))
