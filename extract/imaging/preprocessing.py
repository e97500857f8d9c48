"""The choices of how a file becomes pixels. Without numpy: the command line shows them.

- The white value of a file with 9 to 16 bits is its own full scale (4095 of 12 bits, 65535 of 16),
  unless `--full-scale` names a smaller one. It is part of every cache's key.
- Imagers store 10 to 14 bits in files of 16: of 12 bits, 16 of 256 gray levels remain. So what is
  used is measured, and reported.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

AUTO = "auto"  # of --full-scale: see `smallest_white`
FULL_SCALE = 65535  # of 16 bits: no file's own full scale is larger
LEAST = 8  # bits that --full-scale auto chooses
RULE = (
    "9..16 bits: 0..{white}, or 0..full scale where that is smaller, to 0..255, larger values "
    "clipped; 32-bit and float: minimum..maximum to 0..255"
)

# By name: how an image of any shape becomes a square.
FITS: dict[str, str] = {
    "stretch": "stretch",
    "pad": "padded to a square, centred, with the median level of its border; 1",
}


class Depth(NamedTuple):
    """Samples of one file.

    Attributes:
        full_scale: The largest possible value; 255 for 8 bits and fewer; 0 for 32 bits and float,
            whose minimum and maximum become black and white.
        largest: The largest stored value; not measured for 8 bits.
        white: The value that becomes white.
    """

    full_scale: int = 255
    largest: int = 255
    white: int = 255


EIGHT_BITS = Depth()


def rule_of(white: int) -> str:
    """Name the rule of `--full-scale` in a cache's key."""
    return RULE.format(white=white)


def white_of(rule: str) -> int:
    """Return what `rule_of` named; FULL_SCALE for every other rule."""
    match = re.match(r"9\.\.16 bits: 0\.\.(\d+),", rule)
    return int(match[1]) if match and rule == rule_of(int(match[1])) else FULL_SCALE


@dataclass(frozen=True)
class Preprocessing:
    """How a file becomes pixels.

    Attributes:
        fast: Large JPEG files are decoded at a fraction of their size, which changes their pixels
            (3 levels on average at hard edges).
        fit: One of FITS.
        augmentation: One of `extract.imaging.augmentation.POLICIES`.
        full_scale: The value of 9 to 16 bits that becomes white, where the file's own full scale is
            not smaller.
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
