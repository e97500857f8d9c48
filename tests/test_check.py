"""No engine is believed before it agreed with torch on real images."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cache.errors import DeviceError
from extract.check import deviation_from_torch
from extract.engines import ENGINES, TOLERANCES
from extract.kept import Shelf
from extract.load import LoadedBackbone
from extract.target import Target

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 1, 224, 224), dtype=np.uint8)


def target(toy: LoadedBackbone, precision: str = "fp32") -> Target:
    return Target(toy, "cpu", ("openvino", "torch"), precision)


def off_by(toy: LoadedBackbone, share: float) -> "object":
    exact = ENGINES["torch"].build(toy, "cpu", "fp32", 6, None)

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return exact(images) * np.float32(1 + share)

    return forward


def test_torch_at_fp32_is_the_reference(toy: LoadedBackbone) -> None:
    assert deviation_from_torch(target(toy), "torch", None, PIXELS, None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", TOLERANCES)
def test_the_deviation_is_measured_and_limited(toy: LoadedBackbone, precision: str) -> None:
    limit, wanted = TOLERANCES[precision], target(toy, precision)
    found = deviation_from_torch(wanted, "openvino", off_by(toy, limit / 2), PIXELS, None)  # type: ignore[arg-type]
    assert found == pytest.approx(limit / 2, rel=0.05)
    with pytest.raises(
        DeviceError, match=f"toy: openvino on cpu at {precision} differs from torch"
    ):
        deviation_from_torch(wanted, "openvino", off_by(toy, limit * 2), PIXELS, None)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="by nan"):
        deviation_from_torch(wanted, "openvino", off_by(toy, float("nan")), PIXELS, None)  # type: ignore[arg-type]


def test_once_is_enough_on_one_machine(toy: LoadedBackbone, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first = deviation_from_torch(target(toy), "openvino", off_by(toy, 5e-5), PIXELS, shelf)  # type: ignore[arg-type]
    unused = None
    again = deviation_from_torch(target(toy), "openvino", unused, PIXELS, shelf)  # type: ignore[arg-type]
    assert again == first
    with pytest.raises(TypeError):  # another precision is another check
        deviation_from_torch(target(toy, "bf16"), "openvino", unused, PIXELS, shelf)  # type: ignore[arg-type]
