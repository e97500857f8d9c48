"""The report's pictures, as SVG in a data URI: nothing is fetched, nothing can run in them."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import auc, roc_curve

from evaluate.metrics import METRICS
from evaluate.predictions import Predictions
from evaluate.results import Row
from extract.decode import decode_gray
from heads.files import HeadInfo

INK = "#1d2b3a"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.edgecolor": "#9aa7b3",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # a class may be called $x$
    "svg.hashsalt": "frostline",  # the same figure gives the same bytes
}
THUMBNAIL_PX = 160
MAX_LABELLED = 20  # classes; above, cells and curves bear no text
MAX_ROWS = 64  # of the heat map


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Draw a confusion matrix: rows true, columns predicted, coloured by share of the row."""
    counts = np.array(matrix)
    side = min(max(2.8, 0.6 * len(classes) + 1.2), 12)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        _cells(axes, shares, "Blues", [[str(count) for count in row] for row in matrix])
        axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="predicted", ylabel="true")
        return _data_uri(figure)


def roc(predictions: Predictions, classes: Sequence[str]) -> str:
    """Draw the ROC curve; above two classes one curve for each against the rest."""
    shown = [1] if len(classes) == 2 else range(len(classes))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#b9c3cc", linestyle=":")
        for i in shown:
            positive = predictions.labels == i
            if 0 < positive.sum() < len(positive):
                x, y, _ = roc_curve(positive, predictions.probabilities[:, i])
                axes.plot(x, y, label=f"{classes[i]} {auc(x, y):.3f}", linewidth=2)
        axes.set(
            xlabel="false positive rate",
            ylabel="true positive rate",
            xlim=(-0.02, 1.02),
            ylim=(0, 1.03),
        )
        if 1 < len(axes.lines) <= MAX_LABELLED:  # the diagonal is one
            axes.legend(loc="lower right", frameon=False, title="area under curve")
        return _data_uri(figure)


def curves(heads: Sequence[HeadInfo]) -> str:
    """Draw loss and accuracy per epoch: a line per head, dashed training, full validation."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for number, head in enumerate(heads):
                for part, line in (("training", "--"), ("validation", "-")):
                    values = head.curves[f"{part}_{measure}"]
                    label = _head_name(head) if part == "validation" else None
                    epochs = range(1, len(values) + 1)
                    axes.plot(epochs, values, line, color=f"C{number}", label=label, linewidth=1.3)
            axes.set(xlabel="epoch", ylabel=measure)
            axes.set_ylim(bottom=0, top=1.02 if measure == "accuracy" else None)
        axes.legend(frameon=False, fontsize=7)
        return _data_uri(figure)


def heat_map(rows: Sequence[Row]) -> str:
    """Draw every metric of the first `MAX_ROWS` configurations, a row each, in the order given."""
    names, rows = list(METRICS), rows[:MAX_ROWS]
    values = np.array([[row[name] for name in names] for row in rows])
    labels = [
        "{model_id}  {pretrained_model} · {hardware_type} · {classifier_head} · {opt_alg}".format(
            **r
        )
        for r in rows
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.24 * len(rows) + 0.8), layout="constrained")
        axes = figure.subplots()
        _cells(axes, values, "YlGnBu", [[f"{value:.2f}" for value in row] for row in values])
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        return _data_uri(figure)


def thumbnail(data: bytes) -> str:
    """Show an image file as the backbone sees it, small. Raises UnreadableImageError."""
    image = Image.fromarray(decode_gray(data).pixels[0]).resize((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=70)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"


def _cells(axes: Axes, shades: NDArray[Any], cmap: str, texts: Sequence[Sequence[str]]) -> None:
    """Draw a matrix of shades 0…1 with a text in each cell, readable on its shade."""
    axes.imshow(shades, cmap=cmap, vmin=0, vmax=1.1, aspect="auto")
    for y, row in enumerate(texts if len(texts[0]) <= MAX_LABELLED else ()):
        for x, text in enumerate(row):
            ink = "white" if shades[y, x] > 0.55 else INK
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=ink)


def _head_name(head: HeadInfo) -> str:
    return f"{head.configuration.head} · {head.configuration.optimizer}"


def _data_uri(figure: Figure) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{b64encode(buffer.getvalue()).decode()}"
