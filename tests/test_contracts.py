"""What workspaces on disk depend on: a change here makes existing ones unreadable, or stale."""

import hashlib

import pytest

from cache import segment
from cache.store import Cache
from evaluate import backbone_loader
from evaluate.audit import findings
from evaluate.baseline import checkpoint
from evaluate.explanation import gradcam
from evaluate.results import COLUMNS
from evaluate.uncertainty import scores
from evaluate.workspace import current_study
from extract.embedding_spec import current_key
from heads import store
from heads.config import HeadConfig, fingerprint, head_id
from heads.search import trials


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def test_embedding_keys_and_their_text(caches: dict[str, Cache]) -> None:
    """The code of now would fill the committed caches, made long ago, under the same names."""
    found = {device: digest(cache.key.to_json()) for device, cache in caches.items()}
    assert found == {"cpu": "c3fe99734b07", "xla-cpu": "2715a8e25648"}
    for device, cache in caches.items():
        assert cache.folder.name == f"efficientnet_lite0-{device}-fp32-{found[device]}"
        assert current_key(cache.key) == cache.key


@pytest.mark.parametrize(
    ("configuration", "name"),
    [
        (HeadConfig("single", "adam"), "single-adam-de57af6bd0aa"),
        (HeadConfig("logreg", "none", weight_decay=0.1), "logreg-none-d0d4b0d2d14e"),
        (
            HeadConfig("multi", "sgd", learning_rate=0.1, views=2, schedule="cosine"),
            "multi-sgd-ef9ec4c92df3",
        ),
    ],
)
def test_ids_of_heads(configuration: HeadConfig, name: str, caches: dict[str, Cache]) -> None:
    assert head_id(configuration, caches["cpu"].key, "0" * 16) == f"efficientnet_lite0-cpu-{name}"


def test_fingerprints_of_data_sets() -> None:
    assert fingerprint({b"a" * 32: "x", b"b" * 32: "y"}) == "6cd8a940947747d4"


def test_columns_and_formats() -> None:
    assert digest("\n".join(COLUMNS)) == "2a9bebd05f15"
    assert digest("\n".join(trials.COLUMNS)) == "ac526d9fc665"
    assert segment.FORMAT == "frostline-segment"
    assert store.FORMAT == "frostline-head-2"
    assert backbone_loader.NETWORK_FORMAT == "frostline-network-1"
    assert checkpoint.FORMAT == "frostline-checkpoint-2"
    assert findings.FORMAT == "frostline-audit-2"
    assert scores.FORMAT == "frostline-doubt-2"
    assert gradcam.FORMAT == "frostline-maps-2"
    assert current_study.FORMAT == "frostline-study-1"
