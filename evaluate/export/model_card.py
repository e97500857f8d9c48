"""A model card in Markdown (Mitchell et al. 2019): what a model is, and how far to trust it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evaluate.baseline.modes import MODES
from evaluate.leaderboard import images_in_words, interval_of
from evaluate.metrics import METRICS
from evaluate.predictions import Predictions
from evaluate.results import Row
from evaluate.statistics.comparison import Interval, score_intervals
from evaluate.text import printable
from heads.architectures import HEADS
from heads.store import HeadInfo

# What can mean something in the middle of a line, of CommonMark or of GitHub's additions to it.
MARKS = r"[\\`*_\[\]()<>|&~$:@.!]"

SNIPPET = """import json
import numpy as np
{imports}
from PIL import Image
picture = Image.open("image.png")
picture.draft("L", picture.size)  # of a JPEG, the luma as it is stored
picture = picture.convert("L").resize(({size}, {size}), Image.Resampling.BILINEAR)
images = np.array(picture)[None, None]
{run}
print(dict(zip(classes, probabilities[0].tolist())))"""


@dataclass(frozen=True)
class Check:
    """How a file did when it was run by itself on some images: the largest difference from the
    model put together here, of logits relative to the largest one.
    """

    difference: float
    images: int


@dataclass(frozen=True)
class ModelFile:
    """A file that holds a whole model.

    Attributes:
        name: Of the file.
        facts: What the file says of itself.
        check: How it did when it was run.
        snippet: Python that runs it, an import first; see `Format` in model_file.py.
    """

    name: str
    facts: Mapping[str, str]
    check: Check
    snippet: str


def model_card(info: HeadInfo, row: Row, predictions: Predictions, file: ModelFile) -> str:
    """Describe a model file in Markdown.

    Args:
        row: Of results.csv.
        predictions: Of the test images that its scores are made from.
    """
    sections = {
        f"Model {row['model_id']}: {info.identity.backbone}, {info.configuration.head} head": (
            _purpose(info, file.name)
        ),
        "Classes": _classes(info, predictions),
        "Data": _data(info, row),
        "How it was chosen": _choice(row),
        "Test scores": _scores(row, predictions),
        "Calibration": _calibration(info, row),
        "Limits": _limits(info, row),
        "Input": _input(json.loads(file.facts["preparation"])),
        "How to run it": _run(file.snippet, file.name, info.identity.size),
        "Check": _check(file.check, file.name),
        "Where it comes from": _origin(row, file.facts),
        "Licence": _licence(info),
    }
    parts = []
    for number, (title, lines) in enumerate(sections.items()):
        parts.append(f"{'##' if number else '#'} {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Show any text as it is, in one line of Markdown: nothing in it is a mark, a tag or a link."""
    one_line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", printable(text)).split())
    return re.sub(MARKS, r"\\\g<0>", one_line)


def _purpose(info: HeadInfo, file: str) -> Iterator[str]:
    head = HEADS[info.configuration.head]
    name = info.identity.backbone
    made = (
        f"the network {name} with a head ({head.summary}); {MODES[info.mode].summary} "
        f"({info.network.start})"
        if info.network
        else f"the pretrained network {name}, frozen, with a head trained on its embeddings "
        f"({head.summary})"
    )
    yield (
        f"`{_code(file)}` says which of {len(info.classes)} classes a grayscale image belongs to. "
        f"It is {made}, put together by Frostline."
    )


def _classes(info: HeadInfo, predictions: Predictions) -> Iterator[str]:
    answers = predictions.probabilities.argmax(1)
    yield "| output | class | test images | of these right |"
    yield "|---|---|---|---|"
    for number, name in enumerate(info.classes):
        mine = predictions.labels == number
        right = int((answers[mine] == number).sum())
        yield f"| {number} | {escaped(name)} | {int(mine.sum())} | {right} |"


def _data(info: HeadInfo, row: Row) -> Iterator[str]:
    yield (
        f"- Trained on {escaped(info.dataset)}: {info.n_training:,} images to train, "
        f"{info.n_validation:,} to validate; fingerprint {info.dataset_fingerprint}."
    )
    if row["n_groups"] > 0:
        yield (
            f"- {row['n_groups']:,.0f} groups of near duplicates there: none lies on both sides of "
            "the split."
        )
    yield (
        f"- Tested on {escaped(row['test'])}: {row['n_test']:,} images; fingerprint "
        f"{row['test_fingerprint']}."
    )
    if row["n_leaked"] > 0:
        yield (
            f"- {row['n_leaked']:,.0f} more test images are copies or near duplicates of training "
            "images: they are in no score here."
        )
    if row["n_unreadable"] > 0:
        yield f"- {row['n_unreadable']:,.0f} test images could not be read."


def _choice(row: Row) -> Iterator[str]:
    yield (
        f"Kept as {row['selected_by']}. Right on {row['val_accuracy']:.1%} of the validation "
        "images"
        + (f"; on {row['cv_accuracy']:.1%} over folds" if _there(row["cv_accuracy"]) else "")
        + ". The test images took no part in the choice."
    )


def _scores(row: Row, predictions: Predictions) -> Iterator[str]:
    counted = images_in_words(row)
    images = len(predictions.labels)
    right = int((predictions.probabilities.argmax(1) == predictions.labels).sum())
    intervals: dict[str, Interval] = {
        "accuracy": interval_of(row),
        **score_intervals(predictions.labels, predictions.probabilities),
    }
    yield "| score | value | 95 % interval | is |"
    yield "|---|---|---|---|"
    for name, metric in METRICS.items():
        low, high = intervals[name]
        span = f"{low:.3f} to {high:.3f}" if _there(low) else "unknown"
        yield f"| {name} | {_number(row[name])} | {span} | {metric.summary} |"
    yield ""
    yield (
        f"From {images:,} images, of which {right:,} were classified rightly: one image is "
        f"{1 / images:.1%} of the accuracy."
        + (f" The accuracy's interval is of {counted}, each counted once." if counted else "")
    )


def _calibration(info: HeadInfo, row: Row) -> Iterator[str]:
    yield (
        f"`probabilities` are the softmax of `logits` / {info.temperature:.4g}, a temperature "
        f"(Guo et al. 2017) fitted to {_fitted_to(info)}. On the test images, the expected "
        f"calibration error is {_number(row['ece_calibrated'])}; without it, "
        f"{_number(row['ece'])}."
    )


def _fitted_to(info: HeadInfo) -> str:
    if not info.calibration_folds:
        return f"{info.n_validation:,} validation images"
    return (
        f"all {info.n_training + info.n_validation:,} training images, as heads like this one "
        f"answer those held out from them in {info.calibration_folds} folds"
    )


def _limits(info: HeadInfo, row: Row) -> Iterator[str]:
    if info.weights.startswith("random"):
        yield (
            "- **The backbone has random weights.** It stands for one with trained weights in "
            "timings only: don't use its answers."
        )
    yield (
        "- It always answers with one of its classes, also for an image that is of none of them. "
        "Its probabilities don't tell: they are of these classes against each other. Frostline's "
        "review flags are not in the file."
    )
    yield (
        f"- What is known of it are {row['n_test']:,} test images of one folder. Images from other "
        "instruments, protocols or software may be answered worse, and nothing here would show it: "
        "test it on some of yours."
    )
    augmented = info.network and info.network.augmentation != "none"
    if not (info.configuration.views or augmented):
        yield (
            "- It was trained on the images as they are: it has not seen them turned, cropped, "
            "mirrored, inverted or in other light."
        )
    yield (
        f"- It sees {info.identity.size} x {info.identity.size} gray pixels: colour, and detail "
        "finer than that, it can't know."
    )
    yield "- A wrong answer may come with a high probability: don't decide by it alone."


def _input(preparation: Mapping[str, object]) -> Iterator[str]:
    size = preparation["size"]
    yield (
        f"`images`: uint8 [N, 1, {size}, {size}], any N, gray, 0 black. The network's own "
        "normalisation is in the file. Reduced to this size outside: an antialiased reduction in "
        "the file would not be the one that it was trained with. Every image was prepared by these "
        "rules; extract/imaging/decode.py of Frostline applies them all:"
    )
    yield ""
    for name in ("gray", "bit_depth", "fit", "interpolation"):
        yield f"- {name.replace('_', ' ')}: {preparation[name]}"
    yield ""
    yield (
        "Output: `logits`, float32 [N, C], and `probabilities`, float32 [N, C], which sum to 1 for "
        "each image; C as in the table of classes."
    )


def _run(run: str, file: str, size: int) -> Iterator[str]:
    imports, _, calls = run.replace("FILE", repr(printable(file))).partition("\n")
    code = SNIPPET.format(imports=imports, size=size, run=calls)
    yield f"`pip install numpy pillow {imports.removeprefix('import ')}`, then, for an image of 8"
    yield "bits per channel, without transparency and not turned by a camera:"
    yield f"\n```python\n{code}\n```"


def _check(check: Check, file: str) -> Iterator[str]:
    yield (
        f"Before it got its name, `{_code(file)}` was run by itself on {check.images} test images: "
        f"the largest difference from the model it was made from is {check.difference:.1g} of the "
        "largest logit."
    )


def _origin(row: Row, facts: Mapping[str, str]) -> Iterator[str]:
    yield f"- head: `{_code(facts['head_id'])}`"
    yield f"- weights of the backbone: `{_code(facts['weights'])}`, SHA-256 of their tensors"
    yield f"  {facts['weights_sha256']}"
    versions = ", ".join(f"{name} {it}" for name, it in json.loads(facts["versions"]).items())
    yield f"- written with {versions}"
    yield (
        f"- measured {row['evaluated_at']} on {row['hardware_type']} by {row['engine']}: the scores"
        " above are of that run"
    )
    yield (
        "- the file says all this of itself, under the keys "
        + ", ".join(f"`{key}`" for key in facts)
    )


def _licence(info: HeadInfo) -> Iterator[str]:
    weights = {
        "imagenet": "The backbone's weights were trained by their publishers on ImageNet, and are "
        "under their publishers' terms; ImageNet's own are for non-commercial research and "
        "education.",
        "random": "The backbone's weights are random.",
        "trained": "The backbone's weights were trained together with the head, from "
        f"{info.network.start if info.network else ''} weights, and may be under their terms.",
    }
    kind = info.weights.partition(":")[0]
    yield "Frostline is under the MIT licence. " + weights.get(
        kind, "The backbone's weights came from a file, and are under its terms."
    )
    yield "The head was trained on the images named above, whose rights it may be bound by."


def _code(text: str) -> str:
    """Show a name in a code span, which knows no escapes."""
    return " ".join(printable(text).replace("`", "'").split())


def _there(value: float) -> bool:
    return value == value  # an empty cell of the table is NaN


def _number(value: float) -> str:
    return f"{value:.3f}" if _there(value) else "unknown"
