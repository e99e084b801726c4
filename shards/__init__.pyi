from .batch import Batch as Batch, ReaderStats as ReaderStats
from .cursor import Cursor as Cursor
from .errors import (
    BudgetTooSmall as BudgetTooSmall,
    DarkprepError as DarkprepError,
    DatasetError as DatasetError,
    DiskFull as DiskFull,
    NonFiniteLoss as NonFiniteLoss,
    OptionError as OptionError,
    PlanError as PlanError,
    RawError as RawError,
    ShardDamaged as ShardDamaged,
    SpoolBusy as SpoolBusy,
    SpoolError as SpoolError,
    StreamEnded as StreamEnded,
    TrainingError as TrainingError,
    WeightsError as WeightsError,
)
from .format import (
    CELL as CELL,
    PERIOD as PERIOD,
    PLANES as PLANES,
    TARGETS as TARGETS,
    CfaKind as CfaKind,
    Sample as Sample,
    SampleMeta as SampleMeta,
    ShardLayout as ShardLayout,
    Target as Target,
)
from .noise_level import NoiseLevel as NoiseLevel
from .order import UseOrder as UseOrder
from .plan_record import StreamSpec as StreamSpec
from .reader import SpoolReader as SpoolReader
from .shard_file import ShardFile as ShardFile
from .spool import Spool as Spool
from .webdataset_export import open_webdataset as open_webdataset
from .writer import write_shard as write_shard
