from __future__ import annotations

import numpy as np
import pytest

from jaxnet.data import (
    read_class_files,
    read_class_folders,
    read_labelled_lines,
    read_lines,
    read_text_table,
    split,
)
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


TABLE = 'id,kind,"the body"\n1,spam,"Win,\na ""prize"""\n\n2,ham, nine \n3,7,x\n'


def test_columns_of_a_table(tmp_path):
    tabs = TABLE.replace('"Win,', '"Win;').replace(",", "\t").replace(";", ",")
    for name, content in (("a.csv", TABLE), ("a.tsv", "\ufeff" + tabs.replace("\n", "\r\n"))):
        texts = read_text_table(write(tmp_path, name, content), text="the body", label="kind")
        assert texts.texts == ('Win,\na "prize"', "nine", "x")
        assert texts.class_names == ("7", "ham", "spam")
        assert texts.labels.tolist() == [2, 1, 0]
    long = "word " * 40_000
    path = write(tmp_path, "b.csv", f"t|l\n{long}|a\nb|b\n".encode("utf-16"))
    assert read_text_table(path, "t", "l").texts == (long.strip(), "b")
    path = write(tmp_path, "c.csv", "t,l\nhäuser,a\nb,b\n".encode("cp1252"))
    assert read_text_table(path, "t", "l", encoding="cp1252").texts[0] == "häuser"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "'t' and 'l' in the header, got an empty file: there is no 't'"),
        ("t,kind\na,b\n", "t.csv: expected columns .* got 't', 'kind': there is no 'l'"),
        ("t,l,t\na,b,c\n", "expected one column 't' in the header, got several"),
        ("t,l\n", "expected rows below the header, got none"),
        ("t,l\na,x\nb,c,y\n", "t.csv, line 3: expected 2 fields, as in the header, got 3: a text"),
        ("t,l\na,x\n ,y\n", "t.csv, line 3: there is nothing in column 't'"),
        ('t,l\na,x\n"b\nc",\n', "t.csv, line 4: there is nothing in column 'l'"),
        ('t,l\na,x\n"b" c,y\n', "t.csv, line 3: .* has to be in quotes"),
        ("t,l\na,x\nb,x\n", "t.csv: expected at least two classes, got x"),
        (b"t,l\n\xe4,x\n", "t.csv: expected UTF-8, got byte 0xe4 at 4; .*encoding='cp1252'"),
    ],
)
def test_tables_that_are_refused(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_text_table(write(tmp_path, "t.csv", content), "t", "l")


def test_a_folder_for_each_class(tmp_path):
    for name, content in {"neg/2": "bad\n", "neg/10": "worse", "pos/1": "good,\nfine"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path, f"{name}.txt", content)
    write(tmp_path, "pos/.hidden.txt", "")
    write(tmp_path, "pos/readme.md", "")
    (tmp_path / ".git").mkdir()
    texts = read_class_folders(tmp_path)
    assert texts.texts == ("worse", "bad", "good,\nfine")
    assert (texts.class_names, texts.labels.tolist()) == (("neg", "pos"), [0, 0, 1])
    write(tmp_path, "pos/3.txt", b"\xe4")
    with pytest.raises(InputError, match=r"pos/3.txt: expected UTF-8, got byte 0xe4"):
        read_class_folders(tmp_path)
    assert read_class_folders(tmp_path, encoding="cp1252").texts[-1] == "ä"
    write(tmp_path, "pos/2.txt", " \n")
    with pytest.raises(InputError, match=r"pos/2.txt: expected a text, got an empty file"):
        read_class_folders(tmp_path)
    (tmp_path / "pos" / "2.txt").unlink()
    (tmp_path / "pos" / "3.txt").unlink()
    (tmp_path / "unsup").mkdir()
    with pytest.raises(InputError, match=r"unsup: expected .txt files, got none"):
        read_class_folders(tmp_path.parent / tmp_path.name)
    with pytest.raises(InputError, match=r"take .*, which has sub-folders"):
        (tmp_path / "all" / "train" / "neg").mkdir(parents=True)
        read_class_folders(tmp_path / "all")
    with pytest.raises(InputError, match="got no sub-folder"):
        read_class_folders(tmp_path / "neg")
