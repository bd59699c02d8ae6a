"""Labelled texts from files; what a network reads of them is made by a tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxnet.digests import array_digest, json_digest, texts_digest
from jaxnet.errors import InputError
from jaxnet.files import expanded, read_text

ENCODING_ADVICE = (
    "say in which encoding it is, encoding='cp1252' for Western European languages on Windows "
    "(--encoding cp1252)"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Texts with their classes; `split` and `k_fold` cut it into parts.

    Attributes:
        texts: n strings, none of them empty.
        labels: (n,) int32 classes.
        class_names: what class 0, 1, ... is called.
        name: what messages call this dataset.
    """

    texts: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str = "texts"

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.texts)

    def fingerprint(self) -> dict[str, str]:
        """What identifies these texts; see `jaxnet.data.fingerprints`."""
        return {
            "texts": texts_digest(self.texts),
            "labels": array_digest(self.labels),
            "class names": json_digest(list(self.class_names)),
        }

    def take(self, indices: np.ndarray) -> Texts:
        """The texts at `indices`, in that order."""
        taken = tuple(self.texts[index] for index in indices)
        return dataclasses.replace(self, texts=taken, labels=self.labels[indices])


def read_lines(path: Path | str, encoding: str | None = None) -> list[str]:
    """The lines of a file, without blanks at their ends and without empty ones.

    Args:
        path: the file.
        encoding: that of a file which isn't in UTF-8, such as `"cp1252"`.

    Raises:
        InputError: the file can't be read, is in another encoding, or holds no text.
    """
    return [line for _, line in _numbered(expanded(path), encoding)]


def read_labelled_lines(
    path: Path | str, separator: str = "\t", encoding: str | None = None
) -> Texts:
    r"""Texts from a file with a class, a separator and a text on each line.

    Args:
        path: the file; an example is the SMS Spam Collection.
        separator: what stands between class and text; the text may hold it too.
        encoding: that of a file which isn't in UTF-8, such as `"cp1252"`.

    Returns:
        The texts in the file's order; classes are in alphabetical order.

    Raises:
        InputError: the file can't be read, a line has no class or no text (the message names it),
            or there is one class only.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mails.tsv"
        >>> _ = path.write_text("spam\tWin a prize\nham\tSee you at nine\n")
        >>> mails = read_labelled_lines(path)
        >>> mails.texts, mails.class_names, mails.labels.tolist()
        (('Win a prize', 'See you at nine'), ('ham', 'spam'), [1, 0])
    """
    path = expanded(path)
    pairs = []
    for number, line in _numbered(path, encoding):
        label, _, text = (part.strip() for part in line.partition(separator))
        if not (label and text):
            raise InputError(
                f"{path}, line {number}: expected a class, {separator!r} and a text, got "
                f"{line[:60]!r}"
            )
        pairs.append((label, text))
    return classified([label for label, _ in pairs], [text for _, text in pairs], path.name)


def read_class_files(
    files: Mapping[str, Path | str], name: str = "texts", encoding: str | None = None
) -> Texts:
    r"""Texts from one file for each class, one text on each line.

    Args:
        files: the file of each class, by the name of the class; an example are the film reviews
            of Pang and Lee (2005).
        name: what messages call this dataset.
        encoding: that of files which aren't in UTF-8, such as `"cp1252"`.

    Returns:
        The texts of the first class, then those of the next; classes in alphabetical order.

    Raises:
        InputError: a file can't be read or holds no text, or there is one class only.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "good.txt").write_text("a delight\nmoving\n")
        >>> _ = (folder / "bad.txt").write_text("tedious\n")
        >>> reviews = read_class_files({"bad": folder / "bad.txt", "good": folder / "good.txt"})
        >>> reviews.texts, reviews.labels.tolist()
        (('tedious', 'a delight', 'moving'), [0, 1, 1])
    """
    labels: list[str] = []
    texts: list[str] = []
    for label, path in files.items():
        lines = read_lines(path, encoding)
        texts += lines
        labels += [label] * len(lines)
    return classified(labels, texts, name)


def read_class_folders(folder: Path | str, encoding: str | None = None) -> Texts:
    r"""Texts from a folder with a sub-folder for each class, and a `.txt` file for each text.

    Args:
        folder: the folder with `CLASS/*.txt`; hidden files and other endings are ignored.
        encoding: that of files which aren't in UTF-8, such as `"cp1252"`.

    Returns:
        The texts of one class after the other, files and classes in alphabetical order.

    Raises:
        InputError: a file can't be read or holds no text, a sub-folder has none, or there is one
            class only.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, text in {"good/1.txt": "a delight,\nmoving", "bad/1.txt": "tedious"}.items():
        ...     (folder / name).parent.mkdir()
        ...     _ = (folder / name).write_text(text)
        >>> read_class_folders(folder).texts
        ('tedious', 'a delight,\nmoving')
    """
    folder = expanded(folder)
    classes = class_folders(folder)
    if not classes:
        raise InputError(f"{folder}: expected texts in {folder}/CLASS/*.txt, got no sub-folder")
    labels: list[str] = []
    texts: list[str] = []
    for each in classes:
        files = sorted(each.glob("[!.]*.txt"))
        if not files:
            within = class_folders(each)
            advice = f": take {each}, which has sub-folders" if within else ""
            raise InputError(f"{each}: expected .txt files, got none{advice}")
        for file in files:
            text = read_text(file, encoding, ENCODING_ADVICE).strip()
            if not text:
                raise InputError(f"{file}: expected a text, got an empty file")
            labels.append(each.name)
            texts.append(text)
    return classified(labels, texts, folder.name)


def class_folders(folder: Path) -> list[Path]:
    """The sub-folders that aren't hidden, in alphabetical order."""
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}") from error


def _numbered(path: Path, encoding: str | None) -> list[tuple[int, str]]:
    """The lines that hold something, with their numbers from 1."""
    # Not splitlines, which ends lines at characters that stand within texts, such as U+0085.
    lines = read_text(path, encoding, ENCODING_ADVICE).split("\n")
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise InputError(f"{path}: expected lines of text, got an empty file")
    return numbered


def classified(labels: Sequence[str], texts: Sequence[str], name: str) -> Texts:
    """Texts with the names of their classes, which are numbered in alphabetical order.

    Raises:
        InputError: there is one class only.
    """
    class_names = tuple(sorted(set(labels)))
    if len(class_names) < 2:
        raise InputError(f"{name}: expected at least two classes, got {', '.join(class_names)}")
    place = {label: i for i, label in enumerate(class_names)}
    codes = np.array([place[label] for label in labels], np.int32)
    return Texts(tuple(texts), codes, class_names, name)
