"""Layouts by themselves: which leaf lies how, and what is refused."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnet import trees
from jaxnet.errors import InputError, UsageError
from jaxnet.models import BERT, MLP, VGG, BERTClassifier, BERTMaskedLM, Llama, Transformer, ViT
from jaxnet.parallel import Layout
from jaxnet.parallel.model_rules import family_rules
from jaxnet.training import freeze, with_ema
from jaxnet.training.programs import Programs
from tests.parallel.helpers import batches, gpt, mlp, supervised


def shapes(task, data, layout):
    return Programs(task, layout=layout).state(jax.random.key(0), data)


def specs(layout, **arrays):
    return layout.specs({name: np.zeros(shape) for name, shape in arrays.items()})


def test_the_mesh_has_all_axes_and_leaves_them_to_the_compiler():
    mesh = Layout(data=2, tensor=-1).mesh()
    assert mesh.axis_names == ("data", "fsdp", "expert", "stage", "sequence", "tensor")
    assert dict(mesh.shape) == {**dict.fromkeys(mesh.axis_names, 1), "data": 2, "tensor": 4}
    assert mesh.axis_types == (AxisType.Auto,) * 6
    # Neighbours on the innermost axis are neighbours.
    ids = np.vectorize(lambda device: device.id)(mesh.devices).reshape(2, 4)
    assert ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_fewer_devices_than_there_are():
    assert Layout(data=3).mesh().size == 3
    assert Layout(data=2).mesh(jax.devices()[4:6]).devices.flat[0].id == 4


def test_fsdp_takes_the_largest_dimension_that_it_divides():
    layout = Layout(fsdp=4, fsdp_min_size=16)
    assert specs(layout, a=(4, 8), b=(8, 4), c=(9, 4), d=(9, 9), e=(15,), f=(16,), g=()) == {
        "a": P(None, "fsdp"),
        "b": P("fsdp"),
        "c": P(None, "fsdp"),
        "d": P(),
        "e": P(),
        "f": P("fsdp"),
        "g": P(),
    }


def test_fsdp_lies_on_top_of_rules():
    rules = (("a", (None, "tensor")), ("b", (("fsdp", "tensor"),)), ("c", ("tensor",)))
    layout = Layout(fsdp=2, tensor=2, rules=rules, fsdp_min_size=4)
    assert specs(layout, a=(4, 8), b=(8, 16), c=(8,), d=(4, 2)) == {
        "a": P("fsdp", "tensor"),
        "b": P(("fsdp", "tensor")),
        "c": P("tensor"),
        "d": P("fsdp"),
    }


def test_axes_of_one_device_are_left_out():
    rules = (("a", ("data", "tensor")), ("b", (("fsdp", "tensor"), "data")))
    assert specs(Layout(tensor=2, rules=rules), a=(3, 4), b=(2, 3)) == {
        "a": P(None, "tensor"),
        "b": P("tensor"),
    }


def test_the_first_rule_that_matches_decides():
    rules = (("*/a", ()), ("**/a", ("tensor",)))
    tree = {"x": {"a": np.zeros(4)}, "y": {"z": {"a": np.zeros(4)}}}
    assert Layout(tensor=2, rules=rules).specs(tree) == {
        "x": {"a": P()},
        "y": {"z": {"a": P("tensor")}},
    }


def test_optimizer_state_lies_like_its_parameter():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    task = with_ema(freeze(supervised(mlp(), optimizer), "Dense_2/**"), 0.9)
    layout = Layout(fsdp=2, tensor=4, rules=family_rules(task), fsdp_min_size=64)
    state = shapes(task, batches("mlp", 1)[0], layout)
    lies = dict(
        zip(
            [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(state)],
            [leaf.sharding.spec for leaf in jax.tree.leaves(state)],
            strict=True,
        )
    )
    like = {path: spec for path, spec in lies.items() if "Dense_0" in path and "kernel" in path}
    # The parameter, two moments, the moving average.
    assert len(like) == 4 and set(like.values()) == {P("fsdp", "tensor")}
    biases = {path: spec for path, spec in lies.items() if "Dense_0" in path and "bias" in path}
    assert len(biases) == 4 and set(biases.values()) == {P("tensor")}
    assert {spec for path, spec in lies.items() if "count" in path} == {P()}
    assert lies[".key"] == lies[".step"] == P()


def test_a_leaf_of_another_shape_than_the_parameter_it_is_named_after_is_whole():
    state = {
        "params": {"a": np.zeros((8, 8))},
        "opt_state": {"row": {"a": np.zeros(8)}, "mu": {"a": np.zeros((8, 8))}},
        "collections": {"stats": {"mean": np.zeros((8, 8))}},
    }
    assert Layout(fsdp=2, fsdp_min_size=1).specs(state) == {
        "params": {"a": P("fsdp")},
        "opt_state": {"row": {"a": P()}, "mu": {"a": P("fsdp")}},
        "collections": {"stats": {"mean": P()}},
    }


def test_two_players_have_parameters_of_their_own():
    state = {
        name: {"params": {"Dense_0": np.zeros((4, 4))}, "mu": {"Dense_0": np.zeros((4, 4))}}
        for name in ("generator", "discriminator")
    }
    rules = (("generator/**", ("tensor",)), ("discriminator/**", (None, "tensor")))
    lies = Layout(tensor=2, rules=rules).specs(state)
    assert lies["generator"] == {"params": {"Dense_0": P("tensor")}, "mu": {"Dense_0": P("tensor")}}
    assert set(jax.tree.leaves(lies["discriminator"])) == {P(None, "tensor")}


def test_what_an_optimizer_calls_params_isnt_taken_for_parameters():
    state = {
        "params": {"a": np.zeros((4, 4))},
        "opt_state": {"params": {"a": np.zeros((4, 4))}, "memory": {"a": np.zeros((3, 4, 4))}},
    }
    lies = Layout(tensor=2, rules=(("a", ("tensor",)),)).specs(state)
    assert lies["opt_state"] == {"params": {"a": P("tensor")}, "memory": {"a": P()}}


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            Layout(tensor=2, rules=(("bias", ("tensor",)), ("krenel", ("tensor",)))),
            "'krenel' match",
        ),
        (Layout(tensor=2, rules=(("**", (None, None, "tensor")),)), r"bias has 3 dim.* \(6,\)"),
        (
            Layout(tensor=4, rules=(("kernel", (None, ("tensor",))),)),
            r"kernel of shape \(3, 6\) .* 1: 6 isn't divisible by tensor=4\. .*--layout.whole",
        ),
        (
            Layout(tensor=2, fsdp=2, rules=(("kernel", (None, ("tensor", "fsdp"))),)),
            r"6 isn't divisible by tensor=2 x fsdp=2",
        ),
        (Layout(tensor=2), "tensor=2 shards nothing"),
        (Layout(data=-1), r"data is -1.*filled"),
    ],
)
def test_rules_that_cant_be(layout, message):
    with pytest.raises(UsageError, match=message):
        layout.specs({"params": {"bias": np.zeros(6), "kernel": np.zeros((3, 6))}})


def test_a_rule_for_some_networks_only_may_match_nothing():
    rules = (("kernel", ("tensor",)), ("head/kernel", ("tensor",), "optional"))
    assert specs(Layout(tensor=2, rules=rules), kernel=(4,)) == {"kernel": P("tensor")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": 0}, "expected data to be a number of devices, or -1"),
        ({"fsdp": 2.0}, "expected fsdp to be a number of devices"),
        ({"data": -1, "tensor": -1}, "data and tensor are -1"),
        ({"rules": (("a", ("model",)),)}, "names the axis 'model', and the axes are data, fsdp"),
        ({"rules": (("a", ("tensor", "tensor")),)}, "'tensor' twice"),
        ({"rules": ("a",)}, "expected a rule"),
        ({"rules": (("a", "tensor"),)}, "expected a rule"),
        ({"rules": (("a", ("tensor",), "perhaps"),)}, "expected a rule"),
    ],
)
def test_impossible_layouts(options, message):
    with pytest.raises(UsageError, match=message):
        Layout(**options)


def test_a_layout_for_other_devices_than_there_are():
    with pytest.raises(UsageError, match="data=4 x tensor=4 = 16, and there are 8 devices"):
        Layout(data=4, tensor=4).mesh()
    with pytest.raises(UsageError, match="tensor=3 = 3 doesn't divide them"):
        Layout(data=-1, tensor=3).mesh()
    with pytest.raises(UsageError, match="data=2 = 2, and there are 3"):
        Layout(data=2).mesh(jax.devices()[:3])


def test_batches_are_shared_out_by_examples_and_tokens():
    layout = Layout(data=2, fsdp=2, sequence=2)
    mesh = layout.mesh()
    tokens = {
        "inputs": jax.ShapeDtypeStruct((8, 6), jnp.int32),
        "labels": jax.ShapeDtypeStruct((8, 6), jnp.int32),
        "vectors": jax.ShapeDtypeStruct((8, 6, 3), jnp.float32),
        "mask": jax.ShapeDtypeStruct((8,), jnp.bool_),
        "weights": jax.ShapeDtypeStruct((8, 5), jnp.float32),
    }
    lies = {name: sharding.spec for name, sharding in layout.batch(tokens, mesh).items()}
    rows = ("data", "fsdp")
    assert lies == {
        "inputs": P(rows, "sequence"),
        "labels": P(rows, "sequence"),
        "vectors": P(rows, "sequence"),
        "mask": P(rows),
        "weights": P(rows),
    }
    with pytest.raises(UsageError, match=r"6 examples .* data=2 x fsdp=2: .* 4 divides, such as 8"):
        layout.batch({"inputs": np.zeros((6, 6), np.int32)}, mesh)
    with pytest.raises(InputError, match="7 tokens"):
        layout.batch({"inputs": np.zeros((8, 7), np.int32)}, mesh)
    with pytest.raises(InputError, match="this data has none"):
        layout.batch({"inputs": np.zeros((8, 6), np.float32)}, mesh)


@pytest.mark.slow
def test_the_description_counts_what_a_device_holds():
    layout = Layout(data=2, fsdp=4, fsdp_min_size=64)
    programs = Programs(supervised(mlp(), optax.adam(1e-3)), layout=layout)
    batch = batches("mlp", 1)[0]
    shapes = programs.state(jax.random.key(0), batch)
    said = layout.describe(shapes)
    lines = {line.split()[0]: line.split() for line in said.splitlines()}
    assert lines["params/Dense_0/kernel"][1:] == ["(64,", "64)", "float32", "P(fsdp)", "4,096"]
    assert lines["params/Dense_2/bias"][-2:] == ["replicated", "16"]
    assert len(said.splitlines()) == len(jax.tree.leaves(shapes)) + 2
    # What is said is what is: the bytes of the shards on the first device.
    state = programs.init(jax.random.key(0), batch)
    held = sum(
        shard.data.size * shard.data.dtype.itemsize
        for leaf in jax.tree.leaves(jax.tree.map(_numbers, state))
        for shard in leaf.addressable_shards
        if shard.device == jax.devices()[0]
    )
    total = sum(_numbers(leaf).nbytes for leaf in jax.tree.leaves(state))
    assert said.splitlines()[-1] == (
        f"data=2 x fsdp=4: {total:,} bytes in all, {held:,} on each of 8 devices"
    )
    assert held < total / 3


def _numbers(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


TOKENS = np.zeros((2, 8), np.int32)
SMALL = {"features": 16, "num_layers": 2, "num_heads": 2}
LLAMA = Llama(32, **SMALL, hidden=32)
ENCODER = BERT(32, 8, **SMALL, hidden=32)
FAMILIES = {
    "gpt2": (gpt(), TOKENS),
    "gpt2, experts": (gpt().clone(num_experts=4), TOKENS),
    "llama": (LLAMA, TOKENS),
    "llama, tied": (LLAMA.clone(tie=True), TOKENS),
    "bert": (BERTMaskedLM(ENCODER), TOKENS),
    "bert classifier": (BERTClassifier(ENCODER), TOKENS),
    "transformer": (Transformer(32, **SMALL, hidden=32), TOKENS),
    "vit": (ViT(4, 3, num_layers=2, width=16, mlp=32, num_heads=2), np.zeros((2, 8, 8, 1))),
    "mlp": (MLP((16,)), np.zeros((2, 8))),
    "vgg": (VGG(11, num_classes=3, width=4, dense=(64, 64)), np.zeros((2, 32, 32, 3))),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_rules_of_a_family_cut_its_networks(name):
    model, inputs = FAMILIES[name]
    rules = family_rules(supervised(model))
    params = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    layout = Layout(tensor=2, rules=rules)
    lies = layout.specs(params)
    cut = sum(
        leaf.size
        for leaf, spec in zip(jax.tree.leaves(params), jax.tree.leaves(lies), strict=True)
        if "tensor" in spec
    )
    whole = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert cut > (0.8 if name != "vgg" else 0.5) * whole, layout.describe(params)


def test_rules_of_a_family_are_for_its_own_part_of_the_parameters():
    class Scaled(nn.Module):
        network: nn.Module

        def __call__(self, x):
            return 2 * self.network(x)

    inner, outer = family_rules(MLP()), family_rules(supervised(Scaled(MLP())))
    assert outer == tuple((f"network/{pattern}", *rest) for pattern, *rest in inner)
    assert inner[0][0] == "Dense_0/kernel"
    # The bias of BERT's last layer has a rule; that of its norms has the same name, and none.
    model, tokens = FAMILIES["bert"]
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    lies = Layout(tensor=2, rules=family_rules(model)).specs(params)
    norms = [
        spec
        for path, spec in zip(
            jax.tree.leaves(trees.paths(params)), jax.tree.leaves(lies), strict=True
        )
        if path.endswith("norm/bias")
    ]
    assert norms and all("tensor" not in spec for spec in norms)
    assert "tensor" in lies["bias"]


@pytest.mark.slow
def test_every_rule_of_a_family_is_for_something():
    from jaxnet.layers.transformer import SHARDING as BLOCKS

    known = {}
    for name, (model, inputs) in FAMILIES.items():
        params = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
        known[name] = jax.tree.leaves(trees.paths(params))
    for rule in BLOCKS:
        paths = [*known["gpt2"], *known["gpt2, experts"]]
        assert any(trees.matches(rule[0], path) for path in paths), rule
    for families in (("llama", "llama, tied"), ("bert", "bert classifier"), ("mlp",), ("vgg",)):
        for rule in family_rules(FAMILIES[families[0]][0]):
            paths = [path for name in families for path in known[name]]
            # Llama has no biases, and none of these has experts.
            others = rule in BLOCKS and (families[0] == "llama" or "experts" in rule[0])
            assert others or any(trees.matches(rule[0], path) for path in paths), rule
