"""Samples to weights: the stream to the device, the loss, the loop, the evaluation, the restoring."""

from trainer.augment import MODES as AUGMENT_MODES
from trainer.augment import AugmentMode
from trainer.carrier import pinned_memory
from trainer.config import PRECISIONS, Precision, TrainConfig, open_device
from trainer.evaluate import Evaluation, ImageScores, evaluate, restore_frame
from trainer.loss import ms_ssim, restoration_loss
from trainer.metrics import PROTOCOLS, Protocol, Scores, protocol_named, score
from trainer.picture import quantised, write_picture
from trainer.report import RunSummary, StepReport
from trainer.restore import LoneFrame, RestoreJob, RestoreResult, restore, restore_all
from trainer.stream import DeviceBatch, DeviceStream
from trainer.train import OpenReader, Reader, train

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
