"""A network with rules of its own at the end of its file."""

from __future__ import annotations

from jaxnet.models import GPT2


class CutGPT2(GPT2):
    """GPT-2, cut as Megatron-LM cuts it."""


SHARDING = (
    ("embed/embedding", ("tensor",)),
    ("**/query/kernel", (None, "tensor")),
    ("**/key/kernel", (None, "tensor")),
    ("**/value/kernel", (None, "tensor")),
    ("**/out/kernel", ("tensor",)),
    ("**/up/kernel", (None, "tensor")),
    ("**/down/kernel", ("tensor",)),
)
