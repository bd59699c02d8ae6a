from __future__ import annotations

import numpy as np
import pytest

from jaxnet.data import read_class_files, read_labelled_lines, read_lines, split
from jaxnet.errors import InputError


def write(folder, name: str, content: str | bytes):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_labelled_lines(tmp_path):
    content = "\ufeffspam\tWin\ta prize \r\n\r\nham\tnaïve\x85words\u2028here\nspam\t!\n"
    texts = read_labelled_lines(write(tmp_path, "mails.tsv", content))
    assert texts.texts == ("Win\ta prize", "naïve\x85words\u2028here", "!")
    assert texts.class_names == ("ham", "spam")
    assert texts.labels.tolist() == [1, 0, 1]
    assert texts.labels.dtype == np.int32
    assert texts.name == "mails.tsv"


def test_a_file_for_each_class(tmp_path):
    files = {
        "pos": write(tmp_path, "a.pos", "good\n\nfine \n"),
        "neg": write(tmp_path, "a.neg", "bad"),
    }
    texts = read_class_files(files, name="reviews")
    assert texts.texts == ("good", "fine", "bad")
    assert (texts.class_names, texts.labels.tolist()) == (("neg", "pos"), [1, 1, 0])
    train, test = split(texts.take(np.array([0, 2, 1, 2])), (0.5, 0.5))
    for part in (train, test):
        assert [part.class_names[label] for label in part.labels] == [
            "neg" if text == "bad" else "pos" for text in part.texts
        ]


def test_the_sms_collection_and_the_film_reviews(data_dir):
    messages = read_labelled_lines(data_dir / "sms_spam.tsv")
    assert (len(messages), int(messages.labels.sum())) == (5574, 747)
    folder = data_dir / "rt_polarity"
    reviews = read_class_files(
        {"negative": folder / "rt-polarity.neg", "positive": folder / "rt-polarity.pos"}
    )
    assert np.bincount(reviews.labels).tolist() == [5331, 5331]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "t.tsv: expected lines of text, got an empty file"),
        (" \n\n", "t.tsv: expected lines of text, got an empty file"),
        ("a\tx\n\nb y\n", "t.tsv, line 3: expected a class, '.t' and a text, got 'b y'"),
        ("a\tx\nb\t \n", "t.tsv, line 2: expected a class"),
        ("a\tx\na\ty\n", "t.tsv: expected at least two classes, got a"),
        (b"a\tx\nb\t\xe4\n", "t.tsv: expected UTF-8, got byte 0xe4 at 6"),
    ],
)
def test_files_that_are_refused(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_labelled_lines(write(tmp_path, "t.tsv", content))


def test_a_file_that_isnt_there(tmp_path):
    with pytest.raises(InputError, match="absent: No such file"):
        read_lines(tmp_path / "absent")
