"""A model file answers as the model does here, in its own runtime, or it is not there."""

import dataclasses
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.errors import DatasetError, DeviceError, HeadError, ResultsError
from cache.store import Cache
from evaluate.export import model_file
from evaluate.export.formats import FORMATS, Facts, Format
from evaluate.export.model_file import Written
from evaluate.export.whole_model import WholeModel
from evaluate.statistics.calibration import calibrated
from extract.backbones import BACKBONES
from extract.backends.openvino import import_openvino
from extract.dataset import scan
from extract.embedding_spec import load_backbone
from extract.model_zoo.backbone import Backbone
from heads.architectures import HEADS
from heads.store import TrainedHead, save_head
from tests.conftest import ROOT
from tests.toy import Toy, extract_one, no_file
from tests.whole_models import Ready, heads_on

pytestmark = pytest.mark.slow

ODD = "<b>`a|b`*_[x](y)\n# c]]>&'\""  # a class's name that a format might take apart


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    """A backbone of 8 numbers, whose heads are quick to export."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "toy", Backbone(8, "fc", lambda name: Toy(), no_file))
        backbone, root = load_backbone("toy", "random"), tmp_path_factory.mktemp("small")
        cache = extract_one(backbone, scan(ROOT / "dataset").files, root / "cache").cache
        yield heads_on(cache, backbone, root / "heads", list(HEADS), every=1)


@pytest.fixture(scope="module")
def lite(caches: dict[str, Cache], tmp_path_factory: pytest.TempPathFactory) -> Ready:
    backbone = load_backbone("efficientnet_lite0", "imagenet")
    return heads_on(caches["cpu"], backbone, tmp_path_factory.mktemp("lite"), ["multi"], every=3)


def answers(
    form: str, path: Path, *batches: NDArray[np.uint8]
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    with warnings.catch_warnings():  # torch warns of the buffers that it loads, once per process
        warnings.simplefilter("ignore")
        return FORMATS[form].run(path, batches)


def out_of(form: str, folder: Path) -> Path:
    return folder / f"model{FORMATS[form].suffix}"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_in_every_format_answers_as_the_model_does_here(
    head: str, form: str, small: Ready, tmp_path: Path
) -> None:
    written = small.export(head, form, out_of(form, tmp_path))
    assert written.check.images == model_file.CHECKED
    assert written.check.difference <= 1e-4
    info = small.heads[head].info
    with torch.inference_mode():
        expected, _ = small.whole(head)(torch.from_numpy(small.pixels))
    largest = expected.abs().max().item()
    sizes = (1, 5, len(small.pixels))
    given = answers(form, written.files[0], *(small.pixels[:n] for n in sizes))
    for (logits, probabilities), size in zip(given, sizes, strict=True):
        assert logits.dtype == probabilities.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:size], rtol=0, atol=1e-4 * largest)
        as_measured = calibrated(expected[:size].double().softmax(1).numpy(), info.temperature)
        np.testing.assert_allclose(probabilities, as_measured, atol=1e-4)


@pytest.mark.parametrize("form", FORMATS)
def test_a_real_network_answers_as_here_and_so_does_the_cards_python(
    form: str, lite: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = lite.export("multi", form, tmp_path / f"it's my model{FORMATS[form].suffix}")
    predictions = lite.predictions["multi"]
    temperature = lite.heads["multi"].info.temperature
    expected = calibrated(predictions.probabilities, temperature)
    ((_, probabilities),) = answers(form, written.files[0], lite.pixels)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert (probabilities.argmax(1) == predictions.labels).all()
    (code,) = re.findall(r"```python\n(.*?)```", card(written), re.DOTALL)
    (tmp_path / "image.png").write_bytes(predictions.paths[-1].read_bytes())
    said = printed(code, tmp_path, monkeypatch)
    assert list(said) == ["gel", "not_gel"]
    assert list(said.values()) == pytest.approx(expected[-1].tolist(), abs=1e-4)
    assert len(code.splitlines()) <= 14


def printed(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Run Python as a user would, in a folder, and read the dict that it prints."""
    monkeypatch.chdir(folder)
    output = StringIO()
    with redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # see `answers`
        exec(code, {})  # noqa: S102
    said: dict[str, float] = json.loads(output.getvalue().replace("'", '"'))
    return said


def card(written: Written) -> str:
    (path,) = (path for path in written.files if path.suffix == ".md")
    return path.read_text("utf-8")


def facts_in(form: str, path: Path) -> dict[str, str]:
    """Read what a file says of itself, by its format's own means."""
    if form == "onnx":
        import onnx

        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    if form == "openvino":
        graph = import_openvino().Core().read_model(path)
        known = graph.get_rt_info(["frostline"]).value
        return {key: graph.get_rt_info(["frostline", key]).value for key in known}
    with ZipFile(path) as file:
        (name,) = (name for name in file.namelist() if name.endswith("frostline.json"))
        facts: dict[str, str] = json.loads(file.read(name))
        return facts


def renamed(ready: Ready, head: str, folder: Path) -> TrainedHead:
    saved = ready.heads[head]
    info = dataclasses.replace(saved.info, classes=("gel", ODD), dataset=ODD)
    return save_head(folder, info, saved.module().state_dict())


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_says_what_it_is(form: str, small: Ready, tmp_path: Path) -> None:
    saved = renamed(small, "single", tmp_path / "heads")
    written = small.export("single", form, out_of(form, tmp_path), saved=saved)
    facts = facts_in(form, written.files[0])
    assert json.loads(facts["classes"]) == ["gel", ODD]
    assert json.loads(facts["preparation"])["interpolation"] == "Pillow bilinear, antialiased"
    assert json.loads(facts["temperature"]) == saved.info.temperature != 1
    assert json.loads(facts["versions"])["torch"] == torch.__version__.partition("+")[0]
    assert facts["head_id"] == saved.info.id
    assert (facts["backbone"], facts["weights"]) == ("toy", "random:0")
    assert facts["weights_sha256"] == small.backbone.weights_sha256
    assert facts["dataset_fingerprint"] == saved.info.dataset_fingerprint
    assert facts["test_fingerprint"] == "0123456789abcdef"


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_names_no_folder_of_this_machine(form: str, small: Ready, tmp_path: Path) -> None:
    for path in small.export("multi", form, out_of(form, tmp_path)).files:
        content = path.read_bytes()
        for folder in (ROOT, tmp_path, Path(torch.__file__).parent):
            assert bytes(folder) not in content


def test_a_torch_file_holds_no_pickle(small: Ready, tmp_path: Path) -> None:
    path = small.export("multi", "torch", tmp_path / "model.pt2").files[0]
    with ZipFile(path) as file:
        contents = [file.read(name) for name in file.namelist()]
    for content in contents:
        assert not content.startswith((b"PK", b"\x80"))  # torch.save's, and pickle's own


class TestFiles:
    def test_the_model_comes_first_and_its_card_beside_it(
        self, small: Ready, tmp_path: Path
    ) -> None:
        onnx = small.export("single", "onnx", tmp_path / "new" / "model.onnx").files
        assert [path.name for path in onnx] == ["model.onnx", "model.onnx.md"]
        openvino = small.export("single", "openvino", tmp_path / "new" / "model.xml").files
        assert [path.name for path in openvino] == ["model.xml", "model.bin", "model.xml.md"]
        assert {*onnx, *openvino} == set((tmp_path / "new").iterdir())

    def test_a_file_of_before_is_replaced(self, small: Ready, tmp_path: Path) -> None:
        small.export("multi", "onnx", tmp_path / "model.onnx")
        before = (tmp_path / "model.onnx").read_bytes()
        small.export("single", "onnx", tmp_path / "model.onnx")
        assert (tmp_path / "model.onnx").read_bytes() != before
        assert answers("onnx", tmp_path / "model.onnx", small.pixels)

    @pytest.mark.parametrize("form", FORMATS)
    def test_a_file_that_answers_otherwise_is_removed(
        self, form: str, small: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def write(model: WholeModel, path: Path, facts: Facts) -> None:
            wrong = nn.Sequential(model.head, Shifted())
            other = WholeModel(model.backbone, wrong, model.temperature)
            FORMATS_BEFORE[form].write(other, path, facts)

        FORMATS_BEFORE = dict(FORMATS)  # noqa: N806
        out = out_of(form, tmp_path)
        small.export("single", form, out)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        monkeypatch.setitem(FORMATS, form, dataclasses.replace(FORMATS[form], write=write))
        with pytest.raises(ResultsError, match=r"8 test images otherwise .* removed; choose"):
            small.export("single", form, out)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    @pytest.mark.parametrize(
        ("raised", "expected", "message"),
        [
            (RuntimeError("no such operator\nand more"), HeadError, "as onnx: no such operator; "),
            (OSError(28, "No space left on device"), OSError, "No space left"),
        ],
    )
    def test_a_failing_exporter_leaves_nothing(
        self, raised: Exception, expected: type[Exception], message: str, small: Ready,
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        def write(model: WholeModel, path: Path, facts: Facts) -> None:
            path.write_bytes(b"half of it")
            raise raised

        form = FORMATS["onnx"]
        broken = Format(form.suffix, form.packages, write, form.run, form.snippet)
        monkeypatch.setitem(FORMATS, "onnx", broken)
        with pytest.raises(expected, match=message):
            small.export("single", "onnx", tmp_path / "model.onnx")
        assert not list(tmp_path.iterdir())


class Shifted(nn.Module):
    """Changes the first logit by a little more than is allowed."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits + torch.tensor([2e-4, 0.0]) * 10


class TestRefusals:
    def test_another_suffix(self, small: Ready, tmp_path: Path) -> None:
        with pytest.raises(ResultsError, match=r"model\.pb: a file for onnx ends in \.onnx"):
            small.export("single", "onnx", tmp_path / "model.pb")

    def test_a_missing_package(
        self, small: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model_file, "find_spec", lambda name: None)
        with pytest.raises(DeviceError, match="needs more: pip install onnx onnxruntime"):
            small.export("single", "onnx", tmp_path / "model.onnx")

    @pytest.mark.parametrize("precision", ["bf16", "int8"])
    def test_a_head_of_another_precision(
        self, precision: str, small: Ready, tmp_path: Path
    ) -> None:
        saved = small.heads["single"]
        key = dataclasses.replace(saved.info.identity, precision=precision)
        other = TrainedHead(saved.path, dataclasses.replace(saved.info, identity=key))
        with pytest.raises(HeadError, match=f"trained on {precision} embeddings.*choose a model"):
            small.export("single", "onnx", tmp_path / "model.onnx", saved=other)

    def test_images_that_are_gone(self, small: Ready, tmp_path: Path) -> None:
        gone = tuple(tmp_path / path.name for path in small.predictions["single"].paths)
        with pytest.raises(DatasetError, match="None of the test images was found unchanged"):
            small.export("single", "onnx", tmp_path / "model.onnx", paths=gone)

    def test_one_image_is_enough_to_try_it(self, small: Ready, tmp_path: Path) -> None:
        there = small.predictions["single"].paths
        gone = tuple(tmp_path / path.name for path in there[1:])
        (gone[-1]).write_bytes(b"no image any more")
        paths = (*gone[:-1], there[0], gone[-1])
        written = small.export("single", "onnx", tmp_path / "model.onnx", paths=paths)
        assert written.check.images == 1
