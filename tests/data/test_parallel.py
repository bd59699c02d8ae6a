"""Texts with their translations: files, folders, and what Babel knows."""

from __future__ import annotations

import gzip

import pytest

from jaxnet.data import ParallelTexts, load_cldr, parallel_folder, read_parallel, split
from jaxnet.errors import InputError


def write(folder, name, lines):
    path = folder / name
    opened = gzip.open if name.endswith(".gz") else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path


def test_lines_belong_together_and_pairs_that_lack_one_are_left_out(tmp_path):
    source = write(tmp_path, "a.txt", ["one", "", "three", "four "])
    target = write(tmp_path, "b.txt.gz", ["eins", "zwei", "", "vier"])
    texts = read_parallel(source, target)
    assert texts.source == ("one", "four") and texts.target == ("eins", "vier")


def test_a_folder_has_three_parts(tmp_path):
    for part in ("train", "val", "test_2016"):
        for language in ("en", "fr.gz"):
            write(tmp_path, f"{part}.{language}", [f"{part} {language}"] * 2)
    train, valid, test = parallel_folder(tmp_path, ("en", "fr"))
    assert (train.source[0], valid.target[0]) == ("train en", "val fr.gz")
    assert len(test) == 2
    write(tmp_path, "test_2017.en", ["x"])
    with pytest.raises(InputError, match=r"one file of test texts.*test_2016.en, test_2017.en"):
        parallel_folder(tmp_path, ("en", "fr"))
    with pytest.raises(InputError, match=r"training texts train\*.de.*got none"):
        parallel_folder(tmp_path, ("en", "de"))


def test_what_does_not_fit_is_refused(tmp_path):
    source, target = write(tmp_path, "a", ["one", "two"]), write(tmp_path, "b", ["eins"])
    with pytest.raises(InputError, match=r"got 2 lines in .*a and 1 in .*b"):
        read_parallel(source, target)
    with pytest.raises(InputError, match="No such file"):
        read_parallel(source, tmp_path / "c")
    with pytest.raises(InputError, match="as many texts as translations"):
        ParallelTexts(("a", "b"), ("c",))
    with pytest.raises(InputError, match="row 1 lacks a text"):
        ParallelTexts(("a", "b"), ("c", ""))


def test_babel_writes_the_same_in_two_languages():
    texts = load_cldr(500)
    assert len(set(zip(texts.source, texts.target, strict=True))) == len(texts) > 450
    assert load_cldr(500).source == texts.source != load_cldr(500, seed=1).source
    months = [i for i, text in enumerate(texts.source) if text.startswith("March ")]
    assert months and all("März" in texts.target[i] for i in months)
    assert not set(load_cldr(50, languages=("en", "fr")).target) & set(texts.target)
    with pytest.raises(InputError, match="code of a language, such as de, got 'xx'"):
        load_cldr(5, languages=("en", "xx"))


def test_it_can_be_split():
    texts = ParallelTexts(tuple("abcdefghij"), tuple("ABCDEFGHIJ"))
    parts = split(texts, (0.8, 0.2), seed=0)
    assert [len(part) for part in parts] == [8, 2]
    assert all(
        a.upper() == b for part in parts for a, b in zip(part.source, part.target, strict=False)
    )
