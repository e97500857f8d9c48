"""What goes to workers and comes back: one `Job`, its parts and their results.

- Messages are JSON, because a file name need not be valid Unicode, as Arrow's text must be.
- A message of another version, or any other content, is a DeviceError.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cache.errors import DeviceError, WeightsError
from cache.records import parse_json
from extract.embedding_spec import EmbeddingSpec
from extract.pipeline import RunnerOptions
from extract.sources.image_file import to_path

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """What every worker gets.

    Attributes:
        specs: One for each cache to fill.
        root: Where the caches are: a path, or a URL that all workers can reach.
        options: Their `workers` are those of one process.
        max_pixels: Limit of an image that is decoded; None: no limit.
        caches: Names of the caches, by the sender's rules of decoding.
    """

    specs: tuple[EmbeddingSpec, ...]
    root: str
    options: RunnerOptions
    max_pixels: int | None
    caches: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "caches", tuple(spec.key.name for spec in self.specs))

    def check(self) -> None:
        """Make sure that this process would fill the same caches as the sender means.

        Raises:
            WeightsError: it is another version, which decodes images by other rules.
        """
        for spec, name in zip(self.specs, self.caches, strict=True):
            if spec.key.name != name:
                raise WeightsError(
                    f"{spec.backbone.name}: the rules of decoding are not the same on every "
                    f"machine. This one would fill {spec.key.name}, not {name}. Install the same "
                    "versions on all of them."
                )


def to_json(message: object) -> str:
    """Write a dataclass, as ASCII."""
    return json.dumps(msgspec.to_builtins(message, enc_hook=str, str_keys=True))


def from_json(text: str, kind: type[T]) -> T:
    """Read what `to_json` wrote.

    Raises:
        DeviceError: it is something else, such as a message of another version.
    """
    try:
        content = parse_json(text, dict[str, Any])
        return msgspec.convert(content, kind, dec_hook=_read, str_keys=True)
    except (ValueError, TypeError) as error:
        raise DeviceError(
            f"A worker's message can't be read ({error}). Run the same version of Frostline on all "
            "machines."
        ) from None


def _read(kind: type, value: Any) -> object:
    """Read the types that msgspec does not know: paths and counters."""
    if issubclass(kind, Path):
        return to_path(msgspec.convert(value, str))
    return Counter(msgspec.convert(value, dict[str, int]))
