"""What one head is trained from and how: the key under which it is kept."""

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

    optimizer: by name; `none` of a head that is fitted at once. nesterov: whose momentum it is.
    weight_decay: of `torch.optim`, and the λ of fitted heads. schedule: of the learning rate, with
    its gamma. warmup: epochs of linear rise before. patience: epochs without a lower validation
    loss after which training stops, and the best weights are kept; 0: it never stops, and the last
    are. balance: what is done for rare classes. views: augmented views that training draws from; of
    balance `augment`, what there is to fill up with, and large classes are trained on clean views.
    fold: "" or, of a head that serves to estimate only, `2/5`: it is validated on the second fifth.

    What means nothing is set to its default, so that equal trainings have equal keys.
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
        for name in self.meaningless():
            object.__setattr__(self, name, NEUTRAL[name])

    def meaningless(self) -> list[str]:
        """Return the fields that make no difference to this head."""
        head = HEADS[self.head]
        if head.fitted:
            kept = ("weight_decay",) if len(head.strengths) > 1 else ()
            return [name for name in NEUTRAL if name not in kept]
        names = [] if OPTIMIZERS[self.optimizer].momentum else ["momentum", "nesterov"]
        if not self.momentum:
            names.append("nesterov")
        if not SCHEDULES[self.schedule].gamma:
            names.append("gamma")
        elif self.gamma == 1:
            names.append("schedule")
        return names


# By field: what it is set to where it means nothing.
NEUTRAL: dict[str, object] = {
    field.name: field.default
    for field in dataclasses.fields(HeadConfig)
    if field.name not in ("head", "val_fraction", "seed", "fold")
} | {"optimizer": NO_OPTIMIZER, "momentum": 0.0}


def head_id(configuration: HeadConfig, identity: EmbeddingKey, images: str) -> str:
    """Name a head by everything it depends on: readable first, unique by 12 digits of SHA-256.

    images: the fingerprint of the images it is trained and validated on.
    """
    key = json.dumps([dataclasses.asdict(configuration), identity.digest, images], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    kind = (configuration.head, configuration.optimizer)
    return "-".join((file_name(identity.backbone), identity.device, *kind, digest))


def fingerprint(labels: Mapping[bytes, str], groups: Mapping[bytes, int] | None = None) -> str:
    """Name a labelled set of images by content: SHA-256 over its sorted (image hash, class) pairs.

    Moving or renaming files changes nothing; adding, removing or relabelling one does. groups: of
    images that no split divides, if there are any; how they are numbered changes nothing.
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
