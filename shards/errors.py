"""Every error that darkprep raises on purpose.

* DarkprepError
  + OptionError            a value the caller chose cannot work
  + DatasetError           the photographs are not where or what they should be
    - RawError             one RAW file cannot be used
  + PlanError              the plan is missing, damaged, or another one
  + SpoolError             the spool directory cannot be used
    - SpoolBusy            somebody alive already holds that role
    - BudgetTooSmall       the disk budget cannot hold what must exist at once
    - DiskFull             the file system refused more bytes
    - ShardDamaged         a shard is not what its plan says
    - StreamEnded          no shard will come any more
  + WeightsError           a weights file or checkpoint cannot be loaded
  + TrainingError          training had to stop
    - NonFiniteLoss        the loss is NaN or infinite
    - RankLost             another rank of a distributed training is gone
    - RankStopped          another rank had to stop; rank 0 says why

A message is one line: which file or field, what is wrong, what to do. Foreign exceptions are
translated where their library is called and nowhere else. Mistakes of the programmer stay
ValueError, TypeError or a failed assert.
"""


class DarkprepError(Exception):
    """The base of all expected failures; the command line prints it as one line, exit status 1."""


class OptionError(DarkprepError):
    """A chosen value cannot work: unknown camera, a fraction of 1.5, a crop that the CFA forbids."""


class DatasetError(DarkprepError):
    """The data root is missing, holds no pairs, or breaks the data set's layout."""


class RawError(DatasetError):
    """One RAW file is missing, truncated, foreign, or of a kind that darkprep refuses.

    `path` names the file and `reason` says why, so that a caller can skip it and sum up later.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["RawError"], tuple[str, str]]:
        return (RawError, (self.path, self.reason))


class PlanError(DarkprepError):
    """The spool's plan is missing, unreadable, of an unknown version, or not the one asked for."""


class SpoolError(DarkprepError):
    """The spool directory is missing, read-only, or holds something that it should not."""


class SpoolBusy(SpoolError):
    """Another living process already produces into this spool or trains from it."""


class BudgetTooSmall(SpoolError):
    """The disk budget cannot hold the open window and one shard being written."""


class DiskFull(SpoolError):
    """The file system has no room left; nothing half-written is visible."""


class ShardDamaged(SpoolError):
    """A shard's structure or a payload's checksum is wrong."""


class StreamEnded(SpoolError):
    """The next shard does not exist and nobody is left to make it."""


class WeightsError(DarkprepError):
    """A weights file or a checkpoint is missing, damaged, or of another network."""


class TrainingError(DarkprepError):
    """Training cannot go on."""


class NonFiniteLoss(TrainingError):
    """The loss became NaN or infinite; raised before the optimiser step."""


class RankLost(TrainingError):
    """Another rank of a distributed training died, or does not answer."""


class RankStopped(TrainingError):
    """Another rank had to stop, and this one with it; rank 0 tells the reason, so this stays unsaid."""


def first_line(error: BaseException) -> str:
    """What a foreign error says first, to be quoted in a message; its class where it says nothing.

    A full stop at its end goes, for the message has more to say.
    """
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
