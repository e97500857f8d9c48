"""What makes two caches two: any difference here is another cache, never a mix."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cache.errors import CacheError
from cache.records import RecordError, convert, parse_json

FORMAT_VERSION = 1


def file_name(backbone: str) -> str:
    """Return a backbone's name as a part of a file's name: Windows allows no colon there."""
    return backbone.replace(":", "-")


@dataclass(frozen=True)
class EmbeddingKey:
    """Everything an embedding depends on besides the image's bytes.

    The gray, bit-depth, fit and interpolation fields name rules, spelled out by the code that
    applies them. `calibration` names the images that int8's ranges were taken from, "" at other
    precisions. `mean` and `std` are per channel, in units of full scale (0…1).
    """

    backbone: str
    weights_sha256: str
    embedding_dim: int
    gray: str
    bit_depth: str
    fit: str
    interpolation: str
    size: int
    mean: tuple[int | float, ...]
    std: tuple[int | float, ...]
    views: str
    precision: str
    calibration: str
    device: str
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Canonical JSON: equal keys give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "EmbeddingKey":
        """Read what `to_json` wrote.

        Raises:
            CacheError: it is of another version of the format.
            RecordError: it is no key at all.
        """
        fields = parse_json(text, dict[str, Any])
        if (version := fields.get("format_version")) != FORMAT_VERSION:
            raise CacheError(
                f"written in cache format {version}, this version of Frostline reads format "
                f"{FORMAT_VERSION}: use the version that wrote it, or another --workspace"
            )
        if unknown := sorted(fields.keys() - {field.name for field in dataclasses.fields(cls)}):
            raise RecordError(f"unknown field {unknown[0]!r}")
        convert(fields, cls)  # for its types: numbers stay as they were written, and so the digest
        return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def name(self) -> str:
        """The cache's folder name: readable first, unique by the digest's first 12 digits."""
        backbone = file_name(self.backbone)
        return f"{backbone}-{self.device}-{self.precision}-{self.digest[:12]}"

    def differences(self, other: "EmbeddingKey") -> list[str]:
        """Every field in which two keys differ, as `field: ours, not theirs`."""
        return [
            f"{field.name}: {ours!r}, not {theirs!r}"
            for field in dataclasses.fields(self)
            if (ours := getattr(self, field.name)) != (theirs := getattr(other, field.name))
        ]
