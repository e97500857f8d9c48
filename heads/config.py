"""The configuration of one head, and its identifier.

- Equal trainings have equal configurations: a field without effect has its neutral value.
- An identifier depends on everything that the head depends on, and on nothing else.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cache.embedding_key import EmbeddingKey, file_name
from heads.architectures import HEADS
from heads.optimizers import OPTIMIZERS
from heads.schedules import SCHEDULES

NO_OPTIMIZER = "none"
FROZEN = "frozen"  # the mode of a model whose backbone was run once
BALANCES = {
    "none": "as the images are",
    "weights": "an image of a rare class counts for more",
    "sampling": "rare classes are drawn as often as common ones",
    "augment": "small classes are filled up with augmented views of their images",
}


@dataclass(frozen=True)
class HeadConfig:
    """One head to train. Defaults are the reference study's.

    Attributes:
        head: Name of the architecture.
        optimizer: By name; `none` for a head in closed form.
        learning_rate: At its highest.
        momentum: Of SGD.
        nesterov: Nesterov's momentum.
        weight_decay: As in `torch.optim`; λ of heads in closed form.
        schedule: Of the learning rate.
        gamma: Factor of the schedule.
        warmup: First epochs, in which the learning rate rises linearly.
        epochs: Passes over the training images.
        patience: Epochs without a lower validation loss after which training stops and the best
            parameters are kept; 0: it never stops, and the last are kept.
        batch_size: Images in a batch.
        balance: Treatment of rare classes, of BALANCES.
        views: Augmented views that training draws from; with balance `augment`, only to
            oversample small classes.
        val_fraction: Share of the images to validate on.
        seed: Of split, initial parameters and batches.
        fold: Empty, or the fold to validate on, as `2/5`; such a head is never saved.
    """

    head: str
    optimizer: str
    learning_rate: float = 0.001
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"
    gamma: float = 1.0
    warmup: int = 0
    epochs: int = 20
    patience: int = 0
    batch_size: int = 23
    balance: str = "none"
    views: int = 0
    val_fraction: float = 0.2
    seed: int = 0
    fold: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type in (float, "float"):  # 0 and 0.0 are one training: one key
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
        for name in self.unused_fields():
            object.__setattr__(self, name, NEUTRAL[name])

    def unused_fields(self) -> list[str]:
        """Return the fields that have no effect on this head."""
        head = HEADS[self.head]
        if head.fitted:
            used = ("weight_decay",) if len(head.strengths) > 1 else ()
            return [name for name in NEUTRAL if name not in used]
        names = [] if OPTIMIZERS[self.optimizer].momentum else ["momentum", "nesterov"]
        if not self.momentum:
            names.append("nesterov")
        if not SCHEDULES[self.schedule].gamma:
            names.append("gamma")
        elif self.gamma == 1:
            names.append("schedule")
        return names


# The value of a field without effect.
NEUTRAL: dict[str, object] = {
    field.name: field.default
    for field in dataclasses.fields(HeadConfig)
    if field.name not in ("head", "val_fraction", "seed", "fold")
} | {"optimizer": NO_OPTIMIZER, "momentum": 0.0}


def head_id(configuration: HeadConfig, identity: EmbeddingKey, images: str) -> str:
    """Return the identifier of a head: readable names, and 12 digits of SHA-256.

    Args:
        configuration: Its configuration.
        identity: The embedding key of its cache.
        images: Fingerprint of the images it is trained and validated on.
    """
    key = json.dumps([dataclasses.asdict(configuration), identity.digest, images], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    kind = (configuration.head, configuration.optimizer)
    return "-".join((file_name(identity.backbone), identity.device, *kind, digest))


def fingerprint(labels: Mapping[bytes, str], groups: Mapping[bytes, int] | None = None) -> str:
    """Return the fingerprint of labelled images: SHA-256 over sorted (image hash, class) pairs.

    It does not change if files are moved or renamed, or groups numbered differently; it does if an
    image is added, removed, relabelled or grouped.
    """
    digest = hashlib.sha256()
    for sha256, label in sorted(labels.items()):
        digest.update(sha256 + label.encode("utf-8", "surrogateescape") + b"\0")
    members: dict[int, list[bytes]] = {}
    for sha256 in sorted(set(groups or ()) & labels.keys()):
        members.setdefault((groups or {})[sha256], []).append(sha256)
    for keys in sorted(keys for keys in members.values() if len(keys) > 1):
        digest.update(b"group" + b"".join(keys))
    return digest.hexdigest()[:16]
