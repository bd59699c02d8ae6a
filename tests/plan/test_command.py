"""`jaxnet plan`, and what the compiler makes of the layouts that it plans."""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import pytest

from jaxnet import __main__ as jaxnet_main
from jaxnet.app import cli
from jaxnet.plan import command

GPT = "--model gpt2 --options vocab_size 64 features 32 num_layers 2 num_heads 4 dropout 0.0"
SMALL = [*GPT.split(), "--length", "16", "--batch-size", "16"]
MLP = [
    "--model",
    "mlp",
    "--options",
    "hidden",
    "(64,)",
    "num_classes",
    "16",
    "--example",
    "32",
    "--batch-size",
    "64",
]


@pytest.fixture
def plan(monkeypatch, capsys):
    """Runs the command, and gives its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/jaxnet", "plan", *arguments])
        code = jaxnet_main.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def layouts(plan):
    """What the command says of layouts, as JSON."""

    def run(*arguments: str) -> list[dict[str, Any]]:
        code, out, _ = plan(*arguments, "--json")
        assert code == cli.DONE
        return json.loads(out)["layouts"]

    return run


def test_tables(plan):
    code, out, _ = plan(
        *SMALL, "--no-compile", "--layouts", "data=8", "fsdp=2,sequence=2", "data=3"
    )
    assert code == cli.DONE
    assert "GPT2, batches of 16, adam, float32" in out
    assert "8 x H100 SXM a host" in out and "NVIDIA H100 data sheet" in out
    assert "all-reduce over data" in out and "collective-permute over sequence" in out
    assert "data=3 doesn't fit: a batch of 16 examples" in out
    assert "compiled" not in out


def test_a_layout_that_does_not_fit_alone_is_an_error(plan):
    code, _, err = plan(*SMALL, "--no-compile", "--layout.data", "3")
    assert code == cli.WRONG_USAGE and "a batch of 16 examples" in err
    code, _, err = plan(*SMALL, "--no-compile", "--layouts", "date=2")
    assert code == cli.WRONG_USAGE and "did you mean 'data'" in err
    code, _, err = plan(*SMALL, "--no-compile", "--machine", "h10")
    assert code == cli.WRONG_USAGE and "did you mean 'h100'" in err


def test_rules_stand_at_the_end_of_the_file(plan):
    code, _, err = plan(
        *MLP,
        "--model",
        "flax.linen:Dense",
        "--options",
        "features",
        "8",
        "--no-compile",
        "--layout.tensor",
        "4",
    )
    assert code == cli.WRONG_USAGE and "flax.linen" in err and "SHARDING" in err


@pytest.mark.slow
def test_other_machines_take_other_times(layouts):
    on = {
        machine: layouts(*SMALL, "--no-compile", "--machine", machine)[0]["time"]
        for machine in ("h100", "v5e")
    }
    assert on["v5e"]["compute"] / on["h100"]["compute"] == pytest.approx(494.7 / 197)


def sent(collectives: list[dict[str, Any]]) -> dict[str, int]:
    """Bytes of all of a kind."""
    found: dict[str, int] = {}
    for one in collectives:
        found[one["kind"]] = found.get(one["kind"], 0) + one["size"] * one["count"]
    return found


@pytest.mark.slow
def test_the_compiler_sends_what_was_counted(layouts):
    (data,) = layouts(*MLP, "--layout.data", "8")
    counted, compiled = sent(data["plan"]["collectives"]), sent(data["program"]["collectives"])
    gradients = 4 * (32 * 64 + 64 + 64 * 16 + 16)
    assert counted == {"all-reduce": gradients}
    # Besides the gradients a few sums: of the losses, and of the examples' weights.
    assert set(compiled) == {"all-reduce"}
    assert gradients <= compiled["all-reduce"] <= gradients + 64
    assert data["plan"]["held"]["parameters"] == gradients
    # Arguments: parameters, two moments, a few scalars, and an eighth of the batch.
    batch = 64 * (4 * 32 + 4 + 1) // 8
    assert 0 <= data["program"]["arguments"] - 3 * gradients - batch < 64
    # What is counted are matrix products; the compiler counts Adam's operations too, about 12 for
    # each parameter, and those of the loss.
    rest = data["program"]["flops"] - data["plan"]["flops"]
    assert 0 <= rest < 16 * gradients / 4


@pytest.mark.slow
def test_the_compiler_cuts_a_transformer_as_was_counted(layouts):
    cut = ["--model", "tests.plan.cut:CutGPT2", *SMALL[2:], "--optimizer", "sgd"]
    (tensor,) = layouts(*cut, "--layout.tensor", "4")
    counted, compiled = sent(tensor["plan"]["collectives"]), sent(tensor["program"]["collectives"])
    tokens, softmax = 4 * 16 * 16 * 32, 3 * 4 * 16 * 16
    assert counted == {"all-reduce": (4 * 2 + 2) * tokens}
    # The compiler for CPUs sends the gradients by the input of queries, keys and values one by one.
    assert compiled["all-reduce"] == pytest.approx(
        counted["all-reduce"] + 2 * 2 * tokens + softmax, rel=0.01
    )
    held, program = tensor["plan"]["held"], tensor["program"]
    assert program["arguments"] == pytest.approx(held["parameters"] + held["optimizer"], rel=0.1)


@pytest.mark.slow
def test_what_the_library_shares_out_itself_is_compiled_too(layouts):
    network = (
        "vocab_size 64 length 16 features 32 num_layers 2 num_heads 4 dropout 0.0 num_experts 4"
    )
    job = ["--model", "gpt2", "--options", *network.split(), *SMALL[-4:], "--optimizer", "sgd"]
    stage, sequence, expert = layouts(*job, "--layouts", "stage=2", "sequence=4", "expert=4")
    # What the blocks add to the loss goes from stage to stage with the tokens, a few bytes.
    assert sent(stage["program"]["collectives"]) == pytest.approx(
        sent(stage["plan"]["collectives"]), rel=0.005
    )
    counted, compiled = sent(expert["plan"]["collectives"]), sent(expert["program"]["collectives"])
    assert counted["all-to-all"] == compiled["all-to-all"] > 0
    # The compiler shifts tokens and masks by one place between devices besides, a few bytes.
    ring, by_compiler = (
        sent(sequence[part]["collectives"])["collective-permute"] for part in ("plan", "program")
    )
    assert ring <= by_compiler <= 1.02 * ring


def trained_shapes(**options: Any) -> Any:
    """The shapes of the metrics of a step."""
    config = command.Config(batch_size=4, **options)
    task, batch = command.step_of(config, command.network_of(config))
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    return jax.eval_shape(task.train_step, state, batch)[1]


def test_a_step_of_a_network_with_auxiliary_heads():
    assert "loss" in trained_shapes(model="tests.plan.test_networks:Auxiliary", example=(5,))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("recommender:TwoTower", {"user_sizes": "(9, 3)", "item_sizes": "(5,)"}),
        ("recommender:Ranker", {"sizes": "(9, 3, 5)"}),
    ],
)
def test_networks_that_read_ids(model, options, plan):
    assert "loss" in trained_shapes(model=model, options=options, example=(3,))
    words = ["--model", model, "--options", *(word for pair in options.items() for word in pair)]
    code, out, _ = plan(*words, "--example", "3", "--batch-size", "8", "--no-compile")
    assert code == cli.DONE and model.partition(":")[2] in out
    code, _, err = plan(*words, "--example", "4", "--no-compile")
    assert code == cli.WRONG_USAGE and "expected integers (batch, 3)" in err


def test_outputs_without_a_known_loss_are_an_error(plan):
    code, _, err = plan(
        "--model", "tests.plan.test_networks:Three", "--example", "3", "--no-compile"
    )
    assert code == cli.WRONG_USAGE and "Three gives outputs of shapes (64, 3), (64, 3), (64" in err


def test_axes_without_anything_to_share_out(plan):
    code, _, err = plan(*MLP, "--no-compile", "--layout.sequence", "4")
    assert code == cli.WRONG_USAGE and "MultiHeadAttention, and this network has none" in err


@pytest.mark.slow
def test_axes_that_cannot_be_combined(plan):
    code, out, _ = plan(*SMALL, "--no-compile", "--layouts", "data=2", "stage=2,sequence=2")
    assert code == cli.DONE and "stage=2 sequence=2 doesn't fit: layout: stage=2 can't be" in out


@pytest.mark.slow
def test_hundreds_of_devices(layouts):
    (many,) = layouts(*SMALL, "--batch-size", "512", "--layouts", "data=32,fsdp=8,tensor=2")
    assert many["program"]["collectives"] and many["program"]["seconds"] > 0
    assert max(len(one["group"]) for one in many["program"]["collectives"]) >= 256
