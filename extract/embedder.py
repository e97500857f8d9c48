"""The one object that computes embeddings.

- The engine is built with the first pixels: the first of the spec's engines that can be built.
- It is compared with torch at fp32 on these pixels before it is used.
- A row depends on its own image only, not on its neighbours or their number, to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from extract.artifact_store import ArtifactStore
    from extract.backends.backend import Backend
    from extract.backends.verification import Deviation
    from extract.embedding_spec import EmbeddingSpec


class Embedder:
    """Computes embeddings as a spec describes them.

    Attributes:
        spec: The description.
        batch_size: Images at once, at most; built for 1, it answers soonest.
        artifacts: Where converted graphs and verifications are stored; None: nowhere.
        backend: The engine; None until the first pixels.
        deviation: Its distance from torch at fp32; None before, and for torch itself.
    """

    def __init__(
        self,
        spec: EmbeddingSpec,
        batch_size: int | None = None,
        artifacts: ArtifactStore | None = None,
    ) -> None:
        self.spec, self.artifacts = spec, artifacts
        self.batch_size = batch_size or spec.batch_size
        self.backend: Backend | None = None
        self.deviation: Deviation | None = None

    def build(self, pixels: NDArray[np.uint8]) -> Backend:
        """Build the engine, if it is not yet built, and verify it on these images.

        Args:
            pixels: uint8 [n, 1, 224, 224].

        Raises:
            DeviceError: no engine can be built, or it differs from torch too much.
            WeightsError: as `LoadedBackbone.module`.
        """
        if self.backend is None:
            from extract.backends.verification import verified_backend

            self.backend, self.deviation = verified_backend(
                self.spec, self.batch_size, pixels, self.artifacts
            )
        return self.backend

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute embeddings. Raises as `build` does.

        Args:
            pixels: uint8 [n, 1, 224, 224], n at most `batch_size`.

        Returns:
            float32 [n, D]; fewer rows, the first ones, if the user asked to stop meanwhile.
        """
        return self.build(pixels).forward(pixels)
