"""Render the sample images that ship with the project: gels, and pictures that resemble gels.

Every image is drawn by a random generator seeded with the image's own name, so one image can be
rendered alone and nothing depends on the order.
"""

import argparse
import hashlib
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from canvas import Canvas, Painter
from gels import GELS
from not_gels import NOT_GELS
from numpy.random import Generator
from PIL import Image

SPLITS = {"dataset": 46, "test_images": 11}  # images of each class
PNG_EVERY = 9  # shares no factor with the number of kinds: format and kind are not tied


def samples() -> Iterator[tuple[str, Painter]]:
    """Give every image's path, less its ending, and its painter; the kinds take turns."""
    for split, count in SPLITS.items():
        for label, painters in (("gel", GELS), ("not_gel", NOT_GELS)):
            for number, painter in zip(range(1, count + 1), cycle(painters.values())):
                yield f"{split}/{label}/{label}_{number}", painter


def save(path: Path, rng: Generator, canvas: Canvas) -> int:
    """Write a canvas, with the grain of a sensor if a JPEG, and return the size of the file."""
    if path.suffix == ".jpg":  # PNG would keep every speck and grow fourfold
        canvas = canvas + rng.normal(0, rng.uniform(0.003, 0.01), canvas.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".jpg", ".png"):  # an earlier version may have had the other format
        path.with_suffix(suffix).unlink(missing_ok=True)
    image = Image.fromarray((255 * canvas.clip(0, 1)).round().astype(np.uint8))
    image.save(path, optimize=True, quality=int(rng.integers(80, 88)))
    return path.stat().st_size


def main() -> None:
    """Render every image."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=Path, default=root, help="default: the repository")
    out: Path = parser.parse_args().out
    sizes: list[int] = []
    for number, (name, painter) in enumerate(samples()):
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()))
        height, width = (int(side) for side in rng.integers(250, 377, 2))
        suffix = ".jpg" if number % PNG_EVERY else ".png"
        sizes.append(save(out / f"{name}{suffix}", rng, painter(rng, (height, width))))
    print(f"{len(sizes)} images, {sum(sizes) / 1e6:.2f} MB, in {out}")


if __name__ == "__main__":
    main()
