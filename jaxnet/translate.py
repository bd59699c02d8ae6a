"""Let a trained translator write: from each text another one.

    python -m jaxnet.translate --run-dir runs/cldr-translate-seed0 --text "March 3, 1969"
    python -m jaxnet.translate --run-dir RUN --file texts.en > texts.de      line by line
    python -m jaxnet.translate --help

The folder is that of a run of `train.translate`, or the bundle in it. Each translation is a line of
its own; that of an empty line is empty.
"""

from __future__ import annotations

from jaxnet import ending

if __name__ == "__main__":  # before the other imports
    ending.start()

import sys
from dataclasses import dataclass
from pathlib import Path

from jaxnet.app import cli
from jaxnet.app.command_line import from_command_line
from jaxnet.errors import InputError, UsageError
from jaxnet.files import read_text
from jaxnet.numerics import matmul_precision
from jaxnet.options import Count, check_ranges

PROGRAM = "python -m jaxnet.translate"


@dataclass(frozen=True)
class Config:
    """Let a trained translator write."""

    run_dir: Path | None = None
    """the folder of a run, or a bundle"""
    text: tuple[str, ...] = ()
    """what to translate, one text or several"""
    file: Path | None = None
    """a UTF-8 file whose lines to translate"""
    new_tokens: Count | None = None
    """how many tokens a translation has at most; by default 64, or as many as the longest text in
    training had"""
    beams: Count = 4
    """the beam width"""
    length_penalty: float = 1.0
    """above 0 long translations are favoured, 0 is the plain probability"""

    def __post_init__(self) -> None:
        check_ranges(self)


def write(config: Config) -> int:
    """Print the translations."""
    if config.run_dir is None:
        raise UsageError("say which model is to translate: --run-dir FOLDER")
    if bool(config.text) == (config.file is not None):
        raise UsageError("say what to translate: either --text TEXT or --file FILE")
    from jaxnet import Bundle
    from jaxnet.data import TextEncoder
    from jaxnet.generation import translate
    from jaxnet.generation.translation import NEW_TOKENS

    lines = config.text if config.file is None else _lines(config.file)
    texts = [line.strip() for line in lines]
    folder = config.run_dir
    bundle = Bundle.load(folder / "bundle" if (folder / "bundle").is_dir() else folder)
    if not isinstance(bundle.encoder, TextEncoder) or not hasattr(bundle.model, "start"):
        raise InputError(f"{folder} holds no translator; train one with jaxnet train translate")
    usual = max(NEW_TOKENS, bundle.encoder.length)
    asked = list(dict.fromkeys(text for text in texts if text))
    made: list[str] = []
    if asked:
        with matmul_precision(bundle.matmul_precision):
            made = translate(
                bundle.model,
                bundle.variables,
                bundle.encoder.tokenizer,
                asked,
                usual if config.new_tokens is None else config.new_tokens,
                beams=config.beams,
                length_penalty=config.length_penalty,
            )
    translations = dict(zip(asked, made, strict=True))
    for text in texts:
        print(translations.get(text, "").replace("\n", " "))
    return cli.DONE


def _lines(file: Path) -> list[str]:
    try:
        text = read_text(file)
    except InputError as error:
        raise InputError(f"--file {error}") from error
    # Not splitlines, which ends lines at characters that stand within texts, such as U+0085.
    return text.removesuffix("\n").split("\n")


def main() -> int:
    """The command."""
    return cli.run(lambda: write(from_command_line(Config, sys.argv[1:], PROGRAM)))


if __name__ == "__main__":
    sys.exit(main())
