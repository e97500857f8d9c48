"""A picklable description of an extraction: what another process needs to fill the same caches."""

from dataclasses import dataclass
from pathlib import Path

from cache.errors import WeightsError
from extract.artifact_store import ArtifactStore
from extract.embedder import EmbeddingSpec
from extract.imaging.preprocessing import Preprocessing
from extract.model_loader import Normalization, load_backbone
from extract.pipeline import RunnerOptions


@dataclass(frozen=True)
class Order:
    """A spec that can be sent. weights, seed: see `load_backbone`; what `auto` came to is said.
    cache: the name of the cache that is to be filled.
    """

    backbone: str
    weights: str
    seed: int
    normalization: Normalization
    device: str
    engines: tuple[str, ...]
    precision: str
    preprocessing: Preprocessing
    cache: str

    def spec(self, artifacts: ArtifactStore | None) -> EmbeddingSpec:
        """Return the spec, made here.

        Raises:
            WeightsError: the weights are missing here, or differ.
        """
        backbone = load_backbone(
            self.backbone, self.weights, self.seed, artifacts, self.normalization
        )
        spec = EmbeddingSpec(
            backbone, self.device, self.engines, self.precision, self.preprocessing
        )
        if spec.key.name != self.cache:
            raise WeightsError(
                f"{self.backbone}: its weights ({backbone.weights}), or the rules of decoding, are "
                f"not the same on every machine: here they would fill {spec.key.name}, not "
                f"{self.cache}; install the same versions, and put the same weights everywhere"
            )
        return spec


@dataclass(frozen=True)
class Job:
    """What every worker gets.

    Attributes:
        orders: One for each cache to fill.
        root: Where the caches are: a path, or a URL that all workers can reach.
        options: Their `workers` are those of one process.
        max_pixels: Limit of an image that is decoded; None: no limit.
    """

    orders: tuple[Order, ...]
    root: str
    options: RunnerOptions
    max_pixels: int | None


def order_of(spec: EmbeddingSpec, weights: str, seed: int) -> Order:
    """Say how to make a spec elsewhere. weights: as the user gave them."""
    backbone = spec.backbone
    source, _, _ = backbone.weights.partition(":")
    return Order(
        backbone=backbone.name,
        weights=str(Path(weights).absolute()) if source == "file" else source,
        seed=seed,
        normalization=backbone.normalization,
        device=spec.device,
        engines=spec.engines,
        precision=spec.precision,
        preprocessing=spec.preprocessing,
        cache=spec.key.name,
    )
