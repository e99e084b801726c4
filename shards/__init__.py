"""Where producers and trainers meet: the shard format, the spool directory, the reader (FORMAT.md)."""

from shards.errors import (
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
from shards.format import CELL, PERIOD, PLANES, CfaKind, Sample, SampleMeta, ShardLayout
from shards.opening import OpenShard
from shards.order import UseOrder
from shards.plan_record import StreamSpec
from shards.reader import Batch, ReaderStats, SpoolReader, open_webdataset
from shards.spool import Cursor, Spool
from shards.writer import write_shard

__all__ = [
    "CELL",
    "PERIOD",
    "PLANES",
    "Batch",
    "BudgetTooSmall",
    "CfaKind",
    "Cursor",
    "DarkprepError",
    "DatasetError",
    "DiskFull",
    "NonFiniteLoss",
    "OpenShard",
    "OptionError",
    "PlanError",
    "RawError",
    "ReaderStats",
    "Sample",
    "SampleMeta",
    "ShardDamaged",
    "ShardLayout",
    "Spool",
    "SpoolBusy",
    "SpoolError",
    "SpoolReader",
    "StreamEnded",
    "StreamSpec",
    "TrainingError",
    "UseOrder",
    "WeightsError",
    "open_webdataset",
    "write_shard",
]
