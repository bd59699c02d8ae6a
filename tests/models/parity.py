"""Weights of `transformers` models, as the parameters of ours."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .torch_twin import torchvision

Params = dict[str, Any]
Arrays = dict[str, np.ndarray]


def transformers() -> Any:
    """The library, which must not ask the network for anything."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torchvision()  # which transformers imports, and which needs help beside a torch for the CPU
    return pytest.importorskip("transformers", reason="needs the extra [parity]")


def randomized(model: Any) -> Any:
    """A PyTorch model with weights none of which are 0 or 1, so that none can be mixed up."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1) * 0.5)
    return model.eval()


def arrays(model: Any) -> Arrays:
    return {name: leaf.detach().numpy() for name, leaf in model.state_dict().items()}


def close(got: Any, want: Any, tolerance: float = 1e-4) -> None:
    """Equal to `tolerance`, relative to the largest number."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.isfinite(want).all() and np.abs(got - want).max() <= tolerance * np.abs(want).max()


def dense(weights: Arrays, name: str) -> Params:
    """A `torch.nn.Linear`, whose weight is (out, in)."""
    params = {"kernel": weights[f"{name}.weight"].T}
    return params | ({"bias": weights[f"{name}.bias"]} if f"{name}.bias" in weights else {})


def conv1d(weights: Arrays, name: str) -> Params:
    """GPT-2's `Conv1D`, whose weight is (in, out)."""
    return {"kernel": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def layer_norm(weights: Arrays, name: str) -> Params:
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def rms_norm(weights: Arrays, name: str) -> Params:
    return {"scale": weights[f"{name}.weight"]}


def bert(weights: Arrays, num_layers: int, prefix: str = "") -> Params:
    """The encoder of `BertModel`."""
    embeddings = f"{prefix}embeddings."
    params: Params = {
        "embed": {"embedding": weights[f"{embeddings}word_embeddings.weight"]},
        "positions": {"embedding": weights[f"{embeddings}position_embeddings.weight"]},
        "segment": {"embedding": weights[f"{embeddings}token_type_embeddings.weight"]},
        "norm": layer_norm(weights, f"{embeddings}LayerNorm"),
        "stack": {},
    }
    for i in range(num_layers):
        layer = f"{prefix}encoder.layer.{i}."
        params["stack"][f"blocks_{i}"] = {
            "self_attention": {
                name: dense(weights, f"{layer}attention.{theirs}")
                for name, theirs in (
                    ("query", "self.query"),
                    ("key", "self.key"),
                    ("value", "self.value"),
                    ("out", "output.dense"),
                )
            },
            "self_attention_norm": layer_norm(weights, f"{layer}attention.output.LayerNorm"),
            "mlp": {
                "up": dense(weights, f"{layer}intermediate.dense"),
                "down": dense(weights, f"{layer}output.dense"),
            },
            "mlp_norm": layer_norm(weights, f"{layer}output.LayerNorm"),
        }
    if f"{prefix}pooler.dense.weight" in weights:
        params["pooler"] = dense(weights, f"{prefix}pooler.dense")
    return params


def bert_masked_lm(weights: Arrays, num_layers: int) -> Params:
    """`BertForMaskedLM`."""
    head = "cls.predictions."
    return {
        "encoder": bert(weights, num_layers, "bert."),
        "transform": dense(weights, f"{head}transform.dense"),
        "norm": layer_norm(weights, f"{head}transform.LayerNorm"),
        "bias": weights[f"{head}bias"],
    }


def gpt2(weights: Arrays, num_layers: int) -> Params:
    """`GPT2LMHeadModel`."""
    params: Params = {
        "embed": {"embedding": weights["transformer.wte.weight"]},
        "positions": {"embedding": weights["transformer.wpe.weight"]},
        "norm": layer_norm(weights, "transformer.ln_f"),
        "stack": {},
    }
    for i in range(num_layers):
        layer = f"transformer.h.{i}."
        qkv = conv1d(weights, f"{layer}attn.c_attn")
        kernels, biases = np.split(qkv["kernel"], 3, axis=1), np.split(qkv["bias"], 3)
        attention: Params = {
            name: {"kernel": kernel, "bias": bias}
            for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True)
        }
        params["stack"][f"blocks_{i}"] = {
            "self_attention": {**attention, "out": conv1d(weights, f"{layer}attn.c_proj")},
            "self_attention_norm": layer_norm(weights, f"{layer}ln_1"),
            "mlp": {
                "up": conv1d(weights, f"{layer}mlp.c_fc"),
                "down": conv1d(weights, f"{layer}mlp.c_proj"),
            },
            "mlp_norm": layer_norm(weights, f"{layer}ln_2"),
        }
    return params


def llama(weights: Arrays, num_layers: int) -> Params:
    """`LlamaForCausalLM`."""
    params: Params = {
        "embed": {"embedding": weights["model.embed_tokens.weight"]},
        "norm": rms_norm(weights, "model.norm"),
        "head": dense(weights, "lm_head"),
        "stack": {},
    }
    for i in range(num_layers):
        layer = f"model.layers.{i}."
        params["stack"][f"blocks_{i}"] = {
            "self_attention": _attention(weights, f"{layer}self_attn.", out="o_proj"),
            "self_attention_norm": rms_norm(weights, f"{layer}input_layernorm"),
            "mlp": {
                name: dense(weights, f"{layer}mlp.{name}_proj") for name in ("gate", "up", "down")
            },
            "mlp_norm": rms_norm(weights, f"{layer}post_attention_layernorm"),
        }
    return params


def marian(weights: Arrays, num_layers: int) -> Params:
    """`MarianMTModel`."""
    params: Params = {
        "embed": {"embedding": weights["model.shared.weight"]},
        "encoder": {},
    }
    for i in range(num_layers):
        layer = f"model.encoder.layers.{i}."
        params["encoder"][f"blocks_{i}"] = _marian_block(weights, layer)
        layer = f"model.decoder.layers.{i}."
        params[f"decoder_{i}"] = {
            **_marian_block(weights, layer),
            "cross_attention": _attention(weights, f"{layer}encoder_attn."),
            "cross_attention_norm": layer_norm(weights, f"{layer}encoder_attn_layer_norm"),
        }
    return params


def _marian_block(weights: Arrays, layer: str) -> Params:
    return {
        "self_attention": _attention(weights, f"{layer}self_attn."),
        "self_attention_norm": layer_norm(weights, f"{layer}self_attn_layer_norm"),
        "mlp": {"up": dense(weights, f"{layer}fc1"), "down": dense(weights, f"{layer}fc2")},
        "mlp_norm": layer_norm(weights, f"{layer}final_layer_norm"),
    }


def _attention(weights: Arrays, prefix: str, out: str = "out_proj") -> Params:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": out}
    return {ours: dense(weights, prefix + theirs) for ours, theirs in names.items()}


def variables(params: Params) -> dict[str, Params]:
    return {"params": jax.tree.map(jnp.asarray, params)}
