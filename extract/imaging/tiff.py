"""TIFFs: which page counts, whether it is whole, and its numbers where Pillow reads them wrongly.

Pillow reads some layouts as noise without a message: uncompressed planar colour of 16 bits,
compressed big-endian floats and signed numbers, planar gray with alpha. Others it doesn't read at
all. Both are left to tifffile, which is imported only then; what it can't read is refused.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.errors import UnreadableImageError

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
START_OF_SCAN = b"\xff\xda"  # in a JPEG
# Encoders write up to about 20. Each costs a pass over the image: a file of 300 kB can hold 20,000.
# libjpeg-turbo has a limit for the same reason (TJPARAM_SCANLIMIT).
MOST_SCANS = 100
MOST_PAGES = 100  # that are looked at for the first of full resolution
MOST_SAMPLES = 6  # per pixel, as in Pillow

SAVE = "Save the file as 8- or 16-bit gray or RGB."

# Tags, by their names in TIFF 6.0.
SUBFILE_TYPE, OLD_SUBFILE_TYPE = 254, 255
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_SIZES, PLANAR = 273, 277, 278, 279, 284
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_SIZES = 322, 323, 324, 325
SUB_IFDS, SAMPLE_FORMAT, SUBSAMPLING, DEPTH = 330, 339, 530, 32997
ORIENTATION = 274
MD_FILE_TAG = 33445  # of Molecular Dynamics scanners; 2: the values are square roots

REDUCED, MASK = 1, 4  # bits of SUBFILE_TYPE
OLD_REDUCED = 2  # of OLD_SUBFILE_TYPE
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6  # of PHOTOMETRIC
UNSIGNED = 1  # of SAMPLE_FORMAT
JPEG = (6, 7)  # of COMPRESSION
PREMULTIPLIED, STRAIGHT = 1, 2  # of the tag ExtraSamples: kinds of alpha


@dataclass(frozen=True)
class Numbers:
    """A page as stored.

    Attributes:
        values: Native-endian [height, width, samples], not turned, not inverted.
        photometric: WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE or CMYK.
        bits: Per sample.
        alpha: PREMULTIPLIED, STRAIGHT, or None if no sample is alpha; otherwise the sample after
            the colours is.
        palette: [3, 2**bits], 0…65535; None unless PALETTE.
        orientation: As in EXIF.
    """

    values: NDArray[Any]
    photometric: int
    bits: int
    alpha: int | None
    palette: NDArray[np.uint16] | None
    orientation: int

    @property
    def unsigned(self) -> bool:
        """Whether the numbers have a full scale, 2**bits - 1."""
        return self.values.dtype.kind in "bu" and self.bits <= 16

    @property
    def mode(self) -> str:
        """Pillow's name of the nearest thing that it has."""
        if self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
            if not self.unsigned:
                return "F" if self.values.dtype.kind == "f" else "I"
            return "LA" if self.alpha else "L" if self.bits <= 8 else "I;16"
        return {RGB: "RGBA" if self.alpha else "RGB", PALETTE: "P", CMYK: "CMYK"}[self.photometric]


@contextmanager
def first_page(data: bytes) -> Iterator[tuple[Any, bool]]:
    """Give the first page of full resolution, and whether the file has another.

    The page is an image of Pillow where Pillow reads it rightly, otherwise a page of tifffile for
    `numbers`. Of a file with reduced pages only, the first counts.

    Raises:
        UnreadableImageError: it has no page, or its page lacks some of its strips or tiles.
    """
    with ExitStack() as stack:
        image = _pillow_page(data)
        if image is not None:
            stack.enter_context(image)
            _check_whole(image.tag_v2, data)
            yield image, _another_pillow_page(image)
            return
        # Its warnings are about tags that don't matter here, or end in an exception as well.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        import tifffile

        try:
            file = stack.enter_context(tifffile.TiffFile(BytesIO(data)))
            found = _full_pages(file)
            page: Any = found[0] if found else file.pages[0]
        except Exception as error:
            raise UnreadableImageError(f"a damaged TIFF: {error}") from error
        _check_whole({tag.code: tag.value for tag in page.tags}, data)
        yield page, len(found) > 1


def numbers(page: Any) -> Numbers:
    """Decode a page of tifffile.

    Raises:
        UnreadableImageError: the layout is not supported, or the data is damaged.
    """
    colours = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4}
    photometric = int(page.photometric)
    if photometric == YCBCR and page.compression in JPEG and page.planarconfig == 1:
        photometric = RGB  # as which tifffile gives it
    extra = tuple(int(each) for each in page.extrasamples)
    wanted = colours.get(photometric)
    kind = page.dtype.kind if page.dtype is not None else ""
    unsigned = kind in "bu" and page.bitspersample <= 16
    if (
        wanted is None
        or kind not in tuple("buif")
        or page.imagedepth != 1
        or page.samplesperpixel != wanted + len(extra)
        or page.samplesperpixel > MOST_SAMPLES
        or (wanted == 1 and len(extra) > 1)  # several channels: which of them is meant?
        or (wanted > 1 and not (unsigned and page.bitspersample in (8, 16)))
        or (kind == "i" and page.bitspersample == 8)
        or (photometric == PALETTE and not unsigned)
    ):
        raise UnreadableImageError(_not_supported(page))
    alpha = extra[0] if extra and extra[0] in (PREMULTIPLIED, STRAIGHT) else None
    if alpha and not (unsigned and photometric in (BLACK_IS_ZERO, RGB)):
        raise UnreadableImageError(_not_supported(page))
    try:
        values = page.asarray(squeeze=False, maxworkers=1)  # [plane, depth, height, width, sample]
    except Exception as error:  # whatever its decoders raise
        reason = f"this TIFF can't be decoded: {error} ({_layout(page)}). {SAVE}"
        raise UnreadableImageError(reason) from error
    values = values.view(np.uint8) if kind == "b" else values
    palette = None
    if photometric == PALETTE:
        palette = np.asarray(page.colormap).reshape(3, -1)
        if palette.shape[1] != 2**page.bitspersample:
            raise UnreadableImageError("a damaged TIFF: its palette has another size")
    return Numbers(
        np.moveaxis(values[:, 0], 0, -2).reshape(*values.shape[2:4], -1),
        photometric,
        int(page.bitspersample),
        alpha,
        palette,
        int(page.tags.valueof(ORIENTATION, 1)),
    )


def numbers_of(data: bytes, number: int) -> Numbers:
    """Decode the page of this number, from 0 on. Raises UnreadableImageError, as `numbers`."""
    import tifffile

    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            return numbers(file.pages[number])
    except UnreadableImageError:
        raise
    except Exception as error:
        raise UnreadableImageError(f"a damaged TIFF: {error}") from error


def _pillow_page(data: bytes) -> Any:
    """Return the first full page as an image; None where Pillow can't read it rightly."""
    try:
        image: Any = Image.open(BytesIO(data), formats=["TIFF"])
        for number in range(MOST_PAGES):
            if _is_full(image.tag_v2):
                return image if _pillow_is_right(image.tag_v2) else None
            try:
                image.seek(number + 1)
            except EOFError:
                break
        image.seek(0)
    except Image.DecompressionBombError:
        raise
    except Exception:  # noqa: BLE001 - whatever Pillow can't read, tifffile may
        return None
    return image if _pillow_is_right(image.tag_v2) and not image.tag_v2.get(SUB_IFDS) else None


def _another_pillow_page(image: Any) -> bool:
    """Look for a further page of full resolution, and return to this one."""
    chosen = image.tell()
    found = False
    try:
        for number in range(chosen + 1, MOST_PAGES):
            image.seek(number)
            if _is_full(image.tag_v2):
                found = True
                break
    except EOFError:
        pass
    except Exception:  # noqa: BLE001 - whatever a broken page raises, this one may be whole
        found = True
    image.seek(chosen)
    return found


def _full_pages(file: Any) -> list[Any]:
    """Return the first pages of full resolution, two at most; else the first below page one,
    where cameras put it.
    """
    found = [*islice(filter(_is_full_page, _pages(file)), 2)]
    below = file.pages[0].pages or () if not found else ()
    return found or [*islice(filter(_is_full_page, islice(below, MOST_PAGES)), 1)]


def _pages(file: Any) -> Iterator[Any]:
    for number in range(MOST_PAGES):
        try:
            yield file.pages[number]
        except IndexError:
            return


def _is_full_page(page: Any) -> bool:
    codes = (SUBFILE_TYPE, OLD_SUBFILE_TYPE)
    return _is_full({code: page.tags.valueof(code, 0) for code in codes})


def _is_full(tags: Any) -> bool:
    """Tell a picture from its thumbnail, a smaller level of it, and a transparency mask."""
    kind = tags.get(SUBFILE_TYPE, 0)
    return not kind & (REDUCED | MASK) and tags.get(OLD_SUBFILE_TYPE, 0) != OLD_REDUCED


def _pillow_is_right(tags: Any) -> bool:
    """Say whether Pillow reads this layout rightly: tests/test_tiff.py compares many of them."""
    bits = {*_tuple(tags.get(BITS, 1))}
    subsampled = _tuple(tags.get(SUBSAMPLING, (2, 2))) != (1, 1)
    photometric = tags.get(PHOTOMETRIC, WHITE_IS_ZERO)
    return (
        (tags.get(PLANAR, 1) == 1 or tags.get(SAMPLES, 1) == 1)
        and {*_tuple(tags.get(SAMPLE_FORMAT, UNSIGNED))} == {UNSIGNED}
        and tags.get(DEPTH, 1) == 1
        and len(bits) == 1
        and bits <= {1, 2, 4, 8, 16}
        and (tags.get(FILL_ORDER, 1) == 1 or bits == {1})
        and photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR)
        and not (photometric == WHITE_IS_ZERO and bits == {16})
        and not (photometric == YCBCR and tags.get(COMPRESSION) not in JPEG and subsampled)
    )


def _check_whole(tags: Any, data: bytes) -> None:
    """Refuse a page that lacks strips or tiles, which both libraries leave black, one that takes
    minutes to decode, and one whose values are square roots.
    """
    if tags.get(MD_FILE_TAG) == 2:
        raise UnreadableImageError(
            "a .gel file of a Typhoon or Storm scanner: its values are square roots "
            "(MDFileTag is 2). Export it as a linear 16-bit TIFF from the scanner's software."
        )
    width, length = tags.get(WIDTH, 0), tags.get(LENGTH, 0)
    if tags.get(TILE_OFFSETS):
        across, down = tags.get(TILE_WIDTH, 0), tags.get(TILE_LENGTH, 0)
        offsets, sizes = tags.get(TILE_OFFSETS), tags.get(TILE_SIZES)
    else:
        across, down = width, min(tags.get(ROWS_PER_STRIP) or length, length)
        offsets, sizes = tags.get(STRIP_OFFSETS), tags.get(STRIP_SIZES)
    if not (width and length and across and down):
        raise UnreadableImageError("a damaged TIFF: it has no size")
    planes = tags.get(SAMPLES, 1) if tags.get(PLANAR, 1) == 2 else 1
    wanted = -(-width // across) * -(-length // down) * planes
    found = _tuple(offsets or ())
    if len(found) < wanted or not all(found) or not all(_tuple(sizes or ())):
        present = sum(map(bool, found))
        raise UnreadableImageError(f"a damaged TIFF: it has {present} of {wanted} strips or tiles")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and across * down > max(limit, width * length):
        raise UnreadableImageError(f"a damaged TIFF: one tile has {across} x {down} pixels")
    if tags.get(COMPRESSION) in JPEG:
        parts = {*zip(found, _tuple(sizes or ()), strict=False)}
        scans = sum(data.count(START_OF_SCAN, start, start + size) for start, size in parts)
        if scans > MOST_SCANS * len(parts):
            raise UnreadableImageError(f"refused undecoded: it has {scans} JPEG scans. {SAVE}")


def _not_supported(page: Any) -> str:
    return f"this TIFF layout is not supported: {_layout(page)}. {SAVE}"


def _layout(page: Any) -> str:
    bits, samples = page.bitspersample, page.samplesperpixel
    kinds = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}
    return ", ".join(
        [
            f"{bits}-bit {kinds.get(page.sampleformat, 'unknown')} numbers",
            f"{samples} per pixel",
            *(["planar"] if page.planarconfig == 2 and samples > 1 else []),
            *([f"{page.imagedepth} images deep"] if page.imagedepth != 1 else []),
            f"photometric {getattr(page.photometric, 'name', page.photometric)}",
            f"compression {getattr(page.compression, 'name', page.compression)}",
        ]
    )


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
