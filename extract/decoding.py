"""The choices of how a file becomes pixels. Without numpy: the command line shows them."""

from dataclasses import dataclass

# By name: how an image of any shape becomes a square.
FITS: dict[str, str] = {
    "stretch": "stretch",
    "pad": "padded to a square, centred, with the median level of its border; 1",
}


@dataclass(frozen=True)
class Decoding:
    """How a file becomes pixels. fast: large JPEG files are decoded at a fraction of their size,
    which changes their pixels (3 levels on average at hard edges). fit: one of FITS. augmentation:
    the policy of `extract.views` that augmented views are drawn by.
    """

    fast: bool = False
    fit: str = "stretch"
    augmentation: str = "gentle"


AS_USUAL = Decoding()
