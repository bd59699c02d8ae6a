"""List the entrypoints: `python -m train`, `jaxnet train`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from jaxnet.app import cli


def entrypoints() -> dict[str, str]:
    """What each of them does, by its name: the first line of its file."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {getattr(node, "name", None) for node in tree.body} | {
            ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)
        }
        if "main" in names and file != Path(__file__):
            found[file.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main(arguments: list[str], called: str = "python -m train.") -> int:
    """Print them. A name that follows is told how it is called.

    Args:
        arguments: the words that follow.
        called: what stands before the name of each.
    """
    known = entrypoints()
    asked = [word for word in arguments if not word.startswith("-")]
    if asked:
        name = asked[0] if asked[0] in known else "NAME"
        print(f"error: call it by {called}{name}", file=sys.stderr)
        return cli.WRONG_USAGE
    for name, about in known.items():
        print(f"{called}{name:<11} {about}")
    print("\n--help after one of them lists its options.")
    return cli.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
