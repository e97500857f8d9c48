"""Results that others published, to stand beside ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import ResultsError
from cache.records import parse_json
from cache.tables import TableError, as_number, read_table
from evaluate.results import Count, Row
from extract.backbones import ALIASES
from heads.config import FROZEN

NEEDED = (
    *("hardware_type", "pretrained_model", "classifier_head", "opt_alg"),
    *("training_time_mins", "inference_time_secs", "accuracy", "conf_mat"),
)
DEVICES = {"gpu": "cuda"}  # the study's words for ours


@dataclass(frozen=True)
class Published:
    """One published model.

    Attributes:
        device, backbone: By our names.
        accuracy: A fraction.
        matrix: Confusion, rows true.
        roc_auc, recall: Fractions, or NaN.
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


def read_published(path: Path) -> list[Published]:
    """Read a table of published results; shares may read `81.82%` or 0.8182.

    Raises:
        ResultsError: the file is not there, or no such table.
    """
    try:
        table = read_table(path, NEEDED)
    except FileNotFoundError:
        raise ResultsError(f"{path} does not exist. Give a table of published results.") from None
    except TableError as error:
        raise ResultsError(f"{path} is no table of published results: {error}") from None
    if not table.rows:
        raise ResultsError(f"{path} has no row: give a table of published results")
    found = []
    for number, row in enumerate(table.rows, start=1):
        try:
            found.append(_published(row, number))
        except ValueError as error:
            raise ResultsError(f"{path}, row {number}: {error}. Correct it.") from None
    return found


def ours(published: Published, rows: Sequence[Row]) -> Row | None:
    """Return our frozen model of the same backbone, device, head and optimizer: of several, the
    first of these rows, which are ranked by validation.
    """
    wanted = (published.backbone, published.device, published.head, published.optimizer, FROZEN)
    names = ("pretrained_model", "hardware_type", "classifier_head", "opt_alg", "mode")
    return next((row for row in rows if tuple(row[name] for name in names) == wanted), None)


def _published(row: dict[str, str], number: int) -> Published:
    matrix = parse_json(row["conf_mat"], tuple[tuple[Count, ...], ...])
    if any(len(line) != len(matrix) for line in matrix) or not any(map(any, matrix)):
        raise ValueError(f"conf_mat is no square of counts: {row['conf_mat'][:80]}")
    return Published(
        name=row.get("model_id", str(number)),
        device=DEVICES.get(row["hardware_type"], row["hardware_type"]),
        backbone=ALIASES.get(row["pretrained_model"], row["pretrained_model"]),
        head=row["classifier_head"],
        optimizer=row["opt_alg"],
        training_mins=as_number(row["training_time_mins"]),
        inference_secs=as_number(row["inference_time_secs"]),
        accuracy=_share(row["accuracy"]),
        recall=_share(row.get("recall", "")),
        roc_auc=_share(row.get("roc_auc", "")),
        matrix=matrix,
    )


def _share(text: str) -> float:
    """Read a fraction or a percentage; NaN of an empty cell."""
    if not text:
        return float("nan")
    share = as_number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= share <= 1:
        raise ValueError(f"{text} is not a share between 0 and 1")
    return share


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
