"""The READMEs: their python snippets run, and what they name exists."""

from __future__ import annotations

import functools
import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import pytest

from jaxnet.options import options
from train.__main__ import entrypoints

ROOT = Path(__file__).parents[1]
READMES = [
    ROOT / folder / "README.md"
    for folder in ("", "jaxnet", "models", "train", "benchmarks", "tests")
]
# A path below one of the folders, a module that is run, a training command and its options, a name
# within the library, and a link.
PATH = re.compile(r"(?<![\w./-])(?:jaxnet|models|train|tests|benchmarks)/[\w./*-]*")
RUN = re.compile(r"python -m ((?:jaxnet|train|benchmarks)[a-z_.]*[a-z_])(?![\w.])")
TRAIN = re.compile(r"(?:python -m|jaxnet) train[. ]([a-z_]+)\b([^`|\n]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
DOTTED = re.compile(r"`(jaxnet(?:\.\w+)+)")
LINK = re.compile(r"(?:\]\(|src=\")([^)\"\s]+)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def snippets(text: str) -> list[str]:
    """The python blocks of a README, each at its own line, so that errors point there."""
    return [
        "\n" * text.count("\n", 0, block.start(2)) + block[2]
        for block in FENCED.finditer(text)
        if block[1] == "python"
    ]


WITH_SNIPPETS = [path for path in READMES if snippets(path.read_text(encoding="utf-8"))]


def test_the_guide_has_snippets():
    assert {"README.md", "jaxnet/README.md"} <= {name(path) for path in WITH_SNIPPETS}


@pytest.mark.slow
@pytest.mark.parametrize("readme", WITH_SNIPPETS, ids=name)
def test_snippets_run(readme, tmp_path, monkeypatch):
    blocks = snippets(readme.read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    namespace = {"__name__": "readme"}
    for block in blocks:
        # More epochs try nothing else.
        few = re.sub(r"\bepochs=\d+", "epochs=1", block)
        exec(compile(few, readme, "exec", dont_inherit=True), namespace)


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute within one."""
    module, rest = dotted, []
    while module:
        try:
            found = importlib.import_module(module)
        except ImportError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
            continue
        for part in rest:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("readme", READMES, ids=name)
def test_what_is_named_exists(readme):
    text = readme.read_text(encoding="utf-8")
    missing = [path for path in PATH.findall(text) if not any(ROOT.glob(path.rstrip("/.")))]
    missing += [module for module in RUN.findall(text) if find_spec(module) is None]
    missing += [dotted for dotted in DOTTED.findall(text) if not resolves(dotted)]
    assert not missing, f"{name(readme)} names what isn't there: {missing}"


@functools.cache
def options_of(entrypoint: str) -> set[str]:
    """The options of a command."""
    config = importlib.import_module(f"train.{entrypoint}").Config()
    return {"--help", "--config", *map(str, options(config))}


@pytest.mark.parametrize("readme", READMES, ids=name)
def test_options_exist(readme):
    text = readme.read_text(encoding="utf-8")
    unknown = [
        f"train.{entrypoint} {option}"
        for entrypoint, words in TRAIN.findall(text)
        for option in OPTION.findall(words)
        if option not in options_of(entrypoint)
    ]
    # Options that stand by themselves: those of a group belong to at least one command.
    known = set().union(*map(options_of, entrypoints()))
    grouped = {option for option in OPTION.findall(text) if "." in option}
    assert not unknown + sorted(grouped - known)


def anchors(readme: Path) -> set[str]:
    """The anchors of a README's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", readme.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("readme", READMES, ids=name)
def test_links_lead_somewhere(readme):
    broken = []
    for link in LINK.findall(FENCED.sub("", readme.read_text(encoding="utf-8"))):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = (readme.parent / file) if file else readme
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{name(readme)}: {broken}"


def test_the_first_readme_is_short_and_advises_no_foreign_package():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    for readme in READMES:
        # On PyPI `jaxnet` is another project.
        assert not re.search(r"pip install ['\"]?jaxnet(?!-learn)", readme.read_text("utf-8"))


def test_pictures_of_runs_are_small():
    pictures = (ROOT / "benchmarks" / "results").glob("run_*.png")
    assert 0 < sum(path.stat().st_size for path in pictures) < 200_000
