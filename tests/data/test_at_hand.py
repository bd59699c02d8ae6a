"""Data that JAXNET_DATA_DIR names is found by the commands, and nothing is downloaded then."""

from __future__ import annotations

import pytest

from jaxnet.data.at_hand import at_hand, data_home, home_of
from jaxnet.data.images import by_name
from jaxnet.errors import InputError, UsageError
from train import classify, recommend, text


def test_without_the_variable_nothing_is_at_hand(monkeypatch):
    monkeypatch.delenv("JAXNET_DATA_DIR", raising=False)
    assert (data_home(), at_hand("titanic.csv"), home_of("mnist")) == (None, None, None)


def test_a_folder_that_is_not_there_is_no_silent_default(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"JAXNET_DATA_DIR=.*absent: there is no such folder"):
        at_hand("titanic.csv")


@pytest.mark.parametrize(
    ("held", "known"),
    [
        ("mnist", "mnist"),
        ("MNIST", "mnist"),
        ("fashion-mnist", "fashion_mnist"),
        ("FashionMNIST", "fashion_mnist"),
        ("cifar10_jpg.tar.xz", "cifar10"),
        ("cifar-10-binary.tar.gz", "cifar10"),
        ("cifar-100-python", "cifar100"),
    ],
)
def test_a_set_of_images_is_known_by_its_name(held, known, monkeypatch, tmp_path):
    (tmp_path / held).mkdir()
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path))
    sets = ("mnist", "fashion_mnist", "cifar10", "cifar100")
    assert [name for name in sets if home_of(name)] == [known]

    def refuse(name):
        raise AssertionError(f"{name} would be downloaded")

    monkeypatch.setattr(by_name, "download_original", refuse)
    with pytest.raises(InputError, match=known.split("_")[0]):  # the folder holds no files
        by_name.read_images(known)


def test_tables_and_texts_are_found_and_asked_for_where_they_are_not(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path))
    spam = text.LABELLED["sms_spam"]
    with pytest.raises(UsageError, match="--data sms_spam needs --data-dir"):
        spam(text.Config(data="sms_spam"))
    with pytest.raises(UsageError, match="--data titanic needs --data-dir"):
        classify.DATA["titanic"](classify.Config(data="titanic"))
    with pytest.raises(UsageError, match="--data movielens needs --data-dir"):
        recommend.INTERACTIONS["movielens"](recommend.Config(data="movielens"))
    (tmp_path / "sms_spam.tsv").write_text("spam\tWin\nham\tSee you\n")
    assert spam(text.Config(data="sms_spam")).class_names == ("ham", "spam")
    other = tmp_path / "other.tsv"
    other.write_text("a\tone\nb\ttwo\n")
    assert spam(text.Config(data="sms_spam", data_dir=other)).class_names == ("a", "b")
