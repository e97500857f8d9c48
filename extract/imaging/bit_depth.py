"""Samples of more than 8 bits: which value is white, and what a set of images uses of the scale.

- The white value of a file is its own full scale (4095 of 12 bits, 65535 of 16), unless
  `--full-scale` names a smaller one. It is part of every cache's key.
- Imagers store 10 to 14 bits in files of 16: of 12 bits, 16 of 256 gray levels remain. So what is
  used is measured, and said.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    pass

AUTO = "auto"  # of --full-scale: see `smallest_white`
FULL_SCALE = 65535  # of 16 bits: no file's own full scale is larger
LEAST = 8  # bits that --full-scale auto chooses
RULE = (
    "9..16 bits: 0..{white}, or 0..full scale where that is smaller, to 0..255, larger values "
    "clipped; 32-bit and float: minimum..maximum to 0..255"
)


class Depth(NamedTuple):
    """Samples of one file.

    full_scale: the largest value that they can have; 255 for 8 bits and fewer; 0 for 32 bits and
    float, whose minimum and maximum become black and white. largest: the largest value stored; of 8
    bits it is not measured. white: the value that becomes white.
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
    found = re.match(r"9\.\.16 bits: 0\.\.(\d+),", rule)
    return int(found[1]) if found and rule == rule_of(int(found[1])) else FULL_SCALE
