"""From RAW photographs to training samples: the producing side of darkprep.

This package runs without torch and without a trainer; it shares only `darkprep.shards` with the trainer.

The public names stand in `__init__.pyi`; each is loaded at its first use, so that a command starts fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
