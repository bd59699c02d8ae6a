"""What commands share: arguments, configuration, the options of a run and its folder.

An entrypoint of `train/` is a configuration, a function from it to a `Problem`, and

    train = partial(run, problem)
    main = command(Config, train, PROGRAM)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
