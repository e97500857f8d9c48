"""What every engine gives: a function from pixels to embeddings, for batches of one size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    # uint8 [n, 1, 224, 224], n <= batch_size → float32 [n, D]; returns when the result is complete.
    # A row depends on its own image only, not on its neighbours or their number, to the last bit.
    # Fewer rows, the first ones, come back if the user asked to stop meanwhile.
    Forward = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def padded(images: NDArray[np.uint8], batch_size: int) -> NDArray[np.uint8]:
    """Fill a batch up with black images: another size would round differently, or compile again."""
    import numpy as np

    missing = batch_size - len(images)
    return np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images
