"""What of a workspace belongs to a data set, and can be used on this machine."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cache.embedding_key import EmbeddingKey
from cache.errors import CacheError, DeviceError, HeadError, WeightsError
from cache.store import Cache, find_caches, summarize
from evaluate.text import TRAINED
from evaluate.workspace.layout import Workspace
from extract.backbones import find_backbone
from extract.dataset import ImageSet
from extract.devices import require_device
from extract.embedding_spec import current_key, preprocessing_of
from heads.config import fingerprint
from heads.store import TrainedHead, find_heads


@dataclass(frozen=True)
class Wanted:
    """What the user asked for, by the tables' names; empty means all."""

    arch: Collection[str] = ()
    device: Collection[str] = ()
    head: Collection[str] = ()
    optimizer: Collection[str] = ()


def select_caches(
    training: ImageSet, workspace: Workspace, wanted: Wanted
) -> tuple[list[Cache], list[str]]:
    """Find the caches that hold this data set; also return a line about each that does not.

    Raises:
        CacheError: there is none, or one is damaged.
    """
    complete, remarks = [], []
    for cache in find_wanted(workspace, wanted):
        if stale := outdated(cache.key):
            remarks.append(f"{cache.folder} is left out, being of another make: {stale}")
            continue
        held = summarize(cache)
        if held.weights.startswith(TRAINED):
            continue  # of a network that was trained on these images: no frozen backbone
        if missing := len(held.lacking(training.labels)):
            remarks.append(
                f"{cache.folder} lacks {missing} of {len(training.labels)} images of "
                f"{training.folder}: no heads trained on it, run extract first"
            )
        else:
            complete.append(cache)
    if not complete:
        none = f"{workspace.cache} has no such cache that holds the images of {training.folder}"
        raise CacheError(*remarks, f"{none}: run extract first, or see --workspace")
    return complete, remarks


def find_wanted(workspace: Workspace, wanted: Wanted) -> list[Cache]:
    """Return a workspace's caches of these backbones and devices. Raises CacheError on damage."""
    return [
        cache
        for cache in find_caches(workspace.cache)
        if _asked(cache.key.backbone, wanted.arch) and _asked(cache.key.device, wanted.device)
    ]


def outdated(key: EmbeddingKey) -> str | None:
    """Say in what a cache differs from one made now with the same weights; None if in nothing.

    Whole models are put together from the code of now: heads on other rows would be wrong for them.
    """
    try:
        find_backbone(key.backbone)
    except WeightsError as error:
        return str(error)
    return "; ".join(key.differences(current_key(key))) or None


def select_heads(
    training: ImageSet, workspace: Workspace, wanted: Wanted
) -> tuple[list[TrainedHead], list[str]]:
    """Find the heads trained on this data set that can be measured here.

    Also returns a line about each file that can't be used, and about each device that is not there,
    unless it was asked for.

    Raises:
        DeviceError: a device that was asked for, or the only one, is not there.
        HeadError: there is none.
        OSError: the folder of heads can't be listed.
    """
    known = fingerprint(training.labels)
    heads, remarks = find_heads(workspace.heads)
    found = [
        saved
        for saved in heads
        if saved.info.dataset_fingerprint == known
        and _asked(saved.info.identity.backbone, wanted.arch)
        and _asked(saved.info.identity.device, wanted.device)
        and _asked(saved.info.configuration.head, wanted.head)
        and _asked(saved.info.configuration.optimizer, wanted.optimizer)
    ]
    if not found:
        none = f"{workspace.heads} has no such head trained on {training.folder}"
        raise HeadError(*remarks, f"{none}: run train-heads first")
    for name in sorted({saved.info.identity.device for saved in found}):
        others = [saved for saved in found if saved.info.identity.device != name]
        try:
            require_device(name)
        except DeviceError as error:
            if name in wanted.device or not others:
                raise
            remarks.append(f"{error}: its heads are left out")
            found = others
    return found, remarks


def smallest_full_scale(identities: Iterable[EmbeddingKey]) -> int:
    """Return the smallest of the values that become white: see `Preprocessing`."""
    return min(preprocessing_of(key).full_scale for key in identities)


def _asked(name: str, names: Collection[str]) -> bool:
    return not names or name in names
