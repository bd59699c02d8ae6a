"""Texts by the name that `--data` has: with classes, and in pairs of two languages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxnet.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.app.run_options import Run
    from jaxnet.data import Arrays, ParallelTexts, Texts, Tokenizer

    Pairs = tuple[ParallelTexts, ParallelTexts, ParallelTexts]

# Of training, validation and test pairs.
PAIR_SHARES = (0.9, 0.05, 0.05)


def _docstrings(config: Run) -> Texts:
    from jaxnet.data import load_docstrings

    return load_docstrings()


def _sms_spam(config: Run) -> Texts:
    from jaxnet.data import read_labelled_lines

    path = config.data_path("sms_spam.tsv or the folder with it", "sms_spam.tsv")
    file = path / "sms_spam.tsv" if path.is_dir() else path
    return replace(read_labelled_lines(file), name="sms_spam")


def _rt_polarity(config: Run) -> Texts:
    from jaxnet.data import read_class_files

    what = "the folder with rt-polarity.pos and rt-polarity.neg"
    folder = config.data_path(what, "rt_polarity", "rt-polaritydata")
    files = {"negative": folder / "rt-polarity.neg", "positive": folder / "rt-polarity.pos"}
    return read_class_files(files, "rt_polarity")


def _lines(config: Any) -> Texts:
    from jaxnet.data import read_labelled_lines

    path = config.data_path("a file with CLASS, a tab and TEXT on each line")
    return read_labelled_lines(path, encoding=config.encoding)


def _table(config: Any) -> Texts:
    from jaxnet.data import read_text_table

    path = config.data_path("a CSV or TSV file with a header")
    if not config.text or not config.target:
        raise UsageError(
            f"{path}: say which columns hold the texts and their classes, with --text COLUMN and "
            "--target COLUMN"
        )
    return read_text_table(path, config.text, config.target, encoding=config.encoding)


def _folder(config: Any) -> Texts:
    from jaxnet.data import read_class_files, read_class_folders
    from jaxnet.data.text.texts import class_folders

    folder = config.data_path("the folder with CLASS.txt, or with CLASS/*.txt, for each class")
    files = {file.stem: file for file in sorted(folder.glob("[!.]*.txt"))}
    folders = [each for each in class_folders(folder) if next(each.glob("[!.]*.txt"), None)]
    if files and folders:
        raise InputError(
            f"{folder}: expected CLASS.txt with a text on each line, or CLASS/*.txt with a text in "
            f"each file, got both: {next(iter(files.values())).name} and {folders[0].name}/"
        )
    if folders:
        return read_class_folders(folder, config.encoding)
    if len(files) < 2:
        raise InputError(
            f"{folder}: expected CLASS.txt, or CLASS/*.txt, for at least two classes, got "
            f"{len(files)}"
        )
    return read_class_files(files, folder.name, config.encoding)


# Texts with their classes.
LABELLED: Mapping[str, Callable[[Any], Texts]] = {
    "docstrings": _docstrings,
    "sms_spam": _sms_spam,
    "rt_polarity": _rt_polarity,
    "lines": _lines,
    "csv": _table,
    "folder": _folder,
}


def _cldr(config: Any) -> Pairs:
    from jaxnet.data import load_cldr, split

    texts = load_cldr(languages=config.texts.languages)
    train, valid, test = split(texts, PAIR_SHARES, seed=config.seed)
    return train, valid, test


def _pair_folder(config: Any) -> Pairs:
    from jaxnet.data import parallel_folder

    folder = config.data_path("the folder with train.*, val.* and test*")
    return parallel_folder(folder, config.texts.languages)


def _files(config: Any) -> Pairs:
    from jaxnet.data import read_parallel, split

    if config.texts.source is None or config.texts.target is None:
        raise UsageError("--data files needs --texts.source and --texts.target")
    texts = read_parallel(config.texts.source, config.texts.target)
    train, valid, test = split(texts, PAIR_SHARES, seed=config.seed)
    return train, valid, test


# Texts and what is to be made of them, in training, validation and test pairs.
PAIRS: Mapping[str, Callable[[Any], Pairs]] = {
    "cldr": _cldr,
    "folder": _pair_folder,
    "files": _files,
}


def encoded_pairs(
    tokenizer: Tokenizer, parts: Sequence[ParallelTexts], length: int
) -> tuple[Arrays, ...]:
    """The tokens of pairs of texts, no wider than needed; each token of a target counts alike.

    Args:
        tokenizer: that of both languages.
        parts: the pairs, such as those for training and for validation.
        length: the most tokens of a text; longer ones are left out.

    Raises:
        InputError: all texts of a part are longer.
    """
    import numpy as np

    from jaxnet.data import Arrays
    from jaxnet.losses import position_counts

    kept = []
    for texts in parts:
        sides = [tokenizer.encode_batch(side, end=True) for side in (texts.source, texts.target)]
        lengths = np.maximum(*((side > 0).sum(axis=1) for side in sides))
        fit = lengths <= length
        if not fit.any():
            raise InputError(
                f"{texts.name}: all texts have more than {length} tokens; allow more with "
                "--texts.length"
            )
        kept.append((texts.name, lengths[fit].max(), [side[fit] for side in sides]))
    width = max(longest for _, longest, _ in kept)

    def cut(tokens: np.ndarray) -> np.ndarray:
        return np.pad(tokens, ((0, 0), (0, max(0, width - tokens.shape[1]))))[:, :width]

    return tuple(
        Arrays(cut(source), cut(target), position_counts(cut(target), ignored=0), name=name)
        for name, _, (source, target) in kept
    )
