"""Tokens a second: a small GPT-2 in jaxnet against the same weights in `transformers` on PyTorch.

    python -m benchmarks.generation [--batch 1 8] [--prompt 32] [--new-tokens 128] [--rounds 7]

Both choose greedily and keep keys and values in a cache; that they write the same tokens is
checked. Each contender has a process of its own, and they take turns. PyTorch runs with both
settings of OMP_WAIT_POLICY, and its faster one is compared. All run on the CPU. Needs the extra
[parity].
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import report

BAR = 1.5
CONTENDERS = {
    "jaxnet": {"JAX_PLATFORMS": "cpu"},
    "transformers active": {"OMP_WAIT_POLICY": "active"},
    "transformers passive": {"OMP_WAIT_POLICY": "passive"},
}


@dataclass(frozen=True)
class Options:
    """Race the generation of text by a small GPT-2."""

    batch: tuple[int, ...] = (1, 8)
    """Prompts at once."""
    prompt: int = 32
    """Tokens of a prompt."""
    new_tokens: int = 128
    """Tokens to generate for each."""
    vocab_size: int = 1024
    features: int = 384
    num_layers: int = 6
    num_heads: int = 6
    rounds: int = 7
    """Generations that count; one more warms up."""
    out: Path = report.RESULTS
    """Where to write generation.json and generation.png."""

    @property
    def length(self) -> int:
        """The positions of the network."""
        return self.prompt + self.new_tokens

    def prompts(self, batch: int) -> np.ndarray:
        """(batch, prompt) tokens."""
        rng = np.random.default_rng(0)
        return rng.integers(1, self.vocab_size, (batch, self.prompt)).astype(np.int32)


def _jaxnet(options: Options, weights: Path, batch: int) -> Callable[[], np.ndarray]:
    import jax

    from jaxnet.generation import generate
    from jaxnet.models import GPT2
    from tests.models import parity

    size = (options.vocab_size, options.length, options.features)
    model = GPT2(*size, options.num_layers, options.num_heads)
    with np.load(weights) as stored:
        variables = parity.variables(parity.gpt2(dict(stored), options.num_layers))
    variables = jax.device_put(variables)
    prompts = options.prompts(batch)
    return lambda: generate(model, variables, prompts, options.new_tokens).tokens


def _transformers(options: Options, weights: Path, batch: int) -> Callable[[], np.ndarray]:
    import torch

    torch.set_num_threads(report.cores())
    model = _model(options)
    with np.load(weights) as stored:
        model.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored})
    tokens = torch.from_numpy(options.prompts(batch)).long()
    mask = torch.ones_like(tokens)

    @torch.inference_mode()
    def write() -> np.ndarray:
        made: Any = model.generate(
            tokens, attention_mask=mask, max_new_tokens=options.new_tokens, do_sample=False
        )
        return made[:, options.prompt :].numpy()

    return write


def _model(options: Options) -> Any:
    from tests.models import parity

    library = parity.transformers()
    config = library.GPT2Config(
        vocab_size=options.vocab_size,
        n_positions=options.length,
        n_embd=options.features,
        n_layer=options.num_layers,
        n_head=options.num_heads,
        bos_token_id=None,
        eos_token_id=None,  # nothing ends early
    )
    return library.GPT2LMHeadModel(config).eval()


def _work(pipe: Connection, name: str, options: Options, weights: Path, batch: int) -> None:
    """A contender's process: its tokens first, then the seconds of a generation each time asked."""
    setup = _jaxnet if name == "jaxnet" else _transformers
    write = setup(options, weights, batch)
    pipe.send(write())
    while pipe.recv():
        start = time.perf_counter()
        write()
        pipe.send(time.perf_counter() - start)


def _save_weights(options: Options, path: Path) -> None:
    """Random weights, larger than at the start of training so that tokens vary."""
    import torch

    torch.manual_seed(0)
    model = _model(options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    np.savez(path, **{name: leaf.numpy() for name, leaf in model.state_dict().items()})


def race(options: Options, weights: Path, batch: int) -> dict[str, list[float]]:
    """Tokens a second of each contender, round by round."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes, tokens = {}, [], {}
    for name, environment in CONTENDERS.items():
        pipes[name], theirs = spawn.Pipe()
        process = spawn.Process(
            target=_work, args=(theirs, name, options, weights, batch), daemon=True
        )
        before = dict(os.environ)
        os.environ.update(environment)
        process.start()
        os.environ.clear()
        os.environ.update(before)
        processes.append(process)
        tokens[name] = pipes[name].recv()
    agree = float(np.mean(tokens["jaxnet"] == tokens["transformers active"]))
    if agree < 0.9:  # rounding may turn a near tie, and all that follows it
        raise RuntimeError(f"jaxnet writes other tokens: {agree:.0%} are the same")
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(options.rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            speeds[name].append(batch * options.new_tokens / pipe.recv())
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    return speeds


def main(options: Options) -> None:
    """Race, print and write."""
    head = report.header("generation", "tokens a second")
    panels, results, rows = {}, [], []
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        _save_weights(options, weights)
        races = {batch: race(options, weights, batch) for batch in options.batch}
    for batch, speeds in races.items():
        best = max((name for name in speeds if name != "jaxnet"), key=lambda n: median(speeds[n]))
        ratios = [a / b for a, b in zip(speeds["jaxnet"], speeds[best], strict=True)]
        results.append({"batch": batch, "speeds": speeds, "best": best, "ratios": ratios})
        for name, each in speeds.items():
            ratio = f"{median(ratios):.2f}" if name == best else ""
            rows.append([f"batch {batch}, {name}", f"{median(each):.0f}", ratio])
        panels[f"batch {batch}"] = {
            name: report.Bar(median(each), min(each), max(each), name.split()[0])
            for name, each in speeds.items()
        }
    title = (
        f"GPT-2 of {options.num_layers} layers, {options.features} wide: prompts of "
        f"{options.prompt}, {options.new_tokens} new tokens"
    )
    report.table(title, ("what", "tokens/s", f"jaxnet / this (bar {BAR})"), rows)
    report.write({**head, "bar": BAR, "results": results}, panels, options.out)
    print(report.caption(head))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
