"""From samples to weights: the stream to the device, the loss, the training loop, evaluation and restoration.

The public names stand in `__init__.pyi`; each is loaded at its first use, so that the command line can read
the defaults of TrainConfig and the files of a run without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
