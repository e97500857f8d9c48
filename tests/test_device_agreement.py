"""Two devices held against each other, on the committed caches of one backbone."""

from pathlib import Path

import numpy as np
import pytest

from cache.errors import CacheError
from cache.segment import Rows, write_segment
from cache.store import Cache, open_cache, read, summarize
from evaluate.statistics import device_agreement as module
from evaluate.statistics.device_agreement import DeviceAgreement, in_words, parity


def test_the_compilers_of_two_devices_agree_to_rounding(caches: dict[str, Cache]) -> None:
    hashes = sorted(summarize(caches["cpu"]).stored)
    found = parity(caches["cpu"], caches["xla-cpu"], hashes)
    assert found.images == 114
    assert 0 < found.maximum < 1e-3
    assert 0 < found.relative < 1e-4
    assert 1 - 1e-8 < found.cosine <= 1 + 1e-12


def test_a_cache_agrees_with_itself(caches: dict[str, Cache]) -> None:
    hashes = sorted(summarize(caches["cpu"]).stored)
    found = parity(caches["cpu"], caches["cpu"], hashes)
    assert (found.maximum, found.relative) == (0, 0)
    assert found.cosine == pytest.approx(1)


@pytest.fixture
def moved(caches: dict[str, Cache], tmp_path: Path) -> Cache:
    """The CPU's cache with one embedding of another length and one pointing elsewhere."""
    hashes = sorted(summarize(caches["cpu"]).stored)
    rows = np.array(read(caches["cpu"], hashes))
    rows[0] *= 1.5
    rows[1] = -rows[1]
    keys = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)
    cache = open_cache(tmp_path, caches["cpu"].key)
    views = np.zeros(len(keys), np.uint16)
    write_segment(cache.folder, cache.key, Rows(keys, views, rows), [], {})
    return cache


def test_what_differs_is_found_wherever_it_lies(
    caches: dict[str, Cache], moved: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = sorted(summarize(moved).stored)
    rows = read(caches["cpu"], hashes).astype(np.float64)
    whole = parity(caches["cpu"], moved, hashes)
    assert whole.relative == pytest.approx(2)
    assert whole.cosine == pytest.approx(-1)
    assert whole.maximum == pytest.approx(max(abs(rows[0]).max() / 2, 2 * abs(rows[1]).max()))
    assert parity(caches["cpu"], moved, hashes[:1]).relative == pytest.approx(0.5)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 10)
    assert parity(caches["cpu"], moved, hashes) == whole


def test_an_image_that_one_lacks_is_an_error(caches: dict[str, Cache]) -> None:
    with pytest.raises(CacheError, match="lacks 1 of 1 images"):
        parity(caches["cpu"], caches["xla-cpu"], [b"x" * 32])


def test_it_is_said_in_one_line(caches: dict[str, Cache]) -> None:
    found = DeviceAgreement(maximum=1.23e-5, relative=4.5e-6, cosine=1 - 2e-12, images=1114)
    assert in_words(caches["cpu"], caches["xla-cpu"], found) == (
        "efficientnet_lite0, cpu and xla-cpu: embeddings of 1,114 images differ by at most "
        "1.2e-05 (4.5e-06 of an embedding's length), cosine at least 1 - 2e-12"
    )
