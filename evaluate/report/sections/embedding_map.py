"""The best model's embeddings in the plane: what lies near what, and where the mistakes are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.store import open_cache, read, summarize
from evaluate.audit.findings import TRAINING
from evaluate.report.context import ReportContext
from evaluate.report.thumbnails import ACROSS, sheet
from evaluate.text import NOT_TRAINED, printable

MOST = 400  # points; more can be distinguished neither by eye nor quickly by t-SNE
FEWEST = 4  # points, below which there is nothing to see
THUMBNAIL_PX = 96
SHAPES = 7  # of marks; with the colours, 56 classes look different
COLOURS = 8
WIDTH, HEIGHT, ROOM = 640, 440, 14  # of the map and its margin, in units
COMPONENTS = 50  # that t-SNE starts from, as its authors advise against noise
PERPLEXITY = 30.0


@dataclass(frozen=True)
class Place:
    """One image: label and predicted are numbers of classes; predicted is None of training images.

    Attributes:
        leaked: It is a copy or near duplicate of a training image.
    """

    path: Path
    key: bytes
    label: int
    predicted: int | None
    leaked: bool = False

    @property
    def wrong(self) -> bool:
        """Whether the model is mistaken."""
        return self.predicted is not None and self.predicted != self.label


def embedding_map(material: ReportContext) -> dict[str, Any] | None:
    """Map training and test images by PCA and by t-SNE (van der Maaten & Hinton 2008).

    None where the embeddings or predictions are not there, or the best model's backbone was trained
    too and has other ones.

    Raises:
        CacheError: the cache is damaged.
    """
    best = material.study.best
    info = material.infos.get(best["model_id"])
    if info is None or best["model_id"] not in material.answers or best["mode"] not in NOT_TRAINED:
        return None
    cache = open_cache(material.workspace.cache, info.identity)
    stored, every = summarize(cache).stored, _places(material)
    places = chosen([place for place in every if place.key in stored])
    if len(places) < FEWEST:
        return None
    principal, explained, neighbours = layouts(read(cache, [place.key for place in places]))
    spots = [fitted(principal), fitted(neighbours)]
    classes = material.classes
    return {
        "row": best,
        "width": WIDTH,
        "height": HEIGHT,
        "explained": explained,
        "sheet": sheet(material.files, [(place.path, place.key) for place in places], THUMBNAIL_PX),
        "across": ACROSS,
        "side": THUMBNAIL_PX,
        "points": [
            _point(place, classes) | {"pca": spots[0][i], "tsne": spots[1][i]}
            for i, place in enumerate(places)
        ],
        "legend": [
            {"label": label, "shape": i % SHAPES, "colour": i % COLOURS}
            for i, label in enumerate(classes)
        ],
        "training": sum(place.predicted is None for place in places),
        "left_out": len(every) - len(places),
    }


def chosen(places: Sequence[Place], most: int = MOST) -> list[Place]:
    """Choose at most so many images, by content alone: all mistakes, as far as there is room, then
    test images up to half, then training images, then further test images.
    """
    by_key = sorted(places, key=lambda place: place.key)
    wrong = [place for place in by_key if place.wrong]
    test = [place for place in by_key if place.predicted is not None and not place.wrong]
    training = [place for place in by_key if place.predicted is None]
    half = max(most // 2 - len(wrong), 0)
    order = [*wrong, *test[:half], *training, *test[half:]]
    return order[:most]


def layouts(
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.float64], tuple[float, float], NDArray[np.float64]]:
    """Lay embeddings, float32 [N, D], out in the plane by PCA and by t-SNE: two times [N, 2].

    Between them stands the share of variance that the two principal components explain. The same
    rows give the same numbers: t-SNE is exact, starts from PCA, and computes in one thread.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    values = rows.astype(np.float64)
    if not np.ptp(values, axis=0).any():  # nothing to lay out: all are in one place
        return np.zeros((len(rows), 2)), (0.0, 0.0), np.zeros((len(rows), 2))
    with threadpool_limits(1):
        pca = PCA(min(COMPONENTS, *values.shape), svd_solver="full")
        components = pca.fit_transform(values)
        perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, init="pca", method="exact", random_state=0)
        neighbours: NDArray[np.float64] = tsne.fit_transform(components)
    first, second = pca.explained_variance_ratio_[:2]
    return components[:, :2], (float(first), float(second)), neighbours


def fitted(points: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Turn a layout [N, 2] so that it is widest across, and scale it into the map, both ways alike:
    distances keep their sense.
    """
    _, _, directions = np.linalg.svd(points - points.mean(0), full_matrices=False)
    turned = points @ directions.T
    middle = (turned.max(0) + turned.min(0)) / 2
    half = np.array([WIDTH, HEIGHT]) / 2
    reach = np.maximum(np.abs(turned - middle).max(0), 1e-12)
    places = (turned - middle) * ((half - ROOM) / reach).min() + half
    return [(round(float(x), 1), round(float(y), 1)) for x, y in places]


def _places(material: ReportContext) -> list[Place]:
    """Return the test images, and the training images if the audit knows where they lie; each
    image once.
    """
    predictions = material.answers[material.study.best["model_id"]]
    predicted = predictions.probabilities.argmax(1)
    found = [
        Place(path, key, int(label), int(said), bool(leaked))
        for path, key, label, said, leaked in zip(
            predictions.paths,
            predictions.hashes,
            predictions.labels,
            predicted,
            predictions.leaked,
            strict=True,
        )
    ]
    names = material.infos[material.study.best["model_id"]].classes
    labels = {name: number for number, name in enumerate(names)}
    for image in material.audit.images if material.audit else ():
        if image.part == TRAINING and image.label in labels:
            key = bytes.fromhex(image.sha256)
            found.append(Place(Path(image.path), key, labels[image.label], None))
    return list({place.key: place for place in reversed(found)}.values())[::-1]


def _point(place: Place, classes: Sequence[str]) -> dict[str, Any]:
    label = classes[place.label]
    words = f"{printable(place.path.name)}: {label}"
    if place.predicted is None:
        words += ", training"
    elif place.wrong:
        words += f", predicted {classes[place.predicted]}"
    else:
        words += ", predicted rightly"
    return {
        "name": printable(place.path.name),
        "label": label,
        "predicted": None if place.predicted is None else classes[place.predicted],
        "words": words + (", left out as leaked" if place.leaked else ""),
        "wrong": place.wrong,
        "leaked": place.leaked,
        "shape": place.label % SHAPES,
        "colour": place.label % COLOURS,
    }
