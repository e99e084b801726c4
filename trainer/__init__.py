"""From samples to weights: the stream to the device, the loss, the training loop, evaluation and restoration.

Public names are loaded at their first use, so that the command line can read the defaults of TrainConfig
and the files of a run without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darkprep.trainer.config import (
        AUGMENT_MODES,
        PRECISIONS,
        AugmentMode,
        Precision,
        TrainConfig,
    )
    from darkprep.trainer.device import open_device
    from darkprep.trainer.evaluation import Evaluation, ImageScores, evaluate, restore_frame
    from darkprep.trainer.loop import Validation, train
    from darkprep.trainer.loss import ms_ssim, restoration_loss
    from darkprep.trainer.metrics import PROTOCOLS, Protocol, Scores, protocol_named, score
    from darkprep.trainer.picture import quantised, write_picture
    from darkprep.trainer.prefetch import pinned_memory
    from darkprep.trainer.records import MetricsLine, RunSummary, StepReport
    from darkprep.trainer.restoration import (
        RestoreJob,
        RestoreResult,
        UnpairedFrame,
        restore,
        restore_all,
    )
    from darkprep.trainer.stream import DeviceBatch, DeviceStream
    from darkprep.trainer.training import OpenReader, Reader

__all__ = [
    "AUGMENT_MODES",
    "PRECISIONS",
    "PROTOCOLS",
    "AugmentMode",
    "DeviceBatch",
    "DeviceStream",
    "Evaluation",
    "ImageScores",
    "MetricsLine",
    "OpenReader",
    "Precision",
    "Protocol",
    "Reader",
    "RestoreJob",
    "RestoreResult",
    "RunSummary",
    "Scores",
    "StepReport",
    "TrainConfig",
    "UnpairedFrame",
    "Validation",
    "evaluate",
    "ms_ssim",
    "open_device",
    "pinned_memory",
    "protocol_named",
    "quantised",
    "restoration_loss",
    "restore",
    "restore_all",
    "restore_frame",
    "score",
    "train",
    "write_picture",
]

_MODULES = {
    "config": ("AUGMENT_MODES", "PRECISIONS", "AugmentMode", "Precision", "TrainConfig"),
    "device": ("open_device",),
    "evaluation": ("Evaluation", "ImageScores", "evaluate", "restore_frame"),
    "loop": ("Validation", "train"),
    "loss": ("ms_ssim", "restoration_loss"),
    "metrics": ("PROTOCOLS", "Protocol", "Scores", "protocol_named", "score"),
    "picture": ("quantised", "write_picture"),
    "prefetch": ("pinned_memory",),
    "records": ("MetricsLine", "RunSummary", "StepReport"),
    "restoration": ("UnpairedFrame", "RestoreJob", "RestoreResult", "restore", "restore_all"),
    "stream": ("DeviceBatch", "DeviceStream"),
    "training": ("OpenReader", "Reader"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
