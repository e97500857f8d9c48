"""Frozen against the conventional way: the same heads, on the cache or behind the backbone."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.measuring import machine, table  # noqa: E402
from cache.store import read  # noqa: E402
from evaluate.baseline.run import train_network  # noqa: E402
from evaluate.workspace.layout import Workspace  # noqa: E402
from extract.artifact_store import ArtifactStore  # noqa: E402
from extract.dataset import scan  # noqa: E402
from extract.embedding_spec import EmbeddingSpec, load_backbone  # noqa: E402
from extract.pipeline import RunnerOptions, extract  # noqa: E402
from heads.config import HeadConfig  # noqa: E402
from heads.search.space import SearchPlan  # noqa: E402
from heads.training import train_heads  # noqa: E402

Row = tuple[str, ...]
KINDS = (("single", "adam"), ("single", "sgd"), ("multi", "adam"), ("multi", "sgd"))


def against_transfer(data: Path, name: str) -> list[Row]:
    """Train the reference study's four heads on its images in both ways, without augmentation."""
    training, testing = scan(data / "gel" / "dataset"), scan(data / "gel" / "test_images")
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace(Path(folder))
        place.prepare()
        backbone = load_backbone(name, "auto")
        spec = EmbeddingSpec(backbone, "cpu", ("openvino",), "fp32")
        files = (*training.files, *testing.files)
        started = time.perf_counter()
        (done,) = extract(
            [spec],
            files,
            place.cache,
            options=RunnerOptions(artifacts=ArtifactStore(place.cache / "engines")),
        )
        embedding = (time.perf_counter() - started) * len(training.unique) / len(files)
        rows, found = read(done.cache, tuple(testing.labels)), list[Row]()
        for head, optimizer in KINDS:
            wanted = HeadConfig(head, optimizer)
            sweep = SearchPlan((wanted,))
            heads = train_heads(done.cache, training.labels, training.name, sweep, place.heads)
            frozen = heads.heads[0]
            whole = train_network(spec, wanted, "transfer", training, place).head
            ours, theirs = frozen.info.training_seconds, whole.info.training_seconds
            logits = frozen.logits(rows)
            difference = np.abs(logits - whole.logits(rows)).max() / np.abs(logits).max()
            found.append(
                (f"{name} ({backbone.weights}), `{head}`, {optimizer}", f"{ours:.2f} s",
                 f"{theirs:.1f} s", f"{theirs / ours:.0f}",
                 f"{theirs / (ours + embedding):.0f}", f"{difference:.0e}")
            )  # fmt: skip
            print(found[-1], file=sys.stderr)
    return found


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    data = parser.parse_args().data
    print("## Frozen against the conventional way\n")
    if not (data / "gel").is_dir():
        print("The reference study's images are not here.")
        return
    rows = [
        row for name in ("efficientnet_lite0", "resnet18") for row in against_transfer(data, name)
    ]
    head = ("gels, 73 + 19 images, 20 epochs", "head on the cache", "`baseline --mode transfer`",
            "ratio per model (asked: ≥ 100)", "with the embeddings", "largest difference of logits "
            "(asked: ≤ 1e-4)")  # fmt: skip
    print(f"{machine('torch', 'openvino')}. One run each; no augmentation, the same batches.\n")
    print(table([head, *rows]))


if __name__ == "__main__":
    main()
