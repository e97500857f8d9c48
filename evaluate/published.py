"""Results that others published, to stand beside ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from json import loads
from pathlib import Path

import pandas as pd

from cache.errors import ResultsError
from evaluate.results import ANY_NAME, Row
from extract.backbones import ALIASES
from heads.files import FROZEN

NEEDED = (
    *("hardware_type", "pretrained_model", "classifier_head", "opt_alg"),
    *("training_time_mins", "inference_time_secs", "accuracy", "conf_mat"),
)
OPTIONAL = ("model_id", "precision", "recall", "roc_auc")
DEVICES = {"gpu": "cuda"}  # the study's words for ours


@dataclass(frozen=True)
class Published:
    """One published model. device, backbone: by our names. accuracy: a fraction. matrix: confusion,
    rows true. roc_auc, recall: fractions, or NaN.
    """

    name: str
    device: str
    backbone: str
    head: str
    optimizer: str
    training_mins: float
    inference_secs: float
    accuracy: float
    recall: float
    roc_auc: float
    matrix: tuple[tuple[int, ...], ...]

    @property
    def images(self) -> int:
        """How many images it was tested on."""
        return sum(map(sum, self.matrix))

    @property
    def right(self) -> int:
        """How many of them it got right."""
        return sum(line[i] for i, line in enumerate(self.matrix))


@ANY_NAME
def read_published(path: Path) -> list[Published]:
    """Read a table of published results; shares may read `81.82%` or 0.8182.

    Raises:
        ResultsError: the file is not there, or no such table.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} can't be read as a table of results: {error}") from None
    if missing := [name for name in NEEDED if name not in table.columns]:
        raise ResultsError(
            f"{path} is no table of published results: it lacks {', '.join(missing)}"
        )
    if table.empty:
        raise ResultsError(f"{path} has no row: give a table of published results")
    found = []
    for number, row in enumerate(table.to_dict("records"), start=1):
        try:
            found.append(_published({str(name): str(v) for name, v in row.items()}, number))
        except (ValueError, TypeError, IndexError) as error:
            raise ResultsError(f"{path}, row {number}: {error}: mend it") from None
    return found


def ours(published: Published, rows: Sequence[Row]) -> Row | None:
    """Return our frozen model of the same backbone, device, head and optimizer: of several, the
    first of these rows, which are ranked by validation.
    """
    wanted = (published.backbone, published.device, published.head, published.optimizer, FROZEN)
    names = ("pretrained_model", "hardware_type", "classifier_head", "opt_alg", "mode")
    return next((row for row in rows if tuple(row[name] for name in names) == wanted), None)


def _published(row: dict[str, str], number: int) -> Published:
    matrix = tuple(tuple(int(count) for count in line) for line in loads(row["conf_mat"]))
    if not matrix or any(len(line) != len(matrix) for line in matrix):
        raise ValueError(f"conf_mat is no square of counts: {row['conf_mat']}")
    return Published(
        name=row.get("model_id", str(number)),
        device=DEVICES.get(row["hardware_type"], row["hardware_type"]),
        backbone=ALIASES.get(row["pretrained_model"], row["pretrained_model"]),
        head=row["classifier_head"],
        optimizer=row["opt_alg"],
        training_mins=float(row["training_time_mins"]),
        inference_secs=float(row["inference_time_secs"]),
        accuracy=_share(row["accuracy"]),
        recall=_share(row.get("recall", "")),
        roc_auc=_share(row.get("roc_auc", "")),
        matrix=matrix,
    )


def _share(text: str) -> float:
    """Read a fraction or a percentage; NaN of an empty cell."""
    if not text:
        return float("nan")
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)


def comparable(published: Sequence[Published], rows: Sequence[Row]) -> list[str]:
    """Say, a sentence each, what of a published table can be compared with ours and what cannot."""
    best, first = rows[0], published[0]
    tested = best["n_test"] + best["n_leaked"] + best["n_unreadable"]
    lines = []
    if first.images == tested:
        lines.append(
            f"Accuracy: both were tested on {first.images} images. Whether these are the same ones "
            "can't be seen from a published table."
        )
    else:
        lines.append(
            f"Accuracy: not comparable. The published models were tested on {first.images} images, "
            f"ours on {tested}: they are not the same."
        )
    if best["n_leaked"]:
        lines.append(
            f"Left out of our scores, being copies or near duplicates of training images: "
            f"{best['n_leaked']} of {tested}. Beside them stands our accuracy on all, as a "
            "published one would count."
        )
    if all(each.roc_auc == each.recall for each in published):
        lines.append(
            "ROC AUC: not comparable. The published one equals recall in every row: it was "
            "computed from labels, ours is from scores."
        )
    return [
        *lines,
        "Training: ours is that of the head alone; extracting its embeddings, once for all heads, "
        "stands beside it. A published time that includes the backbone is another thing.",
        "Times are of other machines: they show orders of magnitude, no more.",
    ]


def with_leaked(row: Row) -> float | None:
    """Return our accuracy on all test images; None where some are left out and it is not known."""
    whole: float = row["accuracy_with_leaked"]
    if whole == whole:
        return whole
    return None if row["n_leaked"] else float(row["accuracy"])
