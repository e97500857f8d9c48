"""What one head said of every test image, as a CSV file beside the head."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import ResultsError
from cache.files import replacing
from cache.tables import (
    as_number,
    check_checksum,
    neutral,
    open_table,
    path_cell,
    read_table,
    restored,
    write_checksum,
    write_table,
)

FIXED = ("path", "sha256", "label", "leaked")
AGAIN = "Run evaluate again."
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Predictions:
    """paths and hashes of N images;

    Attributes:
        labels: int [N], indices of classes.
        probabilities: [N, C], as the head gives them.
        leaked: bool [N], which are copies or near duplicates of training images.
    """

    paths: tuple[Path, ...]
    hashes: tuple[bytes, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    leaked: NDArray[np.bool_]

    @property
    def clean(self) -> "Predictions":
        """Those of images that are not leaked: what scores are made from."""
        kept = np.flatnonzero(~self.leaked)
        return Predictions(
            tuple(self.paths[i] for i in kept),
            tuple(self.hashes[i] for i in kept),
            self.labels[kept],
            self.probabilities[kept],
            self.leaked[kept],
        )


def predictions_path(heads: Path, head_id: str, test_fingerprint: str, engine: str) -> Path:
    """Where the predictions of a head on a test set, run by an engine, lie."""
    return heads / f"{head_id}.{test_fingerprint}.{engine}.csv"


def write_predictions(path: Path, predictions: Predictions, classes: Sequence[str]) -> None:
    """Write one row per image: path, SHA-256, true class, whether it is leaked (0, 1), then each
    class's probability. Its checksum lies beside it.
    """
    rows = zip(
        [path_cell(str(image)) for image in predictions.paths],
        [key.hex() for key in predictions.hashes],
        [neutral(classes[label]) for label in predictions.labels],
        predictions.leaked.astype(int),
        *predictions.probabilities.T,
        strict=True,
    )
    with replacing(path) as temporary, open_table(temporary) as file:
        write_table(file, [*FIXED, *map(_column, classes)], rows)
    write_checksum(path)


def are_whole(path: Path) -> bool:
    """Tell whether predictions are there, as they were written. Raises OSError."""
    if not path.exists():
        return False
    try:
        check_checksum(path)
    except ValueError:
        return False
    return True


def read_predictions(path: Path, classes: Sequence[str]) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        ResultsError: the file is damaged, of other classes, or of an older version.
    """
    places = {label: index for index, label in enumerate(classes)}
    names = [_column(label) for label in classes]
    hashes, labels = list[bytes](), list[int]()
    leaked, probabilities, where = list[bool](), list[list[float]](), ""
    try:
        check_checksum(path)
        table = read_table(path, [*FIXED, *names])
        for line, row in zip(table.lines, table.rows, strict=True):
            where = f"line {line}: "
            hashes.append(_sha256(row["sha256"]))
            labels.append(places[restored(row["label"])])
            leaked.append({"0": False, "1": True}[row["leaked"]])
            probabilities.append([_chance(row[name]) for name in names])
    except KeyError as error:
        raise ResultsError(f"{path} can't be used: {where}unknown {error}. {AGAIN}") from None
    except (ValueError, OSError) as error:
        raise ResultsError(f"{path} can't be used: {where}{error}. {AGAIN}") from None
    return Predictions(
        tuple(Path(row["path"]) for row in table.rows),
        tuple(hashes),
        np.array(labels, np.int64),
        np.array(probabilities, np.float64).reshape(-1, len(classes)),
        np.array(leaked, np.bool_),
    )


def _column(label: str) -> str:
    return f"p({label})"


def _sha256(cell: str) -> bytes:
    if not SHA256.fullmatch(cell):
        raise ValueError("sha256 is not 64 hexadecimal digits")
    return bytes.fromhex(cell)


def _chance(cell: str) -> float:
    if not 0 <= (chance := as_number(cell)) <= 1:
        raise ValueError(f"{cell} is not a probability")
    return chance
