"""Looking for what is wrong with a set of images: copies, leaks into the test set, conflicting
labels, odd ones. Done once per training and test set; see evaluate/audit/findings.py.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.progress import Progress, silent
from cache.store import Cache, find_caches, read, summarize
from evaluate.audit.findings import (
    TEST,
    TRAINING,
    Audit,
    DuplicatePair,
    Outlier,
    Seen,
    audit_path,
    read_audit,
    write_audit,
)
from evaluate.audit.near_duplicates import Pair, find_near_duplicates, groups, most_alike
from evaluate.audit.outliers import find_outliers
from evaluate.audit.set_properties import Shown, properties
from evaluate.text import TRAINED
from evaluate.workspace.layout import Workspace
from extract.dataset import ImageSet
from extract.dataset_statistics.image_index import AHEAD, stats_of
from extract.devices import usable_cores
from extract.imaging.image_stats import SMALL, shrink
from extract.imaging.preprocessing import FULL_SCALE, Preprocessing
from extract.loader import decode_files
from heads.config import fingerprint


def audit(
    training: ImageSet,
    testing: ImageSet | None,
    workspace: Workspace,
    progress: Progress = silent,
    full_scale: int = FULL_SCALE,
) -> Audit:
    """Look at all images, and keep what was found.

    Near duplicates are found by perceptual hash, and confirmed by their details, and by the
    embeddings of a cache of trained weights that holds the training images; without one, hashes
    must differ less.

    Args:
        progress: Counts images.
        full_scale: See `Preprocessing`.

    Raises:
        CacheError: a cache or the table of looks is damaged.
        OSError: the audit can't be written.
    """
    sets = _sets(training, testing)
    files = [(part, file) for part, images in sets.items() for file in images.files]
    image_stats, reasons = stats_of(
        [file for _, file in files], workspace.image_index, progress, full_scale
    )
    first = dict[bytes, int]()  # of each image, the place of its first file
    alike = list[DuplicatePair]()
    for index, (_, file) in enumerate(files):
        if first.setdefault(file.sha256, index) != index:
            alike.append(DuplicatePair(first[file.sha256], index, 1.0, 0, exact=True))
    keys = [key for key in first if key in image_stats]
    cache = _trained(training, workspace, reasons)
    rows = _rows_of(cache, keys) if cache else None
    seen = [image_stats[key] for key in keys]
    places = [first[key] for key in keys]
    pictures = partial(_pictures, [files[index][1].path for index in places], full_scale)
    pairs = find_near_duplicates(seen, rows, pictures, progress)
    for pair in _telling(pairs, [files[index][0] for index in places]):
        cosine = None if pair.cosine is None else round(pair.cosine, 4)
        i, j = places[pair.first], places[pair.second]
        alike.append(DuplicatePair(i, j, cosine, pair.bits, exact=False))
    of_training = [
        (a.first, a.second) for a in alike if files[a.first][0] == files[a.second][0] == TRAINING
    ]
    number = groups(of_training, len(files))
    odd, common = find_outliers(seen)
    shown = [
        Shown(files[p][1].path, files[p][1].label, files[p][0], stats)
        for p, stats in zip(places, seen, strict=True)
    ]
    found = Audit(
        dataset=training.name,
        test=testing.name if testing else None,
        cache=cache.key.name if cache else None,
        images=tuple(
            Seen(str(file.path), file.sha256.hex(), file.label, part, number[index])
            for index, (part, file) in enumerate(files)
        ),
        alike=tuple(alike),
        unreadable=tuple(_unreadable(sets, reasons)),
        odd=tuple(Outlier(places[index], what, note) for index, what, note in odd),
        properties=tuple(properties(shown, common)),
        full_scale=full_scale,
    )
    write_audit(audit_path(workspace, *_fingerprints(training, testing)), found)
    return found


def kept_audit(
    training: ImageSet,
    testing: ImageSet | None,
    workspace: Workspace,
    full_scale: int = FULL_SCALE,
) -> Audit | None:
    """Return what was found in these very files before; None if nobody has looked, with this full
    scale, or if a trained backbone has seen them since.

    Raises:
        ResultsError: the audit's file is damaged.
        CacheError: a cache is damaged.
    """
    path = audit_path(workspace, *_fingerprints(training, testing))
    if not path.exists():
        return None
    found = read_audit(path)
    if found.full_scale != full_scale:
        return None
    now = [
        (str(file.path), file.sha256.hex(), file.label, part)
        for part, images in _sets(training, testing).items()
        for file in images.files
    ]
    if now != [(image.path, image.sha256, image.label, image.part) for image in found.images]:
        return None
    if found.cache is None and _trained(training, workspace, _unreadable_keys(found)):
        return None
    return found


def _sets(training: ImageSet, testing: ImageSet | None) -> dict[str, ImageSet]:
    return {TRAINING: training} | ({TEST: testing} if testing else {})


def _fingerprints(training: ImageSet, testing: ImageSet | None) -> tuple[str, str | None]:
    return fingerprint(training.labels), fingerprint(testing.labels) if testing else None


def _trained(
    training: ImageSet, workspace: Workspace, unreadable: Collection[bytes]
) -> Cache | None:
    """Return a cache of pretrained weights that holds the training images: the one of an earlier
    audit of them, so that groups stay what they are; else the first by name.

    Not the test images: whether they were embedded must not change how training is divided.
    """
    keys = frozenset(training.labels) - frozenset(unreadable)
    able = {}
    for cache in find_caches(workspace.cache):
        held = summarize(cache)
        if not held.weights.startswith(("random", TRAINED)) and held.stored.issuperset(keys):
            able[cache.key.name] = cache
    for path in sorted(workspace.audits.glob(f"{fingerprint(training.labels)}*.json")):
        if (before := read_audit(path).cache) in able:
            return able[before]
    return next(iter(able.values()), None)


def _unreadable_keys(found: Audit) -> set[bytes]:
    paths = {path for path, _ in found.unreadable}
    return {bytes.fromhex(image.sha256) for image in found.images if image.path in paths}


def _rows_of(
    cache: Cache, keys: Sequence[bytes]
) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Return what gives embeddings by place; zeros where there is none."""
    stored = summarize(cache).stored

    def rows(places: NDArray[np.int64]) -> NDArray[np.float32]:
        found = np.zeros((len(places), cache.key.embedding_dim), np.float32)
        there = [i for i, index in enumerate(places) if keys[index] in stored]
        found[there] = read(cache, [keys[places[i]] for i in there])
        return found

    return rows


def _pictures(
    paths: Sequence[Path], full_scale: int, places: NDArray[np.int64]
) -> NDArray[np.float32]:
    preprocessing = Preprocessing(full_scale=full_scale)
    images = decode_files([paths[index] for index in places], usable_cores(), AHEAD, preprocessing)
    # One that has become unreadable meanwhile is blank, which is like nothing.
    blank = np.zeros((SMALL, SMALL), np.float32)
    pictures = (image.picture for image in images)
    return np.stack([blank if isinstance(p, str) else shrink(p.pixels[0]) for p in pictures])


def _telling(pairs: Sequence[Pair], parts: Sequence[str]) -> list[Pair]:
    """Leave out pairs that say nothing new: see `Audit.alike`."""
    count, crossing = len(parts), [p for p in pairs if parts[p.first] != parts[p.second]]
    best: dict[int, Pair] = {}
    for pair in crossing:
        test = pair.first if parts[pair.first] == TEST else pair.second
        best[test] = min(best.get(test, pair), pair, key=lambda p: (p.bits, -(p.cosine or 0)))
    within = [p for p in pairs if parts[p.first] == parts[p.second]]
    return [*most_alike(within, count), *best.values()]


def _unreadable(
    sets: Mapping[str, ImageSet], reasons: Mapping[bytes, str]
) -> list[tuple[str, str]]:
    return [
        *((f.path, f.reason) for images in sets.values() for f in images.unopened),
        *(
            (str(file.path), reasons[file.sha256])
            for images in sets.values()
            for file in images.files
            if file.sha256 in reasons
        ),
    ]
