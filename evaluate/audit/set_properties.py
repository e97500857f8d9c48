"""What is so of many images of a set, a sentence each: how they are stored, and what is no outlier.

Where classes differ in it, a model can tell them apart without looking at what the images show.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import CacheError
from evaluate.audit.findings import Property
from evaluate.audit.outliers import ODD, Common
from evaluate.workspace.layout import Workspace
from extract.dataset_statistics.image_index import stats_of
from extract.imaging.image_stats import ImageStats, smallest_white
from extract.imaging.preprocessing import FULL_SCALE, Preprocessing
from extract.sources.image_file import ImageFile

LITTLE_USED = 4  # times larger than every value, a white value leaves 64 gray levels or fewer
DIFFERENT = 0.5  # of the images: two classes of which one has so much more differ
RARE = 0.05  # of the images: a bit depth that fewer have is no property
NAMED = 3  # images
CLASSES = 6  # shown
STORED = ("small", "size", "shape", "mode")  # rules that go by the file, not by what it shows
CONFOUNDED = ": classes differ in it, and a model can tell them apart by it alone"


@dataclass(frozen=True)
class Shown:
    """One image: where it lies, its class, whether it is of training or test, and its look."""

    path: Path
    label: str
    part: str
    stats: ImageStats


def properties(images: Sequence[Shown], common: Sequence[Common]) -> Iterator[Property]:
    """Say what is so of many images.

    Args:
        common: What rules found in many of them, by their places.
    """
    yield from of_depth(images)
    for each in common:
        found = [images[index] for index in each.images]
        note = f"{len(found):,} of {len(images):,} images {ODD[each.what].of_many}"
        if _differ(found, images):
            note += f" ({_classes(found, images)})" + (CONFOUNDED if each.what in STORED else "")
        yield Property(each.what, note)


def of_depth(images: Sequence[Shown]) -> Iterator[Property]:
    """Say what is so of many images' bit depth."""
    parts = dict.fromkeys(image.part for image in images)
    depths = (_little_used(part, [i for i in images if i.part == part]) for part in parts)
    yield from next((each for each in map(list, depths) if each), [])
    yield from _clipped(images)
    yield from _different_depths(images)


def of_new_images(
    files: Sequence[ImageFile], workspace: Workspace, preprocessing: Preprocessing
) -> Iterator[str]:
    """Say which new images have values that are clipped, or decoded nearly black."""
    white = preprocessing.full_scale
    try:
        image_stats, _ = stats_of(files, workspace.image_index, full_scale=white)
    except CacheError as error:
        yield f"The bit depth of the images is not known: {error}"
        return
    images = [
        Shown(f.path, "", "", image_stats[f.sha256]) for f in files if f.sha256 in image_stats
    ]
    yield from (each.note for each in _clipped(images))
    low = [i for i in images if i.stats.full_scale > 255 and _is_low(i.stats)]
    if low and white == FULL_SCALE:
        yield (
            f"{len(low):,} of {len(images):,} images use a quarter of their bit depth or less, so "
            f"64 gray levels or fewer remain: {named((i.path, i.stats) for i in low)}. If the "
            "training images are scaled otherwise, scale these in the same way; if they are not, "
            "train with --full-scale auto"
        )


def _little_used(part: str, images: Sequence[Shown]) -> Iterator[Property]:
    deep = [image.stats for image in images if image.stats.full_scale > 255]
    white = max((stats.white for stats in deep), default=0)
    largest = max((stats.largest for stats in deep), default=0)
    if deep and largest * LITTLE_USED <= white + 1:
        remedy = smallest_white(deep)
        yield Property(
            "bit depth",
            f"{part} images: the largest value is {largest} of {white}, so {len(deep):,} of "
            f"{len(images):,} images use {largest.bit_length()} of {white.bit_length()} bits, and "
            f"at most {round(largest * 255 / white) + 1} of 256 gray levels remain. Use "
            f"--full-scale auto ({remedy} for these), or --full-scale N with the largest value of "
            "the instrument (4095 for 12 bits)",
        )


def _clipped(images: Sequence[Shown]) -> Iterator[Property]:
    found = [image for image in images if image.stats.largest > image.stats.white]
    if found:
        yield Property(
            "clipped",
            f"{len(found):,} of {len(images):,} images have values above --full-scale, which are "
            f"clipped: {named((i.path, i.stats) for i in found)}",
        )


def _different_depths(images: Sequence[Shown]) -> Iterator[Property]:
    of_depth = dict[int, list[Shown]]()
    for image in images:
        of_depth.setdefault(image.stats.full_scale, []).append(image)
    kinds = {_bits(full): them for full, them in sorted(of_depth.items())}
    kinds = {name: them for name, them in kinds.items() if len(them) >= RARE * len(images)}
    if len(kinds) > 1:
        told = "; ".join(f"{name}: {_classes(them, images)}" for name, them in kinds.items())
        confounded = any(_differ(them, images) for them in kinds.values())
        note = f"the images are stored with different bit depths ({told})"
        yield Property("different bit depths", note + (CONFOUNDED if confounded else ""))
    for name, them in kinds.items():
        low = [image for image in them if image.stats.full_scale > 255 and _is_low(image.stats)]
        if len(low) < len(them) and _differ(low, them):
            bits = max(image.stats.largest for image in low).bit_length()
            note = f"some images of {name} use at most {bits} of them ({_classes(low, them)})"
            yield Property("different bit depths", note + CONFOUNDED)


def named(found: Iterable[tuple[Path, ImageStats]]) -> str:
    """Name the first of some images, with their largest values."""
    told = [
        f"{path} (largest value {stats.largest}, white is {stats.white})" for path, stats in found
    ]
    return ", ".join(told[:NAMED]) + (", …" if len(told) > NAMED else "")


def _bits(full_scale: int) -> str:
    if not full_scale:
        return "32 bits or float"
    return "8 bits or fewer" if full_scale <= 255 else f"{full_scale.bit_length()} bits"


def _is_low(stats: ImageStats) -> bool:
    return stats.largest * LITTLE_USED <= stats.white + 1


def _classes(found: Sequence[Shown], images: Sequence[Shown]) -> str:
    of, all_of = Counter(i.label for i in found), Counter(i.label for i in images)
    told = [f"{of[label]:,} of {count:,} {label}" for label, count in sorted(all_of.items())]
    return ", ".join(told[:CLASSES]) + (", …" if len(told) > CLASSES else "")


def _differ(found: Sequence[Shown], images: Sequence[Shown]) -> bool:
    """Tell whether one class has much more of these images than another."""
    of, all_of = Counter(i.label for i in found), Counter(i.label for i in images)
    shares = [of[label] / count for label, count in all_of.items()]
    return max(shares) - min(shares) >= DIFFERENT
