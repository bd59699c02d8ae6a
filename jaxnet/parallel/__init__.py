"""Many devices, processes and hosts: layouts and what the compiler doesn't do by itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
