"""The command `jaxnet`, which is `python -m jaxnet` too."""

from __future__ import annotations

from jaxnet import ending

if __name__ == "__main__":  # before the other imports
    ending.start()

import importlib
import sys
from collections.abc import Mapping, Sequence

from jaxnet.app import cli
from jaxnet.errors import UsageError

# What each does. Its module has a `main`, and is imported when it is asked for.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "train": ("jaxnet.train", "train a network: jaxnet train classify, ..."),
    "generate": ("jaxnet.generate", "let a trained language model write"),
    "translate": ("jaxnet.translate", "translate with a trained network"),
    "launch": ("jaxnet.launch", "run a command as several processes on this host"),
    "prove-resume": ("jaxnet.prove_resume", "kill a run again and again, and compare the result"),
    "doctor": ("jaxnet.doctor.command", "is this machine ready, and what to do where it isn't"),
    "plan": ("jaxnet.plan.command", "what a network would take on machines that aren't at hand"),
}


def main() -> int:
    """Run the command that the first word names."""
    called = "jaxnet" if sys.argv[0].endswith(("jaxnet", "jaxnet.exe")) else "python -m jaxnet"
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        lines = [f"    {called} {name:<13} {about}" for name, (_, about) in COMMANDS.items()]
        print("Deep learning on JAX.\n", *lines, sep="\n")
        print(f"\n{called} COMMAND --help lists the options of each.")
        return cli.DONE
    if name == "--version":
        import jaxnet

        print(jaxnet.__version__)
        return cli.DONE
    try:
        return _run(called, name, arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return cli.WRONG_USAGE


def _run(called: str, name: str, arguments: Sequence[str]) -> int:
    from jaxnet.names import lookup

    module, _ = lookup(name, COMMANDS, "command")
    if name == "train" and (not arguments or arguments[0].startswith("-")):
        return importlib.import_module("jaxnet.train.__main__").main(arguments, f"{called} train ")
    if name == "train":
        entrypoint, *arguments = arguments
        known = importlib.import_module("jaxnet.train.__main__").entrypoints()
        lookup(entrypoint, known, "entrypoint")
        name, module = f"train {entrypoint}", f"{module}.{entrypoint}"
    sys.argv = [f"{called} {name}", *arguments]
    return importlib.import_module(module).main()


if __name__ == "__main__":
    sys.exit(main())
