"""The training run: every configuration on one cache, each kept as a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cache.progress import Progress, silent
from cache.store import Cache, contents, read
from heads.configuration import Configuration, fingerprint, head_id
from heads.files import HeadInfo, SavedHead, head_path, read_info, save_head
from heads.splits import check_trainable, split
from heads.train import Labelled, train, warm_up


@dataclass(frozen=True)
class HeadsRun:
    """The heads of one cache, in the order asked for. left_out: images without an embedding."""

    heads: tuple[SavedHead, ...]
    trained: int
    left_out: int


def train_heads(
    cache: Cache,
    labels: Mapping[bytes, str],
    dataset: str,
    configurations: Sequence[Configuration],
    root: Path,
    progress: Progress = silent,
) -> HeadsRun:
    """Train the heads that `root` lacks on a cache's embeddings of labelled images.

    labels: class by image hash. dataset: the folder's name, for the record. Images that could not
    be read at extraction are left out and counted.

    Raises:
        CacheError: the cache lacks images that nobody tried to extract.
        HeadError: the images can't be divided, a training diverged, or a kept head is damaged.
    """
    held = contents(cache)
    unreadable = (held.failures.keys() & labels.keys()) - held.stored
    usable = {key: label for key, label in labels.items() if key not in unreadable}
    images = fingerprint(usable)
    paths = [head_path(root, head_id(c, cache.identity, images)) for c in configurations]
    todo = [c for c, path in zip(configurations, paths, strict=True) if not path.exists()]
    if todo:
        check_trainable(usable)
        warm_up()
        classes = tuple(sorted(set(usable.values())))
        rows = _Rows(cache, usable, classes)
    for done, configuration in enumerate(todo, start=1):
        parts = split(usable, configuration.val_fraction, configuration.seed)
        result = train(
            configuration, rows.of(parts.training), rows.of(parts.validation), len(classes)
        )
        info = HeadInfo(
            configuration=configuration,
            identity=cache.identity,
            classes=classes,
            dataset=dataset,
            dataset_fingerprint=fingerprint(labels),
            images_fingerprint=images,
            weights=held.weights,
            n_training=len(parts.training),
            n_validation=len(parts.validation),
            training_seconds=result.seconds,
            embedding_seconds=held.seconds_per_image * len(usable),
            curves=result.curves,
        )
        save_head(root, info, result.head)
        progress(done, len(todo))
    heads = tuple(SavedHead(path, read_info(path)) for path in paths)
    return HeadsRun(heads, len(todo), len(unreadable))


class _Rows:
    """A cache's embeddings of labelled images, read once for all configurations."""

    def __init__(self, cache: Cache, labels: Mapping[bytes, str], classes: Sequence[str]) -> None:
        self.position = {key: i for i, key in enumerate(labels)}
        self.embeddings = torch.tensor(read(cache, tuple(labels)))
        self.labels = torch.tensor([classes.index(label) for label in labels.values()])

    def of(self, hashes: Sequence[bytes]) -> Labelled:
        rows = torch.tensor([self.position[key] for key in hashes])
        return Labelled(self.embeddings[rows], self.labels[rows])
