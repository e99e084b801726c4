"""Every error that darkprep raises on purpose.

* DarkprepError
  + MachineError           memory, disk or network failed while a file was read or written
  + OptionError            an option has an invalid value
  + DatasetError           the photographs are missing or not laid out as expected
    - RawError             one RAW file cannot be used
  + PlanError              the plan is missing, damaged, or not the expected one
  + SpoolError             the spool directory cannot be used
    - SpoolBusy            another living process holds the lock
    - BudgetTooSmall       the disk budget cannot hold what must exist at once
    - DiskFull             the disk has no room left
    - ShardDamaged         a shard differs from its plan
    - StreamEnded          the next shard is missing and no process produces it
  + WeightsError           a weights file or checkpoint cannot be loaded
  + TrainingError          training had to stop
    - NonFiniteLoss        the loss is NaN or infinite
    - RankLost             another rank of a distributed training has died
    - RankStopped          another rank failed; rank 0 reports the reason

A message is one line: which file or field, what is wrong, what to do. Exceptions of libraries are
translated where the library is called and nowhere else. Programming errors stay ValueError, TypeError
or a failed assert.
"""

from typing import Literal

Action = Literal["read", "written"]
"""The operation on a file during which the machine failed."""


_LONGEST_MESSAGE = 2000


class DarkprepError(Exception):
    """Base class of all expected failures; the command line prints the message and exits with status 1.

    Of a message that is longer than 2,000 characters, because it quotes a file of someone else, the middle
    is left out.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) <= _LONGEST_MESSAGE:
            return text
        return f"{text[: _LONGEST_MESSAGE // 2]} ... {text[-_LONGEST_MESSAGE // 3 :]}"


class OptionError(DarkprepError):
    """An option has an invalid value: an unknown camera, a fraction of 1.5, a crop that the CFA forbids."""


class DatasetError(DarkprepError):
    """The data root is missing, holds no pairs, or does not have the data set's layout."""


class RawError(DatasetError):
    """One RAW file is missing, truncated, of another format, or of a kind that darkprep does not support.

    `path` and `reason` are kept apart, so that a caller can skip the file and list it later.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["RawError"], tuple[str, str]]:
        return (RawError, (self.path, self.reason))


class MachineError(DarkprepError):
    """Memory, disk or network failed while a file was read or written; the file itself may be intact."""

    def __init__(self, path: str, reason: str, action: Action = "read") -> None:
        super().__init__(f"{path}: cannot be {action} now: {reason}")
        self.path = path
        self.reason = reason
        self.action = action

    def __reduce__(self) -> tuple[type["MachineError"], tuple[str, str, Action]]:
        return (MachineError, (self.path, self.reason, self.action))


class PlanError(DarkprepError):
    """The spool's plan is missing, unreadable, of an unknown version, or not the one asked for."""


class SpoolError(DarkprepError):
    """The spool directory is missing, not writable, or holds unexpected files."""


class SpoolBusy(SpoolError):
    """Another living process produces into this spool or trains from it."""


class BudgetTooSmall(SpoolError):
    """The disk budget cannot hold the window of shards and one that is being written."""


class DiskFull(SpoolError):
    """The disk has no room left; no incomplete file is visible."""


class ShardDamaged(SpoolError):
    """A shard's structure or the checksum of an array is wrong."""


class StreamEnded(SpoolError):
    """The next shard does not exist and no process produces it."""


class WeightsError(DarkprepError):
    """A weights file or a checkpoint is missing, damaged, or of another network."""


class TrainingError(DarkprepError):
    """Training cannot continue."""


class NonFiniteLoss(TrainingError):
    """The loss is NaN or infinite; raised before the optimiser step."""


class RankLost(TrainingError):
    """Another rank of a distributed training died or does not respond."""


class RankStopped(TrainingError):
    """This rank stops because another one had to; not printed, because rank 0 reports the reason."""


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, without a full stop, to be quoted in a message.

    An error without text gives the name of its class.
    """
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
