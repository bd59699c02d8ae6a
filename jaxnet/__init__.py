"""Deep learning on JAX: training as a value, from a laptop to many hosts.

Importing it touches no device and imports nothing else; what is used is imported then.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
