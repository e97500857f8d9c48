"""Many heads: all at once against a plain loop, and against what the machine can do."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from benchmarks.measuring import machine, medians, table  # noqa: E402
from benchmarks.pictures import cifar  # noqa: E402
from cache.store import Cache, read  # noqa: E402
from extract.artifact_store import ArtifactStore  # noqa: E402
from extract.backends.backend import usable_engines  # noqa: E402
from extract.dataset import ImageSet, scan  # noqa: E402
from extract.embedding_spec import EmbeddingSpec, load_backbone  # noqa: E402
from extract.pipeline import RunnerOptions, extract  # noqa: E402
from heads.batched.fit import TrainingData, train  # noqa: E402
from heads.config import HeadConfig  # noqa: E402
from heads.embedding_dataset import EmbeddingDataset  # noqa: E402
from heads.modules import build_head  # noqa: E402
from heads.search.space import SearchPlan, combinations  # noqa: E402
from heads.splits import split  # noqa: E402
from heads.training import train_heads  # noqa: E402

Row = tuple[str, ...]
REFERENCE = ("resnet18", "vgg16", "mobilenet_v3_large")


def made_up(count: int, dim: int, classes: int) -> TrainingData:
    """Return embeddings of no images: how long training takes does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(1, count, dim, generator=generator)
    labels = torch.arange(count) % classes
    names = {number.to_bytes(32, "big"): str(int(labels[number])) for number in range(count)}
    return TrainingData(names, EmbeddingDataset(embeddings, labels, classes))


def plain(configurations: list[HeadConfig], data: TrainingData) -> None:
    """Train one head after the other as everybody does."""
    parts = data.split(configurations[0])
    places = data.row_numbers(parts.training)
    x, y = data.rows.embeddings[0, places], data.rows.labels[places]
    new, truth = (
        t[data.row_numbers(parts.validation)] for t in (data.rows.embeddings[0], data.rows.labels)
    )
    for c in configurations:
        head = build_head(c.head, x.shape[1], data.rows.classes)
        if c.optimizer == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.Adam(head.parameters(), c.learning_rate)
        else:
            optimizer = torch.optim.SGD(head.parameters(), c.learning_rate, c.momentum)
        for _ in range(c.epochs):
            head.train()
            for rows in torch.split(torch.randperm(len(y)), c.batch_size):
                optimizer.zero_grad()
                cross_entropy(head(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            head.eval()
            with torch.no_grad():
                cross_entropy(head(new), truth)


def ours(configurations: list[HeadConfig], data: TrainingData) -> None:
    """Train them together."""
    for _ in train(configurations, data, keep=False):
        pass


def rates(count: int, head: str, optimizer: str, **settings: int) -> list[HeadConfig]:
    """Return configurations that differ in their learning rate."""
    return [
        HeadConfig(head, optimizer, 1e-3 * (1 + i / count), **settings)  # type: ignore[arg-type]
        for i in range(count)
    ]


def against_a_loop() -> list[Row]:
    """1,040 linear heads, and 64 of three layers, against a plain loop over some of them."""
    data, rows = made_up(92, 512, 2), list[Row]()
    singles, multis = rates(1040, "single", "sgd"), rates(64, "multi", "adam")
    some, few = 65, 8
    taken = medians(
        {
            "single": lambda: ours(singles, data),
            "plain single": lambda: plain(singles[:some], data),
            "multi": lambda: ours(multis, data),
            "plain multi": lambda: plain(multis[:few], data),
        }
    )
    loop = taken["plain single"] / some * len(singles)
    rows.append(
        ("1,040 `single`, 73 images × 512, 20 epochs", f"{taken['single']:.2f} s",
         f"plain loop {loop:.1f} s", f"{loop / taken['single']:.0f}×", "≥ 100×")
    )  # fmt: skip
    loop = taken["plain multi"] / few * len(multis)
    rows.append(
        ("64 `multi`, Adam, 73 images × 512, 20 epochs", f"{taken['multi']:.1f} s",
         f"plain loop {loop:.1f} s", f"{loop / taken['multi']:.1f}×", "≥ 2×")
    )  # fmt: skip
    numbers = sum(p.numel() for p in build_head("multi", 512, 2).parameters())
    # Read once by the forward pass; gradient written and read; weights and both moments of Adam
    # read and written.
    moved = numbers * 4 * (1 + 2 + 6) * len(multis) * 20 * 4
    speed, copy = moved / taken["multi"] / 1e9, copied()
    rows.append(
        ("… bytes that it must move", f"{speed:.1f} GB/s", f"copying {copy:.1f} GB/s",
         f"{speed / copy:.2f}×", "–")
    )  # fmt: skip
    return rows


def copied() -> float:
    """Return how many GB/s are read and written by copying 1 GiB."""
    source, target = torch.zeros(1 << 27), torch.zeros(1 << 27)
    taken = medians({"copy": lambda: target.copy_(source)})["copy"]
    return (source.nbytes + target.nbytes) / taken / 1e9


def share_of_peak() -> list[Row]:
    """An epoch of 1,040 linear heads of 10 classes on 10,000 rows, against a matrix product."""
    data = made_up(10_000, 1280, 10)
    configurations = rates(1040, "single", "sgd", epochs=1, batch_size=256)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    taken = medians({"ours": lambda: ours(configurations, data), "product": lambda: a @ b})
    numbers = 2 * 1280 * 10 * len(configurations)
    parts = data.split(configurations[0])
    work = numbers * (2 * len(parts.training) + len(parts.validation))
    speed, peak = work / taken["ours"] / 1e9, 2 * 2048**3 / taken["product"] / 1e9
    return [
        ("1,040 `single` of 10 classes, 10,000 × 1,280, an epoch", f"{speed:.0f} GFLOP/s",
         f"matrix product {peak:.0f} GFLOP/s", f"{speed / peak:.2f}×", "≥ 0.5×")
    ]  # fmt: skip


def reference_study(data: Path, folder: Path) -> list[Row]:
    """The reference study's heads on its own images: 24 models, and folds of 12."""
    images = scan(data / "gel" / "dataset")
    engines = usable_engines("cpu", None, "bf16")
    artifacts = ArtifactStore(folder / "engines")
    targets = [
        EmbeddingSpec(load_backbone(name, "random", 0, artifacts), "cpu", engines, "bf16")
        for name in REFERENCE
    ]
    caches = [
        done.cache
        for done in extract(
            targets, images.files, folder, options=RunnerOptions(artifacts=artifacts)
        )
    ]
    standard = SearchPlan(tuple(combinations({})))
    folds = SearchPlan(standard.candidates, cv=5, repeats=5)

    def all_on(sweep: SearchPlan, times: int) -> None:
        for _ in range(times):  # two devices have caches of the same size
            with tempfile.TemporaryDirectory() as heads:
                for cache in caches:
                    train_heads(cache, images.labels, "gel", sweep, Path(heads))

    all_on(standard, 1)
    both = medians({"24": lambda: all_on(standard, 2), "folds": lambda: all_on(folds, 1)})
    return [
        ("the 24 models' heads, gels", f"{both['24']:.1f} s", "–", "–", "< 3 s"),
        ("5 × 5 folds of 12 configurations, gels", f"{both['folds']:.1f} s", "–", "–", "< 30 s"),
    ]


def first_by_name(images: ImageSet, count: int) -> dict[bytes, str]:
    """Return the labels of the first so many images of each class."""
    found: dict[str, list[bytes]] = {}
    for file in sorted(images.unique, key=lambda file: file.path):
        found.setdefault(file.label, []).append(file.sha256)
    return {key: label for label, keys in found.items() for key in keys[:count]}


def real_work(data: Path, folder: Path) -> list[Row]:
    """CIFAR-10 in gray, 1,000 and 200 images per class: the best linear head, chosen on validation,
    against scikit-learn's logistic regression with its best C chosen the same way.
    """
    training = scan(cifar(data, folder / "cifar", "train"))
    testing = scan(cifar(data, folder / "cifar", "test"))
    train_labels, test_labels = first_by_name(training, 1000), first_by_name(testing, 200)
    wanted = [f for s in (training, testing) for f in s.files
              if f.sha256 in train_labels or f.sha256 in test_labels]  # fmt: skip
    target = EmbeddingSpec(
        load_backbone("efficientnet_lite0", "imagenet"), "cpu", ("openvino",), "fp32"
    )
    (done,) = extract(
        [target], wanted, folder, options=RunnerOptions(artifacts=ArtifactStore(folder / "engines"))
    )
    classes = sorted(set(train_labels.values()))
    truth = np.array([classes.index(label) for label in test_labels.values()])
    new = read(done.cache, tuple(test_labels))

    def ours(values: dict[str, list[object]]) -> tuple[float, float]:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as heads:
            sweep = SearchPlan(tuple(combinations(values)))
            (best,) = train_heads(done.cache, train_labels, "cifar", sweep, Path(heads)).heads
            right = best.module()(torch.tensor(new)).argmax(1).numpy() == truth
        return float(right.mean()), time.perf_counter() - started

    single = ours({
        "head": ["single"], "optimizer": ["adamw"], "learning_rate": [3e-4, 1e-3, 3e-3],
        "weight_decay": [0.01, 0.1, 0.3, 1.0], "schedule": ["cosine"], "epochs": [20, 40],
        "batch_size": [256],
    })  # fmt: skip
    logreg = ours({"head": ["logreg"]})
    peer = scikit_learn(done.cache, train_labels, new, truth)
    what = "CIFAR-10 gray, 10,000 + 2,000, efficientnet_lite0: "
    return [
        (what + "best of 24 `single`", f"{single[0]:.4f} in {single[1]:.0f} s",
         f"LogisticRegression {peer[0]:.4f} in {peer[1]:.0f} s",
         f"{100 * (single[0] - peer[0]):+.1f} points", "≥ -0.3 points"),
        (what + "`logreg`", f"{logreg[0]:.4f} in {logreg[1]:.0f} s", "the same",
         f"{100 * (logreg[0] - peer[0]):+.1f} points", "–"),
    ]  # fmt: skip


def scikit_learn(
    cache: Cache, labels: dict[bytes, str], new: np.ndarray, truth: np.ndarray
) -> tuple[float, float]:
    """Choose C on the same validation images; return test accuracy and seconds."""
    started = time.perf_counter()
    parts, classes = split(labels, 0.2, 0), sorted(set(labels.values()))
    x, y, v, w = (
        value
        for hashes in (parts.training, parts.validation)
        for value in (read(cache, hashes), np.array([classes.index(labels[k]) for k in hashes]))
    )
    models = [
        LogisticRegression(C=strength, max_iter=2000).fit(x, y)
        for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    ]
    best = max(models, key=lambda model: model.score(v, w))
    return float(best.score(new, truth)), time.perf_counter() - started


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--only", type=int, help="measure this part only, from 0")
    arguments = parser.parse_args()
    data = arguments.data
    rows: list[Row] = [("what", "ours", "against", "ratio", "asked")]
    with tempfile.TemporaryDirectory() as name:
        parts: list[Callable[[], list[Row]]] = [against_a_loop, share_of_peak]
        if (data / "gel").is_dir():
            parts.append(lambda: reference_study(data, Path(name)))
        if (data / "cifar10.zip").exists():
            parts.append(lambda: real_work(data, Path(name)))
        for number, part in enumerate(parts):
            if arguments.only in (None, number):
                rows += part()
                print(rows[-1], file=sys.stderr)
    print("## Heads\n")
    print(f"{machine('torch', 'scikit-learn')}. Medians of 5, in turns.\n")
    print(table(rows))


if __name__ == "__main__":
    main()
