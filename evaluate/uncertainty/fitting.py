"""Which uncertainty score finds errors, measured on corrupted images: see `measure_doubt`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from cache.arrays import Arrays
from cache.errors import HeadError
from cache.progress import Progress, silent
from cache.store import open_cache, read, summarize
from evaluate.uncertainty.corruptions import CORRUPTIONS
from evaluate.uncertainty.scores import (
    SCORES,
    Floats,
    Uncertainty,
    doubt_path,
    most_powerful,
    power,
    write_doubt,
)
from evaluate.workspace.layout import Workspace
from extract.dataset import ImageSet
from extract.devices import usable_cores
from extract.embedder import Embedder
from extract.embedding_spec import EmbeddingSpec, engine_artifacts
from extract.loader import decode_files, make_batch
from heads.batched.fit import TrainingData, train
from heads.config import HeadConfig, fingerprint
from heads.embedding_dataset import EmbeddingDataset
from heads.inference import head_logits, probabilities
from heads.splits import Groups, split
from heads.store import TrainedHead

CORRUPTED = 24  # validation images that are corrupted, each in every way
HELD_OUT = 6  # classes or kinds that are held out, at most
KINDS = 3  # of a class, where there are two classes only
REMEMBERED = 2000  # training images that a score knows, at most
SHOWN = 50  # images of each that are asked about
USUAL = 0.95  # share of right answers that are not flagged
CLEAN, CHANGED, UNKNOWN = "validation", "corrupted", "held out"


@dataclass(frozen=True)
class _Answers:
    """Some images that a head was asked about.

    Attributes:
        kind: Of material. chances [n, C], calibrated; embeddings [n, D]; labels [n].
        known: By score, what it knows of the images trained on.
    """

    kind: str
    chances: NDArray[np.float64]
    embeddings: Floats
    labels: NDArray[np.int64]
    known: dict[str, Arrays]

    @property
    def errors(self) -> NDArray[np.bool_]:
        """Which answers are wrong, bool [n]."""
        return np.asarray(self.chances.argmax(1) != self.labels)

    def score(self, name: str) -> NDArray[np.float64]:
        """Return an uncertainty score, float [n]."""
        return SCORES[name].score(self.known[name], self.chances, self.embeddings)


class _Trial:
    """A head, and the images that it was trained and validated on."""

    def __init__(
        self, saved: TrainedHead, training: ImageSet, groups: Groups, workspace: Workspace
    ) -> None:
        self.saved, self.info = saved, saved.info
        self.cache = open_cache(workspace.cache, saved.info.identity)
        stored = summarize(self.cache).stored
        self.usable = {k: training.labels[k] for k in sorted(training.labels) if k in stored}
        self.groups = groups if self.info.n_groups else {}
        if fingerprint(self.usable, self.groups) != self.info.images_fingerprint:
            raise HeadError(
                f"{saved.path} was trained on other images, or on other groups of near duplicates, "
                f"than {training.folder} has now: run train-heads again"
            )
        self.keys = list(self.usable)
        self.rows = np.array(read(self.cache, self.keys))
        self.labels = np.array([self.info.classes.index(name) for name in self.usable.values()])
        c = self.info.configuration
        self.parts = split(self.usable, c.val_fraction, c.seed, "", self.groups)

    def places(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Return where images are among `rows`."""
        place = {key: number for number, key in enumerate(self.keys)}
        return np.array([place[key] for key in keys])

    def asked(self, kind: str, rows: Floats, labels: NDArray[np.int64]) -> _Answers:
        """Ask the head itself."""
        chances = probabilities(self.saved.logits(rows), self.info.temperature)
        return _Answers(kind, chances, rows, labels, self.known)

    @cached_property
    def known(self) -> dict[str, Arrays]:
        """What the scores know of the images trained on."""
        places = self.places(self.parts.training)
        return _known(self.rows[places], self.labels[places])


def measure_doubt(
    saved: TrainedHead,
    training: ImageSet,
    groups: Groups,
    spec: EmbeddingSpec,
    workspace: Workspace,
    progress: Progress = silent,
) -> Uncertainty:
    """Find out which score tells a head's errors from its right answers, and keep it.

    The material: the validation images as they are; the same corrupted in every way of CORRUPTIONS;
    and images of a class that a head of the same configuration was trained without. Where there are
    two classes only, of a kind: a third of a class, by k-means over embeddings. A score's power is
    how often an error has more of it than a right answer, over all of these.

    Args:
        progress: Counts parts.

    Raises:
        HeadError: the head was trained on other images.
        DeviceError: no engine of the spec can be built.
        OSError: the workspace can't be written.
    """
    trial = _Trial(saved, training, groups, workspace)
    asked = list[_Answers]()
    for done, answers in enumerate(_asked(trial, training, spec, workspace), start=1):
        asked.append(answers)
        progress(done, 2 + HELD_OUT)
    errors = np.concatenate([answers.errors for answers in asked])
    scores = {name: np.concatenate([answers.score(name) for answers in asked]) for name in SCORES}
    powers = {name: power(errors, score) for name, score in scores.items()}
    chosen = most_powerful(powers)
    clean = asked[0]
    usual = clean.score(chosen)[~clean.errors]
    usual = usual if len(usual) else scores[chosen]
    threshold = float(np.quantile(usual, USUAL, method="higher"))
    kinds = (CLEAN, CHANGED, UNKNOWN)
    doubt = Uncertainty(
        chosen,
        {name: round(value, 4) for name, value in powers.items()},
        {kind: sum(len(a.labels) for a in asked if a.kind == kind) for kind in kinds},
        int(errors.sum()),
        threshold,
        _share(scores[chosen][~errors] > threshold),
        _share(scores[chosen][errors] > threshold),
        saved.sha256(),
    )
    write_doubt(doubt_path(workspace.heads, saved.info.id), doubt, clean.known[chosen])
    return doubt


def _asked(
    trial: _Trial, training: ImageSet, spec: EmbeddingSpec, workspace: Workspace
) -> Iterator[_Answers]:
    validation = trial.places(trial.parts.validation)
    yield trial.asked(CLEAN, trial.rows[validation], trial.labels[validation])
    paths = {file.sha256: file.path for file in training.unique}
    wanted = [paths[trial.parts.validation[i]] for i in _evenly(len(validation), CORRUPTED)]
    hashes = {file.path: file.sha256 for file in training.unique}
    stream = decode_files(wanted, usable_cores(), CORRUPTED, spec.preprocessing, expected=hashes)
    images = make_batch(stream)
    random = np.random.default_rng(0)
    pixels = np.stack(
        [c.apply(image[0], random)[None] for c in CORRUPTIONS.values() for image in images.pixels]
    )
    labels = np.tile(trial.labels[trial.places(images.hashes)], len(CORRUPTIONS))
    embedder = Embedder(spec, artifacts=engine_artifacts(workspace.cache))
    embedder.build(images.pixels)  # verified on images as they are
    size = embedder.batch_size
    parts = [embedder.embed(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    yield trial.asked(CHANGED, np.concatenate(parts), labels)
    for held in _held_out(trial):
        if (answers := _without(trial, held)) is not None:
            yield answers


def _held_out(trial: _Trial) -> list[NDArray[np.int64]]:
    """Return the places of the images of each class, or of each kind of two classes."""
    classes = [np.flatnonzero(trial.labels == c) for c in range(len(trial.info.classes))]
    if len(classes) > 2:
        return classes[:HELD_OUT]
    from sklearn.cluster import KMeans

    kinds = []
    for places in classes:
        if len(places) > KINDS:
            found = KMeans(KINDS, n_init=5, random_state=0).fit_predict(trial.rows[places])
            kinds += [places[found == kind] for kind in range(KINDS)]
    return kinds


def _without(trial: _Trial, held: NDArray[np.int64]) -> _Answers | None:
    """Train a head like this one without some images, and ask it about them; None if too few would
    be left to train on.
    """
    rest = np.setdiff1d(np.arange(len(trial.keys)), held)
    labels = {trial.keys[place]: trial.usable[trial.keys[place]] for place in rest}
    rows = EmbeddingDataset(
        torch.from_numpy(trial.rows[rest])[None],
        torch.from_numpy(trial.labels[rest]),
        len(trial.info.classes),
    )
    configuration = replace(trial.info.configuration, views=0)
    try:
        parts = split(labels, configuration.val_fraction, configuration.seed, "", trial.groups)
    except HeadError:
        return None
    state = _trained(configuration, TrainingData(labels, rows, trial.groups))
    if state is None:
        return None
    places = trial.places(parts.training)
    asked = held[_evenly(len(held), SHOWN)]
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    logits = head_logits(configuration.head, rows.classes, tensors, trial.rows[asked])
    chances = probabilities(logits, trial.info.temperature)
    known = _known(trial.rows[places], trial.labels[places])
    return _Answers(UNKNOWN, chances, trial.rows[asked], trial.labels[asked], known)


def _trained(configuration: HeadConfig, data: TrainingData) -> dict[str, torch.Tensor] | None:
    ((_, (trained,)),) = train([configuration], data, keep=True)
    return None if trained.diverged else trained.state


def _share(flagged: NDArray[np.bool_]) -> float:
    return float(flagged.mean()) if len(flagged) else float("nan")


def _known(rows: Floats, labels: NDArray[np.int64]) -> dict[str, Arrays]:
    some = _evenly(len(rows), REMEMBERED)
    return {name: score.fit(rows[some], labels[some]) for name, score in SCORES.items()}


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return at most so many of the places 0 … count - 1, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
