"""Real images for the benchmarks: the reference study's and CIFAR-10, if they lie at hand."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from extract.devices import usable_cores
from extract.loader import decode_files, make_batch
from extract.sources.image_file import SUFFIXES

ROOT = Path(__file__).resolve().parent.parent


def gels(data: Path) -> list[Path]:
    """Return the reference study's images below `data`; without them, our rendered samples."""
    folder = data / "gel" if (data / "gel").is_dir() else ROOT / "dataset"
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def repeated(sources: list[Path], folder: Path, count: int) -> Path:
    """Copy images until there are `count`, each with other bytes at its end: another hash."""
    for number in range(count):
        source = sources[number % len(sources)]
        target = folder / ("a", "b")[number % 2] / f"{number:06}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes() + number.to_bytes(8, "big"))
    return folder


def cifar(data: Path, folder: Path, part: str) -> Path:
    """Unpack a part of CIFAR-10 (`train` or `test`), a folder per class."""
    with zipfile.ZipFile(data / "cifar10.zip") as archive:
        archive.extractall(folder, [n for n in archive.namelist() if n.startswith(f"{part}/")])
    return folder / part


def photos(folder: Path, count: int) -> Path:
    """Write JPEG files of 2,000 x 1,500 pixels in colour, as detailed as photographs."""
    noise = np.random.default_rng(0)
    for number in range(count):
        coarse = noise.integers(0, 256, (150, 200, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((2000, 1500), Image.Resampling.BICUBIC)
        image = image.filter(ImageFilter.DETAIL)
        path = folder / ("a", "b")[number % 2] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)
    return folder


def pixels(paths: list[Path]) -> NDArray[np.uint8]:
    """Decode images: uint8 [n, 1, 224, 224]."""
    return make_batch(decode_files(paths, usable_cores(), len(paths))).pixels
