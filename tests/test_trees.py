from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import trees
from jaxnet.errors import InputError

PARAMS = {
    "encoder": {
        "Dense_0": {"kernel": np.zeros((4, 3), np.float32), "bias": np.zeros(3, np.float32)},
        "LayerNorm_0": {"scale": np.ones(3, np.float32)},
    },
    "head": {"kernel": np.zeros((3, 2), np.float32), "bias": np.zeros(2, np.float32)},
}


def picked(*patterns: str) -> set[str]:
    chosen = jax.tree.leaves(trees.mask(PARAMS, *patterns))
    named = jax.tree.leaves(trees.paths(PARAMS))
    return {path for path, yes in zip(named, chosen, strict=True) if yes}


def test_paths_name_dict_keys_attributes_and_indices():
    state = {"opt": optax.adam(1e-3).init({"w": jnp.zeros(2)}), "layers": [1, (2, 3)]}
    assert jax.tree.leaves(trees.paths(state)) == [
        "layers/0",
        "layers/1/0",
        "layers/1/1",
        "opt/0/count",
        "opt/0/mu/w",
        "opt/0/nu/w",
    ]
    assert jax.tree.structure(trees.paths(state)) == jax.tree.structure(state)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("head/kernel", "head/kernel", True),
        ("head", "head/kernel", False),
        ("head/*", "head/kernel", True),
        ("*", "head/kernel", False),
        ("*/kernel", "encoder/Dense_0/kernel", False),
        ("**", "encoder/Dense_0/kernel", True),
        ("**/kernel", "encoder/Dense_0/kernel", True),
        ("**/kernel", "kernel", True),
        ("encoder/**", "encoder/Dense_0/kernel", True),
        ("encoder/**", "encoder2/Dense_0/kernel", False),
        ("encoder/**/kernel", "encoder/kernel", True),
        ("**/Dense_?/**", "encoder/Dense_0/kernel", True),
        ("**/Dense_?/*", "encoder/Dense_10/kernel", False),
        ("**/Dense_[0-2]/*", "encoder/Dense_3/kernel", False),
        ("**/Dense_[!0-2]/*", "encoder/Dense_3/kernel", True),
        ("**/*/**/bias", "a/b/c/bias", True),
        ("HEAD/*", "head/kernel", False),
        ("head.kernel", "head/kernel", False),
        ("", "", True),
    ],
)
def test_matches(pattern: str, path: str, expected: bool):
    assert trees.matches(pattern, path) is expected


def test_mask_is_the_union_of_its_patterns():
    assert picked("**/bias", "encoder/LayerNorm_*/scale") == {
        "encoder/Dense_0/bias",
        "head/bias",
        "encoder/LayerNorm_0/scale",
    }
    assert picked() == set()


def test_mask_keeps_the_structure_and_works_on_abstract_trees():
    abstract = jax.eval_shape(lambda: PARAMS)
    assert trees.mask(abstract, "head/**") == trees.mask(PARAMS, "head/**")


def test_a_pattern_that_matches_nothing_lists_the_paths_nearest_first():
    with pytest.raises(InputError) as error:
        trees.mask(PARAMS, "head/**", "encoder/Dense0/kernel")
    lines = str(error.value).splitlines()
    assert lines[0] == "pattern 'encoder/Dense0/kernel' matches none of these 5 paths:"
    assert lines[1].strip() == "encoder/Dense_0/kernel"
    assert {line.strip() for line in lines[1:]} == set(jax.tree.leaves(trees.paths(PARAMS)))


def test_the_list_of_paths_is_cut_and_says_so():
    with pytest.raises(InputError, match=r"these 30 paths:\n(  \w+\n){20}  \.\.\. and 10 more$"):
        trees.mask({f"w{i}": 0.0 for i in range(30)}, "kernel")


def test_a_pattern_over_an_empty_tree_is_an_error():
    with pytest.raises(InputError, match="no leaves"):
        trees.mask({}, "**")


def test_a_mask_works_in_optax():
    optimizer = optax.masked(optax.sgd(1.0), lambda params: trees.mask(params, "**/bias"))
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = optimizer.update(grads, optimizer.init(grads))
    assert float(updates["head"]["bias"][0]) == -1.0
    assert float(updates["head"]["kernel"][0, 0]) == 1.0


def test_differences_says_what_is_missing_added_or_changed():
    expected = {
        "Dense_0": {"kernel": jax.ShapeDtypeStruct((784, 300), jnp.float32)},
        "Dense_1": {"kernel": jax.ShapeDtypeStruct((64, 10), jnp.float32)},
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    got = {
        "Dense_0": {"kernel": np.zeros((784, 512), np.float32)},
        "Dense_2": {"bias": np.zeros(10, np.float16)},
        "step": np.int64(0),
    }
    assert trees.differences(expected, got) == [
        "! Dense_0/kernel expected float32[784,300], got float32[784,512]",
        "- Dense_1/kernel float32[64,10] (expected, missing)",
        "! step expected int32[], got int64[]",
        "+ Dense_2/bias float16[10] (not expected)",
    ]


def test_differences_is_empty_for_the_same_shapes_whatever_the_values():
    assert (
        trees.differences(PARAMS, jax.eval_shape(lambda: jax.tree.map(jnp.ones_like, PARAMS))) == []
    )


def test_differences_sees_other_containers_around_the_same_leaves():
    class Moments(NamedTuple):
        mean: float
        variance: float

    assert trees.differences([1.0, 2.0], [3.0, 4.0]) == []
    assert len(trees.differences([1.0, 2.0], (1.0, 2.0))) == 1
    (line,) = trees.differences(Moments(0.0, 1.0), {"mean": 0.0, "variance": 1.0})
    assert line.startswith("! containers expected") and "Moments" in line


def test_count_and_size_bytes():
    tree = {
        "kernel": jax.ShapeDtypeStruct((5, 7), jnp.bfloat16),
        "bias": jnp.zeros(7),
        "step": np.int32(3),
        "none": None,
    }
    assert trees.count(tree) == 5 * 7 + 7 + 1
    assert trees.size_bytes(tree) == 5 * 7 * 2 + 7 * 4 + 4
    assert trees.count({}) == trees.size_bytes({}) == 0


def test_size_bytes_of_abstract_keys():
    assert trees.size_bytes(jax.eval_shape(lambda: jax.random.key(0))) == 8
