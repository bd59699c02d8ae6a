"""ResNet-18 in Keras. Its `"same"` padding is at other sides of the image, which costs the same."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def resnet18(num_classes: int) -> keras.Model:
    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(_conv_norm(inputs, 64, 7, 2))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for stage in range(4):
        for i in range(2):
            features, strides = 64 * 2**stage, 2 if stage and not i else 1
            y = layers.ReLU()(_conv_norm(x, features, 3, strides))
            y = _conv_norm(y, features, 3, 1)
            shortcut = _conv_norm(x, features, 1, strides) if strides > 1 else x
            x = layers.ReLU()(layers.Add()([y, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(num_classes)(x))


def _conv_norm(x: Any, features: int, size: int, strides: int) -> Any:
    # Keras declares initializers strings.
    start: Any = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    conv = layers.Conv2D(
        features,
        size,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer=start,
    )
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(conv(x))
