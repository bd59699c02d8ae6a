"""The command `jaxnet`, which is `python -m jaxnet` too.

    jaxnet doctor       is this machine ready, and what to do where it isn't
    jaxnet plan         what a network would take on machines that aren't at hand
    jaxnet COMMAND --help

Training is `python -m train.classify` and its like, generation `python -m jaxnet.generate` and
`python -m jaxnet.translate`.
"""

from __future__ import annotations

from jaxnet import ending

if __name__ == "__main__":  # before the other imports
    ending.start()

import importlib
import sys
from collections.abc import Mapping

from jaxnet.app import cli

# Each module has `command(arguments, program) -> exit code`; the chosen one alone is imported.
COMMANDS: Mapping[str, str] = {"doctor": "jaxnet.doctor.command", "plan": "jaxnet.plan.command"}


def main() -> int:
    """Run the command that the first word names."""
    program = "jaxnet" if sys.argv[0].endswith(("jaxnet", "jaxnet.exe")) else "python -m jaxnet"
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(__doc__)
        return cli.DONE
    if name == "--version":
        import jaxnet

        print(jaxnet.__version__)
        return cli.DONE

    def run() -> int:
        from jaxnet.names import lookup

        module = importlib.import_module(lookup(name, COMMANDS, "command"))
        return module.command(arguments, f"{program} {name}")

    return cli.run_alone(run)


if __name__ == "__main__":
    sys.exit(main())
