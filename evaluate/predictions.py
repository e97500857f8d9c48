"""What one head said of every test image, as a CSV file beside the head."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cache.atomic import replacing
from cache.checksum import check_checksum, write_checksum
from cache.errors import ResultsError
from evaluate.results import ANY_NAME

FIXED = ["path", "sha256", "label"]  # columns of words


@dataclass(frozen=True)
class Predictions:
    """paths and hashes of N images; labels: int [N], indices of classes; probabilities: [N, C], as
    the head gives them. leaked: bool [N], which are copies or near duplicates of training images.
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


@ANY_NAME
def write_predictions(path: Path, predictions: Predictions, classes: Sequence[str]) -> None:
    """Write one row per image: path, SHA-256, true class, whether it is leaked (0, 1), then each
    class's probability. Its checksum lies beside it.
    """
    table = pd.DataFrame(
        {
            "path": [str(p) for p in predictions.paths],
            "sha256": [key.hex() for key in predictions.hashes],
            "label": [classes[i] for i in predictions.labels],
            "leaked": predictions.leaked.astype(int),
            **{f"p({c})": predictions.probabilities[:, i] for i, c in enumerate(classes)},
        }
    )
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", errors="surrogateescape")
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


@ANY_NAME
def read_predictions(path: Path, classes: Sequence[str]) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        ResultsError: the file is damaged, of other classes, or of an older version.
        OSError: it can't be read.
    """
    try:
        check_checksum(path)
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(FIXED, str),
            keep_default_na=False,
            encoding_errors="surrogateescape",
        )
        return Predictions(
            tuple(Path(p) for p in table["path"]),
            tuple(bytes.fromhex(key) for key in table["sha256"]),
            np.array([list(classes).index(label) for label in table["label"]], dtype=np.int64),
            table[[f"p({c})" for c in classes]].to_numpy(dtype=np.float64),
            table["leaked"].to_numpy(dtype=np.int64) == 1,
        )
    except (KeyError, ValueError, pd.errors.ParserError) as error:
        raise ResultsError(f"{path} can't be used: {error}. Run evaluate again.") from None
