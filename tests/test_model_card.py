"""A card says what a model is and how far to trust it, and shows any name as it is."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.store import Cache
from evaluate.export.model_card import Check, ModelFile, escaped, model_card
from evaluate.metrics import METRICS
from extract.embedding_spec import load_backbone
from heads.store import Network
from tests.whole_models import Ready, heads_on

ODD = "<b>`a|b`*_[x](y)\n# c"  # a name that Markdown would take apart
FACTS = {
    "head_id": "some-head",
    "weights": "imagenet",
    "weights_sha256": "abc",
    "preparation": '{"gray": "G", "bit_depth": "B", "fit": "F", "interpolation": "I", "size": 224}',
    "versions": '{"torch": "2.9.1"}',
}
CHECK = Check(3e-6, 8)


@pytest.fixture(scope="module")
def lite(caches: dict[str, Cache], tmp_path_factory: pytest.TempPathFactory) -> Ready:
    backbone = load_backbone("efficientnet_lite0", "imagenet")
    return heads_on(caches["cpu"], backbone, tmp_path_factory.mktemp("lite"), ["single"], every=2)


def card(ready: Ready, file: str = "model.onnx", **changed: object) -> str:
    """Write the card of a model that differs in some columns of its row, or in its info."""
    info, row = ready.heads["single"].info, ready.row("single")
    fields = {key: value for key, value in changed.items() if key not in row}
    return model_card(
        dataclasses.replace(info, **fields),  # type: ignore[arg-type]
        row | {key: value for key, value in changed.items() if key in row},
        ready.predictions["single"].clean,
        ModelFile(file, FACTS, CHECK, "import onnxruntime\nclasses, probabilities = FILE, images"),
    )


@pytest.fixture(scope="module")
def text(lite: Ready) -> str:
    return card(lite, temperature=0.25)


def test_the_numbers_are_those_of_the_results(text: str, lite: Ready) -> None:
    row, clean = lite.row("single"), lite.predictions["single"].clean
    right = int((clean.probabilities.argmax(1) == clean.labels).sum())
    assert text.startswith("# Model 7: efficientnet_lite0, single head\n")
    assert f"From 10 images, of which {right} were classified rightly: one image is 10.0%" in text
    for name in METRICS:
        assert re.search(rf"\| {name} \| {row[name]:.3f} \| \d\.\d+ to \d\.\d+ \| ", text)
    assert "| 0 | gel | 5 | " in text  # one of 6 is leaked
    assert "/ 0.25, a temperature" in text
    assert "calibration error is 0.031; without it, 0.062" in text
    assert "3 groups of near duplicates" in text
    assert "1 more test images are copies" in text
    assert "on 8 test images: the largest difference" in text
    assert "is 3e-06 of the largest logit" in text


def test_what_there_is_none_of_is_not_claimed(lite: Ready) -> None:
    nan = float("nan")
    text = card(lite, n_groups=nan, n_leaked=0.0, ece=nan, ece_calibrated=nan)
    assert "calibration error is unknown" in text
    assert "near duplicates" not in text
    assert "nan" not in text.lower()


def test_the_folds_are_named_where_there_were_some(lite: Ready) -> None:
    assert "over folds" not in card(lite)
    assert "on 87.5% over folds" in card(lite, cv_accuracy=0.875)


def test_unreadable_images_are_named(lite: Ready) -> None:
    assert "2 test images could not be read" in card(lite, n_unreadable=2)


def test_random_weights_are_said_to_be_useless(lite: Ready) -> None:
    assert "**The backbone has random weights.**" in card(lite, weights="random:0")
    assert "random" not in card(lite)


def test_where_the_weights_rights_lie(lite: Ready) -> None:
    assert "ImageNet's own are for non-commercial research" in card(lite)
    assert "came from a file" in card(lite, weights="file:mine.pth")


def test_it_says_what_it_can_not(text: str) -> None:
    assert "also for an image that is of none of them" in text
    assert "has not seen them turned" in text


def test_it_lists_the_rules_of_preparation(text: str) -> None:
    for line in ("- gray: G", "- bit depth: B", "- fit: F", "- interpolation: I"):
        assert line in text


def test_names_are_shown_as_they_are(lite: Ready) -> None:
    text = card(lite, classes=("gel", ODD), dataset=ODD, test=ODD, file="my `odd` <model>.onnx")
    shown = r"\<b\>\`a\|b\`\*\_\[x\]\(y\)\\n# c"
    assert f"| 1 | {shown} | 5 | " in text
    assert f"- Trained on {shown}: " in text
    assert f"- Tested on {shown}: " in text
    assert "`my 'odd' <model>.onnx` says which" in text
    assert "classes, probabilities = 'my `odd` <model>.onnx', images" in text


@given(st.text())
def test_any_name_is_one_line_in_which_nothing_is_a_mark(name: str) -> None:
    shown = escaped(name)
    assert len(shown.splitlines()) <= 1
    assert not set(re.sub(r"\\.", "", shown)) & set("\\`*_[]()<>|&")


@given(st.text(st.characters(categories=("L", "N", "P", "S"))))
def test_no_sign_of_a_name_is_lost(name: str) -> None:
    assert re.sub(r"\\(.)", r"\1", escaped(name)) == name


def test_a_network_trained_as_a_whole_says_how(lite: Ready, text: str) -> None:
    """And of what it has seen, it denies nothing."""
    assert "frozen, with a head trained on its embeddings" in text
    assert "it has not seen them turned" in text
    whole = Network("lite-finetune-1", "finetune", "imagenet", "gentle", "fp32", "cpu")
    said = card(lite, network=whole, weights="trained:lite-finetune-1")
    assert "everything is trained, from pretrained weights (imagenet)" in said
    assert "trained together with the head, from imagenet weights" in said
    assert "it has not seen them turned" not in said
    assert "it has not seen them turned" in card(
        lite, network=dataclasses.replace(whole, augmentation="none")
    )
