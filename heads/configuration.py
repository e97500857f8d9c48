"""What one head is trained from and how: the key under which it is kept."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cache.identity import Identity
from heads.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Configuration:
    """One head to train. Defaults are the reference study's.

    momentum is 0 where the optimizer has none, so that equal trainings have equal keys.
    """

    head: str
    optimizer: str
    learning_rate: float = 0.001
    momentum: float = 0.9
    epochs: int = 20
    batch_size: int = 23
    val_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not OPTIMIZERS[self.optimizer].momentum:
            object.__setattr__(self, "momentum", 0.0)


def head_id(configuration: Configuration, identity: Identity, images: str) -> str:
    """Name a head by everything it depends on: readable first, unique by 12 digits of SHA-256.

    images: the fingerprint of the images it is trained and validated on.
    """
    key = json.dumps([dataclasses.asdict(configuration), identity.digest, images], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    parts = (
        identity.backbone,
        identity.device,
        configuration.head,
        configuration.optimizer,
        digest,
    )
    return "-".join(parts)


def fingerprint(labels: Mapping[bytes, str]) -> str:
    """Name a labelled set of images by content: SHA-256 over its sorted (image hash, class) pairs.

    Moving or renaming files changes nothing; adding, removing or relabelling one does.
    """
    digest = hashlib.sha256()
    for sha256, label in sorted(labels.items()):
        digest.update(sha256 + label.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:16]
