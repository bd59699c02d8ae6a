from __future__ import annotations

import json

import numpy as np
import pytest

from jaxnet.data import TextEncoder, Texts, fit_texts, load_docstrings, load_python_reference
from jaxnet.data.encoders import encoder_from_json, encoder_to_json
from jaxnet.errors import InputError

TEXTS = Texts(("good, good film", "a bad film"), np.array([1, 0], np.int32), ("neg", "pos"))


def test_texts_become_arrays():
    encoder = fit_texts(TEXTS, length=3)
    arrays = encoder.arrays(TEXTS)
    assert arrays.inputs.shape == (2, *encoder.shape) == (2, 3)
    assert arrays.labels.tolist() == [1, 0]
    assert (arrays.class_names, arrays.name) == (("neg", "pos"), "texts")
    words = encoder.tokenizer
    assert [words.decode([token]) for token in arrays.inputs[0]] == ["good", ",", "good"]
    np.testing.assert_array_equal(encoder(np.array(["A BAD film"])), arrays.inputs[1:])


def test_only_the_training_part_is_known():
    encoder = fit_texts(TEXTS, length=4, start=True)
    assert encoder(["worse film"])[0].tolist() == [2, 1, encoder.tokenizer.id_of("film"), 0]


def test_written_down_and_made_again():
    encoder = fit_texts(TEXTS, "bpe", 270, 6, lowercase=False, start=True)
    again = encoder_from_json(json.loads(json.dumps(encoder_to_json(encoder))))
    assert isinstance(again, TextEncoder)
    assert (again.length, again.start) == (6, True)
    np.testing.assert_array_equal(again(["Any text"]), encoder(["Any text"]))
    assert encoder_from_json(encoder_to_json(None)) is None


@pytest.mark.parametrize(
    "values",
    [{}, 3, {"text": 3}, {"text": {"length": 3}}, {"image": {}}, {"text": {}, "table": {}}],
)
def test_values_that_describe_no_encoder(values):
    with pytest.raises(InputError, match=r"(?i)encoder"):
        encoder_from_json(values)


def test_an_empty_text_is_refused():
    with pytest.raises(InputError, match="text in row 1, got an empty one"):
        fit_texts(TEXTS)(["film", ""])


@pytest.mark.slow
def test_sentences_of_documentation():
    texts = load_docstrings(("numpy", "scipy"), each=40)
    assert np.bincount(texts.labels).tolist() == [40, 40]
    assert len(set(texts.texts)) == 80
    for text in texts.texts:
        assert 6 <= len(text.split()) <= 40
        assert text[0].isupper() and text[-1] in ".!?"
        assert "numpy" not in text.lower() and "scipy" not in text.lower()
    assert load_docstrings(("scipy", "numpy"), each=40).texts == texts.texts
    with pytest.raises(InputError, match=r"no_such_library isn't installed"):
        load_docstrings(("no_such_library", "numpy"))
    with pytest.raises(InputError, match=r"expected 100000 sentences of tyro, found \d"):
        load_docstrings(("tyro",), each=100_000)


def test_the_python_reference():
    text = load_python_reference()
    assert len(text) > 300_000
    assert text.isprintable() or "\n" in text
