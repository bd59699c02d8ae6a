"""ResNet-18 in PyTorch, as torchvision has it."""

from __future__ import annotations

import torch
from torch import nn


class ResNet18(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stem = nn.Sequential(*_conv_norm(3, 64, 7, 2), nn.ReLU(inplace=True), pool)
        blocks: list[nn.Module] = []
        fan = 64
        for stage in range(4):
            for i in range(2):
                blocks.append(Block(fan, 64 * 2**stage, 2 if stage and not i else 1))
                fan = 64 * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(fan, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, fan: int, features: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv_norm(fan, features, 3, stride),
            nn.ReLU(inplace=True),
            *_conv_norm(features, features, 3, 1),
        )
        projection = nn.Sequential(*_conv_norm(fan, features, 1, stride))
        self.shortcut = projection if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _conv_norm(fan: int, features: int, size: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(fan, features, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(features)]
