"""Image files as they come from labs, each with the very pixels it must give, or why it has none.

The expected pixels are computed here from the numbers in the file by the rules' own words, without
the code that is tested.
"""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 224
RAMP = np.tile(np.arange(SIZE, dtype=np.uint8), (SIZE, 1))  # 0…223, left to right
RAMP[: SIZE // 2] //= 2  # so that no turn or mirroring looks like another
DEEP = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
ORIENTATION, PHOTOMETRIC = 0x0112, 262
# What a viewer does with the eight EXIF orientations, as numpy operations on the stored pixels.
TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).T,
    8: lambda p: np.rot90(p, 1),
}

Outlier = tuple[bytes, NDArray[np.uint8] | str]  # a file, and its pixels or the reason


def saved(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def gray(pixels: NDArray[np.uint8] = RAMP) -> Image.Image:
    return Image.fromarray(pixels)


def scaled(values: NDArray[np.generic], full: float) -> NDArray[np.uint8]:
    return np.rint(values.astype(np.float64) * 255 / full).astype(np.uint8)


def stretched(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    numbers = values.astype(np.float64)
    result: NDArray[np.uint8] = np.rint((numbers - numbers.min()) / np.ptp(numbers) * 255).astype(
        np.uint8
    )
    return result


def luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """ITU-R 601 as Pillow computes it, in 16-bit fixed point."""
    red, green, blue = (pixels[..., i].astype(np.uint32) for i in range(3))
    summed = red * 19595 + green * 38470 + blue * 7471 + 0x8000
    result: NDArray[np.uint8] = (summed >> 16).astype(np.uint8)
    return result


def on_white(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    share = alpha.astype(np.float64) / 255
    blended: NDArray[np.float64] = pixels * share + 255 * (1 - share)
    return blended


def tiff(
    values: NDArray[np.generic], photometric: int = 1, order: Literal["<", ">"] = "<"
) -> bytes:
    """Write an uncompressed TIFF of one sample per pixel, of any type and byte order."""
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    height, width = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = values.dtype.itemsize * 8
    longs = {256: width, 257: height, 273: 8, 278: height, 279: len(data)}
    shorts = {258: bits, 259: 1, 262: photometric, 277: 1, 339: kind}
    entries = b""
    for tag, value in sorted({**longs, **shorts}.items()):
        form, number = ("I", 4) if tag in longs else ("H2x", 3)
        entries += struct.pack(f"{order}HHI{form}", tag, number, 1, value)
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order]
    head = magic + struct.pack(f"{order}I", 8 + len(data))
    count = struct.pack(f"{order}H", len(longs) + len(shorts))
    return head + data + count + entries + bytes(4)


def png(values: NDArray[np.generic], depth: int, colour: int, transparent: bytes = b"") -> bytes:
    """Write a PNG of any depth and colour type; rows of [H, W(, channels)]."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = values.shape[:2]
    big = values.astype(values.dtype.newbyteorder(">"))
    raw = b"".join(b"\0" + big[i].tobytes() for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = chunk(b"tRNS", transparent) if transparent else b""
    body = chunk(b"IHDR", header) + middle + chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def depths() -> dict[str, Outlier]:
    odd: dict[str, Outlier] = {}
    for kind in ("PNG", "TIFF", "JPEG2000"):
        odd[f"16-bit {kind}"] = (saved(Image.fromarray(DEEP), kind), scaled(DEEP, 65535))
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    for order in orders:
        odd[f"16-bit TIFF {order}"] = (tiff(DEEP, order=order), scaled(DEEP, 65535))
        numbers = RAMP.astype(np.float32) * 3 - 100
        odd[f"float TIFF {order}"] = (tiff(numbers, order=order), stretched(numbers))
        signed = RAMP.astype(np.int32) * 1000 - 70_000
        odd[f"signed 32-bit TIFF {order}"] = (tiff(signed, order=order), stretched(signed))
        odd[f"signed 16-bit TIFF {order}"] = (
            tiff(RAMP.astype(np.int16) * 100 - 9000, order=order),
            stretched(RAMP),
        )
    unsigned = RAMP.astype(np.uint32) * 19_000_000  # up to 4.2 thousand million
    odd["unsigned 32-bit TIFF"] = (tiff(unsigned), stretched(unsigned))
    odd["16-bit WhiteIsZero TIFF"] = (tiff(DEEP, 0), 255 - scaled(DEEP, 65535))
    odd["8-bit WhiteIsZero TIFF"] = (tiff(RAMP, 0), 255 - RAMP)
    numbers = RAMP.astype(np.float32)
    odd["float WhiteIsZero TIFF"] = (tiff(numbers, 0), 255 - stretched(numbers))
    odd["dark 16-bit PNG"] = (
        saved(Image.fromarray(DEEP // 256), "PNG"),
        scaled(DEEP // 256, 65535),
    )
    odd["16-bit PGM"] = (
        b"P5 224 224 65535\n" + DEEP.astype(">u2").tobytes(),
        scaled(DEEP, 65535),
    )
    odd["PGM up to 1000"] = (
        b"P5 224 224 1000\n" + (RAMP.astype(np.uint16) * 4).astype(">u2").tobytes(),
        scaled(RAMP.astype(np.uint16) * 4, 1000),
    )
    colour = np.stack([DEEP, DEEP // 2, DEEP // 3], -1)
    odd["16-bit colour PNG"] = (png(colour, 16, 2), luma((colour >> 8).astype(np.uint8)))
    bits = np.packbits(RAMP > 99, axis=1)
    odd["1-bit PNG"] = (_small(png, bits, 1), np.where(RAMP > 99, 255, 0).astype(np.uint8))
    pairs = ((RAMP[:, 0::2] >> 4 << 4) | (RAMP[:, 1::2] >> 4)).astype(np.uint8)
    odd["4-bit PNG"] = (_small(png, pairs, 4), ((RAMP >> 4) * 17).astype(np.uint8))
    odd["constant float TIFF"] = (
        tiff(np.full((SIZE, SIZE), 7, np.float32)),
        np.zeros((SIZE, SIZE), np.uint8),
    )
    return odd


def _small(write: Callable[..., bytes], packed: NDArray[np.uint8], depth: int) -> bytes:
    """Write packed samples of less than 8 bits: the header must say 224 columns, not fewer."""
    data = bytearray(write(packed, depth, 0))
    data[16:20] = struct.pack(">I", SIZE)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def transparency() -> dict[str, Outlier]:
    alpha = RAMP.T.copy()
    blended = np.rint(on_white(RAMP, alpha)).astype(np.uint8)
    two = np.dstack([RAMP, alpha])
    four = np.dstack([RAMP, RAMP, RAMP, alpha])
    odd: dict[str, Outlier] = {
        "gray PNG with alpha": (saved(Image.fromarray(two, "LA"), "PNG"), blended),
        "colour PNG with alpha": (saved(Image.fromarray(four), "PNG"), blended),
        "TIFF with alpha": (saved(Image.fromarray(four), "TIFF"), blended),
        "WebP with alpha": (
            saved(Image.fromarray(four), "WEBP", lossless=True, exact=True),
            blended,
        ),
        "16-bit gray PNG with alpha": (png(two.astype(np.uint16) * 257, 16, 4), blended),
        "16-bit colour PNG with alpha": (png(four.astype(np.uint16) * 257, 16, 6), blended),
    }
    hidden = np.where(RAMP == 50, 255, RAMP).astype(np.uint8)
    odd["gray PNG, one value transparent"] = (png(RAMP, 8, 0, b"\0\x32"), hidden)
    deep = RAMP.astype(np.uint16) * 257
    odd["16-bit PNG, one value transparent"] = (png(deep, 16, 0, b"\x32\x32"), hidden)
    odd["GIF, one colour transparent"] = (saved(gray(), "GIF", transparency=50), hidden)
    clear = np.zeros((SIZE, SIZE, 4), np.uint8)
    odd["wholly transparent, black below"] = (saved(Image.fromarray(clear), "PNG"), 255 + 0 * RAMP)
    return odd


def colours() -> dict[str, Outlier]:
    pixels = np.dstack([RAMP, RAMP.T, 255 - RAMP])
    picture, expected = Image.fromarray(pixels), luma(pixels)
    palette = Image.fromarray(RAMP // 4, "P")
    table = np.random.default_rng(5).integers(0, 256, (256, 3), dtype=np.uint8)
    palette.putpalette(table.tobytes())
    odd: dict[str, Outlier] = {
        f"colour {kind}": (saved(picture, kind), expected) for kind in ("PNG", "BMP", "TIFF", "PPM")
    }
    odd["colour WebP"] = (saved(picture, "WEBP", lossless=True), expected)
    odd["colour JPEG 2000"] = (saved(picture, "JPEG2000", irreversible=False), expected)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        odd[f"palette {kind}"] = (saved(palette, kind), luma(table[RAMP // 4]))
    black = Image.fromarray(np.dstack([0 * RAMP, 0 * RAMP, 0 * RAMP, 255 - RAMP]), "CMYK")
    odd["CMYK TIFF"] = (saved(black, "TIFF"), RAMP)
    for kind in ("PNG", "BMP", "TIFF", "PPM", "GIF"):
        odd[f"gray {kind}"] = (saved(gray(), kind), RAMP)
    for name in ("tiff_lzw", "tiff_deflate", "packbits", "lzma"):
        odd[f"TIFF {name}"] = (saved(gray(), "TIFF", compression=name), RAMP)
    line = Image.fromarray(RAMP > 99)
    drawn = np.where(RAMP > 99, 255, 0).astype(np.uint8)
    odd["fax TIFF"] = (saved(line, "TIFF", compression="group4"), drawn)
    odd["PBM"] = (saved(line, "PPM"), drawn)
    odd["big TIFF"] = (saved(gray(), "TIFF", big_tiff=True), RAMP)
    odd["interlaced GIF"] = (saved(gray(), "GIF", interlace=1), RAMP)
    odd["something behind the picture"] = (saved(gray(), "PNG") + b"trailing bytes", RAMP)
    return odd


def turned() -> dict[str, Outlier]:
    odd: dict[str, Outlier] = {}
    for orientation, turn in TURNS.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        for kind in ("PNG", "TIFF"):
            data = saved(gray(), kind, exif=exif)
            odd[f"{kind} turned {orientation}"] = (data, turn(RAMP))
        lossless = saved(gray().convert("RGB"), "WEBP", lossless=True, exif=exif)
        odd[f"WebP turned {orientation}"] = (lossless, turn(RAMP))
        deep = Image.fromarray(DEEP)
        odd[f"16-bit PNG turned {orientation}"] = (
            saved(deep, "PNG", exif=exif),
            turn(scaled(DEEP, 65535)),
        )
    return odd


def paged() -> dict[str, Outlier]:
    others = {"save_all": True, "append_images": [gray(255 - RAMP)]}
    return {
        "TIFF of two pages": (saved(gray(), "TIFF", **others), RAMP),
        "GIF of two frames": (saved(gray(), "GIF", **others), RAMP),
        "PNG of two frames": (saved(gray(), "PNG", **others), RAMP),
        "WebP of two frames": (
            saved(gray().convert("RGB"), "WEBP", lossless=True, save_all=True,
                  append_images=[gray(255 - RAMP).convert("RGB")]),
            RAMP,
        ),
    }  # fmt: skip


def huge(kind: str) -> bytes:
    """Write a small file whose header promises more pixels than are allowed."""
    side = 10_000
    if kind == "PNG":
        data = bytearray(saved(Image.new("L", (8, 8)), "PNG"))
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "BMP":
        data = bytearray(saved(Image.new("L", (8, 8)), "BMP"))
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "GIF":
        data = bytearray(saved(Image.new("L", (8, 8)), "GIF"))
        data[6:10] = struct.pack("<HH", side, side)
    else:
        data = bytearray(f"P5 {side} {side} 255\n".encode())
    return bytes(data)


def broken() -> dict[str, Outlier]:
    nan, inf = RAMP.astype(np.float32), RAMP.astype(np.float32)
    nan[3, 3], inf[3, 3] = np.nan, np.inf
    odd: dict[str, Outlier] = {
        "nothing": (b"", "the file is empty"),
        "a letter": (b"Dear colleague, the gel is attached.", "not an image of a known format"),
        "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known"),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known format"),
        "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "not an image of a known format"),
        "zip": (b"PK\x03\x04" + bytes(50), "not an image of a known format"),
        "zeros": (bytes(5000), "not an image of a known format"),
        "NaN in a float TIFF": (tiff(nan), "NaN or infinite"),
        "infinity in a float TIFF": (tiff(inf), "NaN or infinite"),
        "signed 8-bit TIFF": (tiff(RAMP.astype(np.int8)), "8-bit signed numbers.*Save the file"),
    }
    noise = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM"):
        whole = saved(gray(noise), kind)
        odd[f"half a {kind}"] = (whole[: len(whole) // 2], "truncated|broken data|create decoder")
    for kind in ("PNG", "BMP", "GIF", "PGM"):
        odd[f"{kind} bomb"] = (huge(kind), "too large")
    return odd


ODD: dict[str, Outlier] = {
    **depths(), **transparency(), **colours(), **turned(), **paged(), **broken()
}  # fmt: skip
