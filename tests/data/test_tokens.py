from __future__ import annotations

import builtins
import json

import numpy as np
import pytest

from jaxnet.data import Tokenizer, fit_tokenizer, token_windows
from jaxnet.data.text.tokenizer import END, MASK, PAD, START, UNKNOWN
from jaxnet.errors import InputError, UsageError

TEXT = "Now is the winter of our discontent\nMade glorious summer by this sun of York;\n\n  naïve é"
STRANGE = [
    "[PAD][END]",
    " \t\n\n x",
    "日本語 \U0001f600 e\u0301",
    "\x00\x7f",
    "[MASK] it",
    "a" * 300,
]


@pytest.mark.parametrize("text", [*STRANGE, TEXT])
def test_bytes_come_back_as_they_went(text):
    tokenizer = fit_tokenizer(TEXT, "bpe", vocab_size=280, mask=True)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text).min() > tokenizer.id_of(MASK)


def test_characters_come_back_as_they_went():
    tokenizer = fit_tokenizer(["".join(STRANGE), TEXT], "character")
    for text in (*STRANGE, TEXT):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert (len(ids), ids.dtype) == (len(text), np.int32)
    assert tokenizer.vocab_size == len(set("".join(STRANGE) + TEXT)) + 4
    assert tokenizer.encode("q").tolist() == [tokenizer.id_of(UNKNOWN)]


def test_joining_pairs_shortens_texts():
    tokenizer = fit_tokenizer(TEXT, "bpe", vocab_size=300)
    assert tokenizer.vocab_size == 300
    assert len(tokenizer.encode(TEXT)) < len(fit_tokenizer(TEXT, "bpe", 260).encode(TEXT))


def test_words():
    texts = ["Free entry! Call 0800 now", "free free now..."]
    tokenizer = fit_tokenizer(texts, "word", vocab_size=7, lowercase=True, min_count=2)
    assert tokenizer.vocab_size == 6
    ids = tokenizer.encode("FREE money now")
    assert tokenizer.decode(ids) == "free now"
    assert ids.tolist() == [4, 1, 5]


def test_special_tokens_have_the_first_ids():
    tokenizer = fit_tokenizer(TEXT, "word", mask=True)
    assert [tokenizer.id_of(token) for token in (PAD, UNKNOWN, START, END, MASK)] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="no '\\[MASK\\]'"):
        fit_tokenizer(TEXT, "word").id_of(MASK)


def test_batches_are_padded_and_cut_off():
    tokenizer = fit_tokenizer("abc", "character")
    a, b, c = (tokenizer.id_of(letter) for letter in "abc")
    tokens = tokenizer.encode_batch(["abc", "a"])
    assert tokens.tolist() == [[a, b, c], [a, 0, 0]]
    assert tokens.dtype == np.int32
    tokens = tokenizer.encode_batch(["abc", "a"], 4, start=True, end=True)
    assert tokens.tolist() == [[2, a, b, 3], [2, a, 3, 0]]
    assert tokenizer.encode_batch(["a"], 5).tolist() == [[a, 0, 0, 0, 0]]
    assert tokenizer.decode_batch(tokens) == ["ab", "a"]


@pytest.mark.parametrize("level", ["character", "word", "bpe"])
def test_saved_and_loaded(level, tmp_path):
    tokenizer = fit_tokenizer(TEXT, level, 300)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    for text in (*STRANGE, TEXT):
        assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert loaded.decode(loaded.encode(TEXT)) == tokenizer.decode(tokenizer.encode(TEXT))


def test_windows_predict_each_token_once():
    tokens = np.arange(100, 123)
    pieces = token_windows(tokens, 5)
    assert pieces.inputs.shape == pieces.labels.shape == (4, 5)
    assert pieces.labels.ravel().tolist() == tokens[1:21].tolist()
    np.testing.assert_array_equal(pieces.inputs[:, 1:], pieces.labels[:, :-1])
    closer = token_windows(tokens, 5, stride=2)
    assert closer.inputs[:, 0].tolist() == list(range(100, 118, 2))
    assert len(token_windows(tokens[:6], 5)) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_tokenizer([]), "at least one text, got none"),
        (lambda: fit_tokenizer(["a", ""]), "text in row 1, got an empty one"),
        (lambda: fit_tokenizer(["a", 3]), "text in row 1, got 3"),
        (lambda: fit_tokenizer("ab", "character").encode(""), "got an empty one"),
        (lambda: fit_tokenizer("ab", "character").encode_batch([]), "got none"),
        (lambda: fit_tokenizer("ab", "character").encode_batch("ab"), "put it into a list"),
        (lambda: token_windows(np.arange(5), 5), r"more than 5 tokens .* got \(5,\)"),
    ],
)
def test_texts_that_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_tokenizer("a", "words"), "unknown level 'words'; did you mean 'word'"),
        (lambda: fit_tokenizer("a", "bpe", 200), "vocab_size of at least 260, got 200"),
        (lambda: fit_tokenizer("a", "word").encode_batch(["a"], 2, start=True, end=True), "3, got"),
        (lambda: token_windows(np.arange(5), 2, stride=0), "at least 1, got 2 and 0"),
    ],
)
def test_options_that_are_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_files_that_are_refused(tmp_path):
    file = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match="No such file"):
        Tokenizer.load(file)
    file.write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json: not the JSON of a tokenizer"):
        Tokenizer.load(file)
    values = json.loads(fit_tokenizer("ab", "character").to_json())
    values["added_tokens"][0]["content"] = "<pad>"
    values["model"]["vocab"]["<pad>"] = values["model"]["vocab"].pop("[PAD]")
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"token 0 is \[PAD\].*'<pad>'"):
        Tokenizer.load(file)


def test_without_the_library(monkeypatch):
    found = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "tokenizers":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match="pip install tokenizers"):
        fit_tokenizer("a")
