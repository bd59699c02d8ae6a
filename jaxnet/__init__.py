"""Deep learning on JAX: training as a value, from a laptop to many hosts.

Importing it touches no device and imports nothing else; what is used is imported then.
"""

from pathlib import Path

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"

# `jaxnet.models` and `jaxnet.train` are parts of an installed package; in a checkout they lie
# beside it.
if not (Path(__file__).parent / "models").is_dir():
    __path__.append(str(Path(__file__).parents[1]))
