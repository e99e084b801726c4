"""The code that producers and trainers share: shard format, spool directory, reader (see FORMAT.md).

The public names stand in `__init__.pyi`; each is loaded at its first use, so that a command starts fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
