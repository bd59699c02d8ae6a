"""The transformer encoder in PyTorch: `scaled_dot_product_attention`, or PyTorch's own blocks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from benchmarks.workloads import CLASSES, Workload


class Encoder(nn.Module):
    def __init__(self, workload: Workload, form: str) -> None:
        super().__init__()
        width, (hidden,) = workload.embedding, workload.hidden
        self.embed = nn.Embedding(workload.vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(workload.length, width))
        self.blocks = nn.Sequential(
            *(_block(form, width, workload.heads, hidden) for _ in range(workload.blocks))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.embed(words) + self.positions)
        return self.head(self.norm(x).mean(1))


def _block(form: str, width: int, heads: int, hidden: int) -> nn.Module:
    if form == "own":
        return nn.TransformerEncoderLayer(
            width, heads, hidden, 0.0, "gelu", batch_first=True, norm_first=True
        )
    return Block(width, heads, hidden)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(query, key, value)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.norm2(x))))
