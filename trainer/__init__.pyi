from .batches import augment_batch as augment_batch, decode_batch as decode_batch
from .config import (
    AUGMENT_MODES as AUGMENT_MODES,
    PRECISIONS as PRECISIONS,
    AugmentMode as AugmentMode,
    Precision as Precision,
    TrainConfig as TrainConfig,
)
from .dataset import SpoolDataset as SpoolDataset
from .device import open_device as open_device
from .evaluation import (
    Evaluation as Evaluation,
    ImageScores as ImageScores,
    evaluate as evaluate,
    restore_frame as restore_frame,
)
from .loop import Validation as Validation, train as train
from .loss import ms_ssim as ms_ssim, restoration_loss as restoration_loss
from .metrics import (
    PROTOCOLS as PROTOCOLS,
    Protocol as Protocol,
    Scores as Scores,
    protocol_named as protocol_named,
    score as score,
)
from .picture import quantised as quantised, write_picture as write_picture
from .prefetch import pinned_memory as pinned_memory
from .records import MetricsLine as MetricsLine, RunSummary as RunSummary, StepReport as StepReport
from .restoration import (
    RestoreJob as RestoreJob,
    RestoreResult as RestoreResult,
    UnpairedFrame as UnpairedFrame,
    restore as restore,
    restore_all as restore_all,
)
from .stream import DeviceBatch as DeviceBatch, DeviceStream as DeviceStream
from .training import OpenReader as OpenReader, Reader as Reader
