"""The code that producers and trainers share: shard format, spool directory, reader (see FORMAT.md)."""

from darkprep.shards.batch import Batch, ReaderStats
from darkprep.shards.cursor import Cursor
from darkprep.shards.errors import (
    BudgetTooSmall,
    DarkprepError,
    DatasetError,
    DiskFull,
    NonFiniteLoss,
    OptionError,
    PlanError,
    RawError,
    ShardDamaged,
    SpoolBusy,
    SpoolError,
    StreamEnded,
    TrainingError,
    WeightsError,
)
from darkprep.shards.format import (
    CELL,
    PERIOD,
    PLANES,
    TARGETS,
    CfaKind,
    Sample,
    SampleMeta,
    ShardLayout,
    Target,
)
from darkprep.shards.order import UseOrder
from darkprep.shards.plan_record import StreamSpec
from darkprep.shards.reader import SpoolReader
from darkprep.shards.shard_file import ShardFile
from darkprep.shards.spool import Spool
from darkprep.shards.webdataset_export import open_webdataset
from darkprep.shards.writer import write_shard

__all__ = [
    "CELL",
    "PERIOD",
    "PLANES",
    "TARGETS",
    "Batch",
    "BudgetTooSmall",
    "CfaKind",
    "Cursor",
    "DarkprepError",
    "DatasetError",
    "DiskFull",
    "NonFiniteLoss",
    "OptionError",
    "PlanError",
    "RawError",
    "ReaderStats",
    "Sample",
    "SampleMeta",
    "ShardDamaged",
    "ShardFile",
    "ShardLayout",
    "Spool",
    "SpoolBusy",
    "SpoolError",
    "SpoolReader",
    "StreamEnded",
    "StreamSpec",
    "Target",
    "TrainingError",
    "UseOrder",
    "WeightsError",
    "open_webdataset",
    "write_shard",
]
