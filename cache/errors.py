"""The one family of exceptions.

It stands here because every room may import `cache` and `cache` imports none of them. A message
says what happened, with which file or option, and what to do; `cli.py` alone turns it into output.
"""

from dataclasses import dataclass


class FrostlineError(Exception):
    """An error that the user can fix; the message says how.

    Attributes:
        lines: Of the message. A line break inside one of them is part of a name, and shown as such.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


class DatasetError(FrostlineError):
    """A folder of images can't be used as it is."""


class UnreadableImageError(FrostlineError):
    """One image file can't be decoded. Costs that image, never the run."""


class WeightsError(FrostlineError):
    """A backbone's weights can't be loaded."""


class WeightsUnavailableError(WeightsError):
    """The pretrained weights are neither on this machine nor can they be downloaded."""


class DeviceError(FrostlineError):
    """A device, or an engine on it, can't be used here."""


class CacheError(FrostlineError):
    """A cache or a segment is damaged, foreign, or lacks rows."""


class SegmentGoneError(CacheError):
    """A segment that was listed is no longer there: another process has compacted the cache."""


class HeadError(FrostlineError):
    """A trained head can't be used, or can't be trained from this data."""


class ResultsError(FrostlineError):
    """`results.csv` or the report made from it can't be read or written."""


class GridError(FrostlineError):
    """What was asked to be trained can't be: a grid file or options contradict themselves."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, where it lay, and why."""

    sha256: bytes
    path: str
    reason: str
