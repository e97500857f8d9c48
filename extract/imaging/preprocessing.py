"""The choices of how a file becomes pixels. Without numpy: the command line shows them."""

from dataclasses import dataclass, field

from extract.imaging.bit_depth import FULL_SCALE

# By name: how an image of any shape becomes a square.
FITS: dict[str, str] = {
    "stretch": "stretch",
    "pad": "padded to a square, centred, with the median level of its border; 1",
}


# Formats that are read at all, by Pillow's name, and their file names' suffixes. Others stay shut:
# Pillow would start Ghostscript for an EPS file.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "JPEG2000": (".jp2", ".j2k"),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)


@dataclass(frozen=True)
class Preprocessing:
    """How a file becomes pixels. fast: large JPEG files are decoded at a fraction of their size,
    which changes their pixels (3 levels on average at hard edges). fit: one of FITS. augmentation:
    the policy of `extract.views` that augmented views are drawn by. full_scale: the value of 9 to
    16 bits that becomes white, where the file's own full scale is not smaller.
    """

    fast: bool = False
    fit: str = "stretch"
    augmentation: str = "gentle"
    # Not in the text below: it is as it was before there was a choice.
    full_scale: int = field(default=FULL_SCALE, repr=False)

    def __str__(self) -> str:
        """Return the text that keys of stored calibrations contain: with the class's first name."""
        return f"Decoding(fast={self.fast}, fit={self.fit!r}, augmentation={self.augmentation!r})"


AS_USUAL = Preprocessing()
