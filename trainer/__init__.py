"""Samples to weights: the stream to the device, the loss, the loop, the evaluation, the restoring."""

from darkprep.trainer.augment import MODES as AUGMENT_MODES
from darkprep.trainer.augment import AugmentMode
from darkprep.trainer.config import PRECISIONS, Precision, TrainConfig, open_device
from darkprep.trainer.evaluate import Evaluation, ImageScores, evaluate, restore_frame
from darkprep.trainer.loss import ms_ssim, restoration_loss
from darkprep.trainer.metrics import PROTOCOLS, Protocol, Scores, protocol_named, score
from darkprep.trainer.picture import quantised, write_picture
from darkprep.trainer.prefetch import pinned_memory
from darkprep.trainer.restore import LoneFrame, RestoreJob, RestoreResult, restore, restore_all
from darkprep.trainer.run_log import RunSummary, StepReport
from darkprep.trainer.stream import DeviceBatch, DeviceStream
from darkprep.trainer.train import OpenReader, Reader, train

__all__ = [
    "AUGMENT_MODES",
    "PRECISIONS",
    "PROTOCOLS",
    "AugmentMode",
    "DeviceBatch",
    "DeviceStream",
    "Evaluation",
    "ImageScores",
    "LoneFrame",
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
