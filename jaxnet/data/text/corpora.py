"""Real texts that are on every machine where jaxnet runs: nothing has to be downloaded."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxnet.data.text.texts import Texts
from jaxnet.errors import InputError, UsageError
from jaxnet.files import expanded, read_text
from jaxnet.names import lookup

LIBRARIES = ("matplotlib", "numpy", "scipy", "sklearn")

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
# Code, markup and formulas are no prose.
_PROSE = re.compile(r"[A-Z][A-Za-z0-9 ,.;:'\"()!?/%&-]*[.!?]")
_WORDS = (6, 40)


def load_docstrings(libraries: Sequence[str] = LIBRARIES, each: int = 1500) -> Texts:
    """Sentences of the documentation of installed libraries, and as class from which one each is.

    They are taken from the docstrings in the libraries' source files, without importing anything.
    numpy, scipy, scikit-learn and matplotlib come with jaxnet; the first three are under the
    BSD-3-Clause licence, matplotlib under its own, which follows that of Python (PSF). A sentence
    that names one of the libraries is left out, since it would give the answer away. Other releases
    of the libraries have other sentences.

    Args:
        libraries: names of packages.
        each: how many sentences to take from each.

    Raises:
        InputError: a library isn't installed as files, or has fewer sentences.

    Example:
        >>> texts = load_docstrings(each=3)
        >>> len(texts), texts.class_names
        (12, ('matplotlib', 'numpy', 'scipy', 'sklearn'))
    """
    names = tuple(sorted(libraries))
    telling = re.compile("|".join([*names, "scikit", "pyplot", r"\bmpl"]), re.IGNORECASE)
    texts: list[str] = []
    for name in names:
        found: dict[str, None] = {}
        for sentence in _sentences(name):
            if not telling.search(sentence) and sentence not in texts:
                found[sentence] = None
            if len(found) == each:
                break
        else:
            raise InputError(f"expected {each} sentences of {name}, found {len(found)}: ask fewer")
        texts += found
    labels = np.repeat(np.arange(len(names), dtype=np.int32), each)
    return Texts(tuple(texts), labels, names, "docstrings")


def load_python_reference() -> str:
    """The Python language reference as plain text, which every Python carries for `help()`.

    Half a million characters in Python 3.11, from the module `pydoc_data.topics`; under the licence
    of the Python Software Foundation. Other versions of Python have another text.

    Raises:
        InputError: this Python came without it.

    Example:
        >>> "while_stmt" in load_python_reference()
        True
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "this Python came without pydoc_data: bring a text of your own with --data-dir FILE"
        ) from error
    return "\n".join(topics[name].strip() + "\n" for name in sorted(topics))


def read_prose(name: str, path: Path | None = None) -> str:
    """The long text called `name`.

    Args:
        name: python, the language reference, or text, for a file.
        path: the file, in UTF-8.

    Raises:
        UsageError: an unknown name, or `"text"` without a file.
        InputError: the file can't be read or isn't UTF-8, or this Python came without its text.
    """
    return lookup(name, {"python": lambda _: load_python_reference(), "text": _file}, "data")(path)


def cut(text: str, *cuts: float) -> tuple[str, ...]:
    """A text in parts.

    Args:
        text: the text.
        cuts: the shares of the text after which it is cut, in their order.

    Raises:
        InputError: a part is empty.

    Example:
        >>> cut("0123456789", 0.7, 0.9)
        ('0123456', '78', '9')
    """
    places = [0, *(int(share * len(text)) for share in cuts), len(text)]
    parts = tuple(text[start:stop] for start, stop in itertools.pairwise(places))
    if not all(parts):
        raise InputError(
            f"expected a text that can be cut into {len(parts)} parts, got {len(text)} characters"
        )
    return parts


def _file(path: Path | None) -> str:
    if path is None:
        raise UsageError("--data text needs --data-dir, a text file")
    path = expanded(path)
    return read_text(path)


def _sentences(library: str) -> Iterator[str]:
    for file in _sources(library):
        for docstring in _docstrings(file):
            # The first lines, up to the sections with parameters and code.
            prose = re.split(r"\n\s*-{3,}|\n\s*={3,}|>>>|::\n|\n\.\. ", docstring)[0]
            for paragraph in re.split(r"\n\s*\n", prose):
                for sentence in _SENTENCE.split(" ".join(paragraph.split())):
                    words = sentence.count(" ") + 1
                    if _WORDS[0] <= words <= _WORDS[1] and _PROSE.fullmatch(sentence):
                        yield sentence


def _sources(library: str) -> list[Path]:
    """The source files of a package in an order that mixes its parts."""
    spec = importlib.util.find_spec(library)
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    files = [(root, file) for root in roots for file in root.rglob("*.py")]
    own = [(root, file) for root, file in files if not {"tests", "_lib"} & set(file.parts)]
    if not own:
        raise InputError(f"{library} isn't installed, or not as files: pip install {library}")
    return [
        file
        for root, file in sorted(
            own, key=lambda pair: zlib.crc32(pair[1].relative_to(pair[0]).as_posix().encode())
        )
    ]


def _docstrings(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of what others wrote into their strings
            tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text
