"""Compiled against eager: every layer family and model, forward pass and training step.

    python -m benchmarks.jit_vs_eager [--only Dense MLP ...] [--rounds 7]

With `--only` the report keeps what was measured of the others on the same machine.

Eager is the same function called without `jax.jit`: every operation is dispatched by itself, as in
a notebook. (`jax.disable_jit` would also take apart what JAX compiles of its own accord, which
nobody runs. It does compile the loop of a recurrent layer, anew at every eager call.)

A layer's training step takes the gradient of the mean square of its outputs by its parameters and
inputs, and updates by adam; a model's takes that of the cross-entropy, or of the loss that suits
its outputs, by its parameters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import report
from jaxnet import layers, losses
from jaxnet.models import (
    BERT,
    CNN,
    GPT2,
    MLP,
    VAE,
    VGG,
    AlexNet,
    Autoencoder,
    BERTClassifier,
    BERTMaskedLM,
    BERTTagger,
    CIFARResNet,
    ConvDecoder,
    ConvEncoder,
    DCGANDiscriminator,
    DCGANGenerator,
    DenseDecoder,
    DenseDiscriminator,
    DenseEncoder,
    DenseGenerator,
    GoogLeNet,
    LeNet5,
    Llama,
    Perceptron,
    Ranker,
    RecurrentClassifier,
    RecurrentLM,
    ResNet,
    TabularMLP,
    Transformer,
    TwoTower,
    ViT,
    vit,
)

# A measurement repeats a call until it lasts about so long.
SECONDS = 0.05


class Case(NamedTuple):
    """A module, the shape of its inputs, and what to call it with in training.

    `vocabulary` above 0 means that the inputs are integers below it.
    """

    module: nn.Module
    shape: tuple[int, ...]
    arguments: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never changed
    vocabulary: int = 0


class Pool(nn.Module):
    """A pooling function as a module."""

    function: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.function(inputs, 2)


class Halves(nn.Module):
    """A layer of two sequences as a module of one, of which they are the halves."""

    layer: nn.Module

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        half = inputs.shape[1] // 2
        return self.layer(inputs[:, :half], inputs[:, half:])


HEADS, HIDDEN = partial(layers.MultiHeadAttention, 128, 4), partial(layers.FeedForward, 512)

LAYERS = {
    "Dense": Case(layers.Dense(512), (128, 784)),
    "Conv1D": Case(layers.Conv(32, 3), (32, 128, 16)),
    "Conv2D": Case(layers.Conv(32, 3), (32, 28, 28, 16)),
    "Conv3D": Case(layers.Conv(16, 3), (8, 12, 12, 12, 8)),
    "ConvTranspose": Case(layers.ConvTranspose(32, 4, 2), (32, 14, 14, 16)),
    "DepthwiseConv": Case(layers.DepthwiseConv(3), (32, 28, 28, 16)),
    "SeparableConv": Case(layers.SeparableConv(32, 3), (32, 28, 28, 16)),
    "max_pool": Case(Pool(layers.max_pool), (32, 28, 28, 32)),
    "avg_pool": Case(Pool(layers.avg_pool), (32, 28, 28, 32)),
    "min_pool": Case(Pool(layers.min_pool), (32, 28, 28, 32)),
    "GlobalAvgPool": Case(layers.GlobalAvgPool(), (32, 28, 28, 32)),
    "GlobalMaxPool": Case(layers.GlobalMaxPool(), (32, 28, 28, 32)),
    "GlobalMinPool": Case(layers.GlobalMinPool(), (32, 28, 28, 32)),
    "Maxout": Case(layers.Maxout(256), (128, 784)),
    "PReLU": Case(layers.PReLU(), (128, 64, 64)),
    "BatchNorm": Case(nn.BatchNorm(use_running_average=False), (128, 14, 14, 32)),
    "LayerNorm": Case(nn.LayerNorm(), (128, 64, 64)),
    "RMSNorm": Case(layers.RMSNorm(), (128, 64, 64)),
    "Dropout": Case(nn.Dropout(0.5, deterministic=False), (128, 512)),
    "Embed": Case(layers.Embed(10_000, 64), (64, 100), vocabulary=10_000),
    "SimpleRNN": Case(layers.SimpleRNN(64), (32, 50, 32)),
    "LSTM": Case(layers.LSTM(64), (32, 50, 32)),
    "GRU": Case(layers.GRU(64), (32, 50, 32)),
    "BiLSTM": Case(layers.LSTM(64, bidirectional=True), (32, 50, 32)),
    "LearnedPositions": Case(layers.LearnedPositions(64), (16, 64, 128)),
    "attention": Case(HEADS(), (16, 64, 128)),
    "grouped attention": Case(HEADS(num_kv_heads=2), (16, 64, 128)),
    "cross attention": Case(Halves(HEADS()), (16, 128, 128)),
    "FeedForward": Case(HIDDEN(), (16, 64, 128)),
    "GatedFeedForward": Case(layers.GatedFeedForward(344), (16, 64, 128)),
    "ExpertFeedForward": Case(layers.ExpertFeedForward(HIDDEN, 4), (16, 64, 128), {"train": True}),
    "TransformerBlock": Case(layers.TransformerBlock(HEADS, HIDDEN), (16, 64, 128)),
    "DecoderBlock": Case(Halves(layers.DecoderBlock(HEADS, HIDDEN)), (16, 128, 128)),
}

SMALL_BERT = BERT(2_000, 64, 128, 4, 4, 512)
MODELS = {
    "Perceptron": Case(Perceptron(10, nn.sigmoid), (128, 784), {"train": True}),
    "TabularMLP": Case(TabularMLP(((0, 30), (30, 80))), (128, 100), {"train": True}),
    "MLP": Case(MLP(), (128, 28, 28, 1), {"train": True}),
    "LeNet5": Case(LeNet5(), (64, 28, 28, 1), {"train": True}),
    "CNN": Case(CNN(), (64, 28, 28, 1), {"train": True}),
    "LSTM classifier": Case(
        RecurrentClassifier(2_000, 10, bidirectional=True), (32, 50), {"train": True}, 2_000
    ),
    "LSTM language model": Case(RecurrentLM(2_000), (32, 50), {"train": True}, 2_000),
    "BERT": Case(BERTMaskedLM(SMALL_BERT), (16, 64), {"train": True}, 2_000),
    "BERTClassifier": Case(BERTClassifier(SMALL_BERT, 10), (16, 64), {"train": True}, 2_000),
    "BERTTagger": Case(BERTTagger(SMALL_BERT, 10), (16, 64), {"train": True}, 2_000),
    "TwoTower": Case(TwoTower((1_000,), (1_000,)), (256, 2), {"train": True}, 1_000),
    "Ranker": Case(Ranker((1_000, 1_000)), (256, 2), {"train": True}, 1_000),
    "GPT2": Case(GPT2(2_000, 50, 128, 2, 4), (32, 50), {"train": True}, 2_000),
    "Llama": Case(Llama(2_000, 128, 2, 4, 344, num_kv_heads=2), (32, 50), {"train": True}, 2_000),
    "Transformer": Case(Transformer(2_000, 128, 2, 4, 512), (32, 50), {"train": True}, 2_000),
    "AlexNet": Case(AlexNet(10, dense=(256, 256)), (8, 64, 64, 3), {"train": True}),
    "VGG11": Case(VGG(11, num_classes=10, dense=(256, 256)), (8, 32, 32, 3), {"train": True}),
    "GoogLeNet": Case(GoogLeNet(10, auxiliary=False), (8, 32, 32, 3), {"train": True}),
    "GoogLeNet with heads": Case(GoogLeNet(10), (8, 32, 32, 3), {"train": True}),
    "ResNet18": Case(ResNet(18, 10), (8, 32, 32, 3), {"train": True}),
    "ResNet50": Case(ResNet(50, 10), (8, 32, 32, 3), {"train": True}),
    "CIFARResNet20": Case(CIFARResNet(20), (8, 32, 32, 3), {"train": True}),
    "DenseGenerator": Case(DenseGenerator(), (64, 100)),
    "DenseDiscriminator": Case(DenseDiscriminator(), (64, 28, 28, 1), {"train": True}),
    "DCGANGenerator": Case(DCGANGenerator(features=32), (32, 100), {"train": True}),
    "DCGANDiscriminator": Case(DCGANDiscriminator(32), (32, 28, 28, 1), {"train": True}),
    "Autoencoder": Case(Autoencoder(DenseEncoder(32), DenseDecoder((28, 28, 1))), (64, 28, 28, 1)),
    "ConvAutoencoder": Case(
        Autoencoder(ConvEncoder(32), ConvDecoder((28, 28, 1))), (32, 28, 28, 1)
    ),
    "VAE": Case(VAE(DenseEncoder(40, (400,)), DenseDecoder((28, 28, 1), (400,))), (64, 28, 28, 1)),
    "ConvVAE": Case(VAE(ConvEncoder(40), ConvDecoder((28, 28, 1))), (32, 28, 28, 1)),
    "ViT-S": Case(ViT(8, 10, **vit.SIZES["s"]), (8, 32, 32, 3), {"train": True}),
}


@dataclass(frozen=True)
class Options:
    """Time layers and models with and without jax.jit."""

    only: tuple[str, ...] = ()
    """Which layers and models; default all."""
    rounds: int = 7
    """Interleaved measurements of each."""
    out: Path = report.RESULTS
    """Where to write jit_vs_eager.json and jit_vs_eager.png."""


@dataclass(frozen=True)
class Result:
    """Seconds a call, round by round, and the largest difference of any number in the results."""

    name: str
    kind: str
    what: str
    jit: tuple[float, ...]
    eager: tuple[float, ...]
    difference: float

    @property
    def speedups(self) -> tuple[float, ...]:
        """How many times longer eager took, round by round."""
        return tuple(slow / fast for slow, fast in zip(self.eager, self.jit, strict=True))


def measure(name: str, case: Case, rounds: int) -> list[Result]:
    """Forward pass and training step of one case, compiled and eager in turn."""
    kind = "model" if name in MODELS else "layer"
    variables, inputs = _start(case)
    optimizer = optax.adam(1e-3)
    state = (variables, optimizer.init(variables["params"]))
    jobs = {
        "forward": (partial(_forward, case), (variables, inputs)),
        "train step": (partial(_train_step, case, optimizer, kind), (state, inputs)),
    }
    return [
        _race(name, kind, what, function, arguments, rounds)
        for what, (function, arguments) in jobs.items()
    ]


def _start(case: Case) -> tuple[dict[str, Any], jax.Array]:
    rng = np.random.default_rng(0)
    if case.vocabulary:
        inputs = jnp.asarray(rng.integers(0, case.vocabulary, case.shape), jnp.int32)
    else:
        inputs = jnp.asarray(rng.standard_normal(case.shape), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.jit(partial(case.module.init, **case.arguments))(keys, inputs)
    return {"params": {}, **variables}, inputs


def _forward(case: Case, variables: dict[str, Any], inputs: jax.Array) -> Any:
    return case.module.apply(
        variables,
        inputs,
        rngs={"dropout": jax.random.key(2)},
        mutable=["batch_stats"],
        **case.arguments,
    )


def _train_step(
    case: Case,
    optimizer: optax.GradientTransformation,
    kind: str,
    state: tuple[dict[str, Any], optax.OptState],
    inputs: jax.Array,
) -> Any:
    variables, opt_state = state
    labels = jnp.arange(len(inputs)) % 10

    def objective(params: Any, inputs: jax.Array) -> tuple[jax.Array, Any]:
        outputs, collections = _forward(case, {**variables, "params": params}, inputs)
        if kind == "model":
            return _model_loss(outputs, labels), collections
        return jnp.mean(outputs**2), collections

    by = 0 if kind == "model" or case.vocabulary else (0, 1)
    differentiate = jax.value_and_grad(objective, argnums=by, has_aux=True)
    (loss, collections), grads = differentiate(variables["params"], inputs)
    params_grads, *inputs_grads = grads if isinstance(by, tuple) else (grads,)
    updates, opt_state = optimizer.update(params_grads, opt_state)
    params = optax.apply_updates(variables["params"], updates)
    return ({**variables, **collections, "params": params}, opt_state), loss, inputs_grads


def _model_loss(outputs: Any, labels: jax.Array) -> jax.Array:
    """The loss of two towers, auxiliary heads, images, one number, or classes, as outputs are."""
    if isinstance(outputs, tuple):
        first, second, *more = outputs
        if not more:
            return losses.in_batch_softmax((first, second), jnp.arange(len(labels))).mean()
        main, *heads = (_model_loss(each, labels) for each in outputs)
        return main + 0.3 * sum(heads)
    if outputs.ndim == 4:
        return jnp.mean(outputs**2)
    if outputs.shape[-1] == 1:
        return losses.squared_error(outputs, labels).mean()
    # A language model has outputs at each place of a text.
    wanted = jnp.broadcast_to(labels.reshape(-1, *[1] * (outputs.ndim - 2)), outputs.shape[:-1])
    return losses.cross_entropy(outputs, wanted).mean()


def _race(
    name: str, kind: str, what: str, function: Callable, arguments: tuple, rounds: int
) -> Result:
    forms = {"jit": jax.jit(function), "eager": function}
    results = {form: jax.block_until_ready(call(*arguments)) for form, call in forms.items()}
    calls = {form: _calls(call, arguments) for form, call in forms.items()}
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form, call in forms.items():
            seconds[form].append(_seconds(call, arguments, calls[form]))
    return Result(
        name, kind, what, tuple(seconds["jit"]), tuple(seconds["eager"]), _difference(**results)
    )


def _calls(call: Callable, arguments: tuple) -> int:
    return max(1, round(SECONDS / _seconds(call, arguments, 1)))


def _seconds(call: Callable, arguments: tuple, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(call(*arguments))
    return (time.perf_counter() - start) / calls


def _difference(jit: Any, eager: Any) -> float:
    pairs = zip(jax.tree.leaves(jit), jax.tree.leaves(eager), strict=True)
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs)


def show(results: list[Result]) -> None:
    """Print one line a measurement."""
    rows = [
        [
            f"{result.name}, {result.what}",
            f"{1e3 * median(result.jit):.3f}",
            f"{1e3 * median(result.eager):.3f}",
            f"{median(result.speedups):.1f}",
            f"{min(result.speedups):.1f} .. {max(result.speedups):.1f}",
            f"{result.difference:.1e}",
        ]
        for result in results
    ]
    columns = ("what", "jit ms", "eager ms", "eager / jit", "rounds", "max difference")
    report.table("Compiled against eager", columns, rows)


def main(options: Options) -> None:
    """Measure, print and write."""
    from jaxnet.names import lookup

    cases = LAYERS | MODELS
    names = options.only or tuple(cases)
    chosen = {name: lookup(name, cases, "layer or model") for name in names}
    head = report.header("jit_vs_eager", "eager time / jit time")
    head["device"] = jax.devices()[0].device_kind
    results: list[Result] = []
    for number, (name, case) in enumerate(chosen.items(), start=1):
        results += measure(name, case, options.rounds)
        print(f"jit_vs_eager: {name} done, {number} of {len(chosen)}", flush=True)
    show(results)
    print(report.caption(head))
    rows = [
        *(row for row in earlier(head, options.out) if row["name"] not in chosen),
        *map(_row, results),
    ]
    rows.sort(key=lambda row: list(cases).index(row["name"]))
    panels: dict[str, dict[str, report.Bar]] = {}
    for row in rows:
        bar = report.Bar(row["ratio"], min(row["ratios"]), max(row["ratios"]), row["kind"])
        panels.setdefault(row["what"], {})[row["name"]] = bar
    report.write({**head, "results": rows}, panels, options.out)


def earlier(head: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """The rows of an earlier report, if machine, device and versions were the same.

    Each row is a race of its own, so that a part may be measured at another time.
    """
    file = out / "jit_vs_eager.json"
    if not file.exists():
        return []
    found = json.loads(file.read_text())
    same = all(found[key] == head[key] for key in ("machine", "device", "versions"))
    return [row for row in found["results"] if same and row["name"] in LAYERS | MODELS]


def _row(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "kind": result.kind,
        "what": result.what,
        "jit_seconds": result.jit,
        "eager_seconds": result.eager,
        "ratios": result.speedups,
        "ratio": median(result.speedups),
        "max_abs_difference": result.difference,
    }


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
