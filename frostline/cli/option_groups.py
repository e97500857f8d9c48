"""Options of the command line that travel together, as frozen dataclasses.

A field has the name of the option's parameter. Where a command lacks an option, its default holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from extract.imaging.preprocessing import AS_USUAL, FULL_SCALE, Preprocessing

if TYPE_CHECKING:
    from heads.search.space import SearchPlan

G = TypeVar("G")


def group(kind: type[G], choices: Mapping[str, Any]) -> G:
    """Return a group of a command's options.

    Args:
        choices: Values by parameter name.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: choices[name] for name in names if name in choices})


@dataclass(frozen=True)
class EmbeddingOptions:
    """What is embedded by which backbone, and how.

    Attributes:
        full_scale: See `Preprocessing`; `auto` and None become a number before anything is decoded.
        augmented: Augmented views of each training image.
    """

    arch: Sequence[str] = ()
    device: Sequence[str] = ()
    weights: str = "auto"
    precision: str = "fp32"
    engine: str | None = None
    fast_decode: bool = False
    fit: str = AS_USUAL.fit
    normalize: str = "weights"
    full_scale: int | str | None = None
    augment: str = AS_USUAL.augmentation
    seed: int = 0
    strict: bool = False
    workers: int | None = None
    images_at_once: int | None = None
    augmented: int = 0

    @property
    def preprocessing(self) -> Preprocessing:
        """How files become pixels; `full_scale` must be a number by now."""
        white = FULL_SCALE if self.full_scale is None else int(self.full_scale)
        return Preprocessing(self.fast_decode, self.fit, self.augment, white)


@dataclass(frozen=True)
class TrainingOptions:
    """What heads are trained, and where.

    Attributes:
        plan: The configurations and how one is chosen.
        train_on: Device that trains.
        tensorboard: Folder for curves; None: none are written.
    """

    plan: SearchPlan
    train_on: str = "cpu"
    tensorboard: Path | None = None
