"""A device or engine is there and right, or refused with the reason: never a silent CPU."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from cache.errors import DeviceError
from extract.backends.backend import ENGINES, usable_engines
from extract.backends.environment import examine
from extract.backends.openvino import import_openvino
from extract.devices import DEVICES, present_devices, require_device
from extract.embedding_spec import LoadedBackbone, load_backbone
from tests.conftest import ROOT, require_or_skip

PAIRS = [(device, engine) for device, entry in DEVICES.items() for engine in entry.engines]
# Relative to the largest number, against eager torch on the CPU at fp32.
TOLERANCE = {"fp32": 1e-5, "bf16": 0.15}


@pytest.fixture(scope="module")
def lite() -> LoadedBackbone:
    return load_backbone("efficientnet_lite0", "imagenet")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 224, 224), dtype=np.uint8)


@pytest.mark.parametrize("precision", TOLERANCE)  # int8 has a file of its own
@pytest.mark.parametrize(("device", "engine"), PAIRS)
def test_every_engine_agrees_with_eager_torch(
    device: str, engine: str, precision: str, lite: LoadedBackbone
) -> None:
    require_or_skip(device)
    reference = ENGINES["torch"].build(lite, "cpu", "fp32", 4, None)(images(3))
    output = ENGINES[engine].build(lite, device, precision, 4, None)(images(3))
    assert output.dtype == np.float32
    assert output.shape == (3, 1280)
    difference = np.abs(output - reference).max() / np.abs(reference).max()
    assert difference < TOLERANCE[precision]
    # 8 bits of mantissa can't agree to five digits: it was bf16 indeed.
    if precision == "bf16" and (engine != "openvino" or has_bf16()):
        assert difference > 1e-4


def has_bf16() -> bool:
    """Elsewhere OpenVINO computes bf16 as fp32."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


@pytest.mark.parametrize(("device", "engine"), PAIRS)
def test_a_row_depends_on_its_image_alone(device: str, engine: str, lite: LoadedBackbone) -> None:
    """Not on its neighbours, its place or their number."""
    require_or_skip(device)
    forward = ENGINES[engine].build(lite, device, "fp32", 6, None)
    full = forward(images(6))
    for count in (1, 5):
        assert np.array_equal(forward(images(6)[:count]), full[:count])
    turned = np.ascontiguousarray(images(6)[::-1])
    if engine == "xla":  # on some processors its last bits depend on the place in the batch
        assert np.allclose(forward(turned), full[::-1], rtol=0, atol=1e-5 * np.abs(full).max())
    else:
        assert np.array_equal(forward(turned), full[::-1])


@pytest.mark.parametrize(("device", "engine"), PAIRS)
def test_the_backbone_stays_as_it_was(device: str, engine: str, toy: LoadedBackbone) -> None:
    require_or_skip(device)
    ENGINES[engine].build(toy, device, "fp32", 2, None)(images(2))
    assert {p.device.type for p in toy.module.parameters()} == {"cpu"}


def test_openvino_tells_nobody() -> None:
    """Its telemetry would report every import and every conversion."""
    code = (
        "import sys, torch\n"
        "from extract.backends.openvino import convert\n"
        "convert(torch.nn.Flatten())\n"
        "loaded = [n for n, it in sys.modules.items() if 'openvino_telemetry' in n and it]\n"
        "print('TELLS', loaded)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "TELLS []" in done.stdout


def test_xla_compiles_once(toy: LoadedBackbone) -> None:
    require_or_skip("xla-cpu")
    from torch_xla.debug import metrics

    def compilations() -> int:
        return metrics.counter_value("UncachedCompile") or 0  # type: ignore[no-untyped-call]

    forward = ENGINES["xla"].build(toy, "xla-cpu", "fp32", 5, None)
    forward(images(5))
    once = compilations()
    for count in (5, 2, 1):
        forward(images(count))
    assert compilations() == once


def test_the_cpu_is_always_there() -> None:
    require_device("cpu")
    assert present_devices()[0] == "cpu"


def test_xla_cpu_is_never_chosen_unasked() -> None:
    assert "xla-cpu" not in present_devices()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("extract.devices.find_spec", lambda name: None)
    yield monkeypatch


@pytest.mark.parametrize(
    ("device", "remedy"),
    [("cuda", "nvidia-smi"), ("tpu", "--device xla-cpu"), ("xla-cpu", "Linux")],
)
def test_a_missing_device_says_why_and_what_to_do(
    device: str, remedy: str, without: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceError, match=f"--device {device}: .*{remedy}"):
        require_device(device)


def test_two_xla_devices_need_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    monkeypatch.setitem(sys.modules, "torch_xla.runtime", sys)
    monkeypatch.setattr("extract.devices.find_spec", lambda name: object())
    with pytest.raises(DeviceError, match="a command each"):
        require_device("xla-cpu")


def test_an_engine_of_another_device_is_refused() -> None:
    with pytest.raises(DeviceError, match="--engine xla does not run on cpu: choose openvino or"):
        usable_engines("cpu", "xla", "fp32")


def test_an_engine_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.backends.backend.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="openvino is not installed"):
        usable_engines("cpu", "openvino", "fp32")


def test_the_doctor_looks_at_every_entry() -> None:
    from extract.backbones import BACKBONES

    findings = list(examine())
    families = {"tv:NAME", "timm:NAME"}
    assert {f.name for f in findings} == {*DEVICES, *ENGINES, *BACKBONES, *families}
    assert all(f.present for f in findings if f.name in families)
    assert all(finding.note for finding in findings)
