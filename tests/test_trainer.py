"""Heads trained together are those trained alone, with `torch.optim`, on the same batches."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cache.errors import DeviceError
from cache.store import Cache, read
from extract.dataset import scan
from extract.devices import torch_device
from heads.architectures import HEADS
from heads.batched.fit import TrainingData, train
from heads.batched.layers import stack
from heads.batched.trainer import HeadGroup, TrainingResult, train_together
from heads.config import HeadConfig
from heads.embedding_dataset import EmbeddingDataset
from heads.modules import build_head, folded
from heads.optimizers import OPTIMIZERS
from heads.schedules import SCHEDULES, factor
from tests.conftest import ROOT, require_or_skip

pytestmark = pytest.mark.slow

TRAINED = [name for name, head in HEADS.items() if not head.fitted]
# An update knows nothing of layers: two heads with every optimizer, a slower one with one.
PAIRS = [(h, o) for h in TRAINED for o in OPTIMIZERS if h != "mlp-gelu" or o == "adam"]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "learning rates": [{"learning_rate": 1e-2}, {"learning_rate": 3e-4}],
    "weight decays": [{"weight_decay": 0.1}, {"weight_decay": 0.0}, {"weight_decay": 1e-3}],
    "momenta": [{"momentum": 0.5}, {"momentum": 0.0}, {"momentum": 0.99}],
    "nesterov": [{"nesterov": True}, {"nesterov": True, "momentum": 0.5}],
    "schedules": [
        {"schedule": "exponential", "gamma": 0.8},
        {"schedule": "step", "gamma": 0.1},
        {"schedule": "cosine"},
        {"schedule": "cosine", "warmup": 3},
    ],
    "epochs": [{"epochs": 2}, {"epochs": 8}, {"epochs": 4}],
    "balance": [{"balance": "weights"}, {"balance": "none"}],
    "sampling": [{"balance": "sampling"}, {"balance": "sampling", "learning_rate": 0.01}],
    "folds": [{"fold": "1/3"}, {"fold": "2/3"}, {"fold": "3/3"}],
    "patience": [{"patience": 2, "learning_rate": 0.1}, {"patience": 0}, {"patience": 1}],
    "views": [{"views": 2}, {"views": 2, "learning_rate": 0.01}],
    "augment": [{"balance": "augment", "views": v, "epochs": 4} for v in (1, 2)],
    "augmented folds": [
        {"balance": "augment", "views": 2, "epochs": 4, "fold": f"{n}/2"} for n in (1, 2)
    ],
}

# Everything once; again, what another optimizer, hidden layers or batch norm could get wrong.
SOME = ("learning rates", "balance", "folds", "patience", "augmented folds")
CASES = [
    *(("single", "sgd", option) for option in OPTIONS),
    *(("single", o, x) for o in ("adam", "adamw") for x in ("weight decays", "epochs")),
    *(("multi", o, "weight decays") for o in OPTIMIZERS),
    *((head, "adam", option) for head in ("multi", "mlp-gelu") for option in SOME),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small operations of two threads wait for one another, on a busy machine for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(caches: dict[str, Cache]) -> TrainingData:
    """Real embeddings in float64, three views of each image, classes of uneven size."""
    labels = scan(ROOT / "dataset").labels
    gel = [key for key, label in labels.items() if label == "gel"]
    labels = {key: label for key, label in labels.items() if key not in gel[20:]}
    clean = torch.tensor(read(caches["cpu"], tuple(labels))).double()[:, :96]
    noise = torch.randn(2, *clean.shape, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([label == "gel" for label in labels.values()]).long()
    return TrainingData(
        labels, EmbeddingDataset(torch.stack([clean, *(clean + noise / 9)]), classes, 2)
    )


def alone(
    configuration: HeadConfig, these: HeadGroup, number: int, rows: EmbeddingDataset
) -> TrainingResult:
    """Train one head as everybody does: a module, `torch.optim`, a loop over batches.

    Batches, views and dropout are drawn as the pass draws them; all else is torch's own.
    """
    c, fold = configuration, these.fold[number]
    mine, held_out = these.training[fold], these.validation[fold]
    images = torch.cat([torch.arange(len(rows.labels)), these.extra[:, 0]])
    extra = torch.cat([torch.zeros(len(rows.labels), dtype=torch.long), these.extra[:, 1]])
    labels = rows.labels[images]
    torch.manual_seed(c.seed)
    head = build_head(c.head, rows.embeddings.shape[2], rows.classes, training=True).double()
    makers: dict[str, Any] = {
        "sgd": lambda p: torch.optim.SGD(
            p, c.learning_rate, c.momentum, weight_decay=c.weight_decay, nesterov=c.nesterov
        ),
        "adam": lambda p: torch.optim.Adam(p, c.learning_rate, weight_decay=c.weight_decay),
        "adamw": lambda p: torch.optim.AdamW(p, c.learning_rate, weight_decay=c.weight_decay),
    }
    optimizer = makers[c.optimizer](head.parameters())
    generator = torch.Generator().manual_seed(c.seed)
    sizes = torch.bincount(labels[mine], minlength=rows.classes)
    of_class = len(labels[mine]) / (rows.classes * sizes) if c.balance == "weights" else None
    best, best_loss, best_epoch = dict[str, Tensor](), float("inf"), 0
    for epoch in range(c.epochs):
        for group in optimizer.param_groups:
            group["lr"] = c.learning_rate * factor(c.schedule, c.gamma, c.warmup, epoch, c.epochs)
        drawn = 0 if c.balance == "augment" else c.views
        views = extra + torch.randint(drawn + 1, (len(images),), generator=generator)
        for batch in _batches(these, labels, c, generator):
            masks = [
                torch.rand(len(batch), width, generator=generator) >= rate
                for width, rate in zip(HEADS[c.head].hidden, HEADS[c.head].dropout, strict=True)
            ]
            own = mine[batch]
            x = rows.embeddings[views[batch], images[batch]][own]
            for parameter in head.parameters():
                parameter.grad = torch.zeros_like(parameter)
            if own.any():
                logits = _answered(head, x, [mask[own] for mask in masks])
                weight = None if of_class is None else of_class.double()
                loss = cross_entropy(logits, labels[batch][own], weight=weight)
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        head.eval()
        with torch.no_grad():
            logits = head(rows.embeddings[0, held_out])
            validation = cross_entropy(logits, rows.labels[held_out]).item()
        head.train()
        if validation < best_loss:
            best = {name: tensor.clone() for name, tensor in head.state_dict().items()}
            best_loss, best_epoch = validation, epoch
        if c.patience and epoch - best_epoch >= c.patience:
            break
    state = folded(best if c.patience else head.state_dict())
    chosen = best_epoch if c.patience else epoch
    return TrainingResult(state, {"validation_loss": [validation]}, chosen, 0, False)


def all_of(
    configurations: Sequence[HeadConfig], data: TrainingData, device: str = "cpu"
) -> dict[HeadConfig, TrainingResult]:
    """Train them, and return each one's result in the order asked for."""
    found: dict[HeadConfig, TrainingResult] = {}
    for group, results in train(configurations, data, keep=True, device=device):
        found |= dict(zip(group, results, strict=True))
    return {configuration: found[configuration] for configuration in configurations}


def _answered(head: nn.Module, x: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Run a head in training, its dropout by these masks."""
    waiting = iter(masks)
    for layer in head if isinstance(head, nn.Sequential) else [head]:
        # Of one row there is no variance; torch refuses it.
        layer.train(len(x) > 1)
        x = x * next(waiting) / (1 - layer.p) if isinstance(layer, nn.Dropout) else layer(x)
    return x


def _batches(
    these: HeadGroup, labels: Tensor, c: HeadConfig, generator: torch.Generator
) -> Sequence[Tensor]:
    if c.balance == "sampling":
        odds = 1 / torch.bincount(labels[these.pool])[labels[these.pool]].double()
        order = odds.multinomial(len(these.pool), replacement=True, generator=generator)
    else:
        order = torch.randperm(len(these.pool), generator=generator)
    return torch.split(these.pool[order], these.batch_size)


@pytest.mark.parametrize(("head", "optimizer", "option"), CASES)
def test_trained_together_is_trained_alone(
    head: str, optimizer: str, option: str, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract: after all epochs, to 1e-5 of the largest weight."""
    passes: list[HeadGroup] = []

    def noted(these: HeadGroup, *rest: Any) -> list[TrainingResult]:
        passes.append(these)
        return train_together(these, *rest)

    monkeypatch.setattr("heads.batched.fit.train_together", noted)
    together = [HeadConfig(head, optimizer, **({"epochs": 8} | v)) for v in OPTIONS[option]]
    results = all_of(list(dict.fromkeys(together)), data)
    assert sum(len(these.configurations) for these in passes) == len(results)
    for these in passes:
        for number, configuration in enumerate(these.configurations):
            trained = results[configuration]
            expected = alone(configuration, these, number, data.rows)
            assert trained.epoch == expected.epoch
            assert trained.state
            assert expected.state
            for name, tensor in expected.state.items():
                far = (trained.state[name] - tensor).abs().max() / tensor.abs().max()
                assert far < 1e-5, (configuration, name)


def validation_losses(
    wanted: Sequence[HeadConfig], data: TrainingData, device: str
) -> list[list[float]]:
    """Return the curve of each head."""
    trained = all_of(wanted, data, torch_device(device)).values()
    return [result.curves["validation_loss"] for result in trained]


@pytest.mark.parametrize("device", ["cpu", "cuda", "tpu", "xla-cpu"])
def test_every_device_trains_alike(
    device: str, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, each in its own order of additions.

    In a process of its own: on XLA, gradients need torch_xla to be imported first.
    """
    require_or_skip(device)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiled in less time
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = dataclasses.replace(data.rows, embeddings=data.rows.embeddings.float())
    single = TrainingData(data.labels, rows)
    pairs = (("single", "sgd"), ("multi", "adamw"), ("mlp-gelu", "adam"))
    wanted = [HeadConfig(h, o, lr, epochs=2) for h, o in pairs for lr in (1e-2, 1e-3)]
    if device == "cpu":
        given = validation_losses(wanted, single, device)
    else:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            given = process.submit(validation_losses, wanted, single, device).result()
    for ours, theirs in zip(given, validation_losses(wanted, data, "cpu"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_gradients_on_xla_need_it_to_be_imported_first(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grad(*arguments: Any) -> None:
        raise RuntimeError("device.index() < device_ready_queues_.size() INTERNAL ASSERT FAILED")

    monkeypatch.setattr("torch.autograd.grad", grad)
    with pytest.raises(DeviceError, match="Import torch_xla first"):
        all_of([HeadConfig("single", "sgd")], data)


@pytest.mark.parametrize("head", TRAINED)
def test_company_changes_nothing(head: str, data: TrainingData) -> None:
    """However many are trained at once, on however many cores."""
    wanted = [HeadConfig(head, "adam", learning_rate=lr, epochs=4) for lr in (1e-2, 1e-3, 1)]
    torch.set_num_threads(2)
    whole = all_of(wanted, data)
    torch.set_num_threads(1)
    parts = {c: all_of([c], data)[c] for c in wanted}
    for one, other in zip(whole.values(), parts.values(), strict=True):
        assert one.state
        assert other.state
        for name, tensor in one.state.items():
            torch.testing.assert_close(tensor, other.state[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("head", "optimizer"), PAIRS)
def test_updating_head_by_head_changes_nothing(
    head: str, optimizer: str, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [
        HeadConfig(head, optimizer, learning_rate=lr, epochs=2, weight_decay=0.1)
        for lr in (1e-2, 1e-3)
    ]
    losses = []
    for large in (1 << 60, 1):
        monkeypatch.setattr("heads.batched.trainer.LARGE", large)
        losses.append(validation_losses(wanted, data, "cpu"))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)


@pytest.mark.parametrize(("head", "optimizer"), PAIRS)
def test_a_diverged_head_is_marked_and_the_others_go_on(
    head: str, optimizer: str, data: TrainingData
) -> None:
    rates = (1e-3, 1e30, 1e-2)
    wanted = [HeadConfig(head, optimizer, learning_rate=lr, epochs=3) for lr in rates]
    first, wild, last = all_of(wanted, data).values()
    assert not first.diverged
    assert not last.diverged
    assert wild.diverged
    (by_itself,) = all_of(wanted[:1], data).values()
    for name, values in by_itself.curves.items():
        assert first.curves[name] == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_torchs(name: str) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    makers: dict[str, Any] = {
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "exponential": lambda: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7),
        "step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 15], 0.7),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20),
    }
    schedule = makers[name]()
    for epoch in range(20):
        assert factor(name, 0.7, 0, epoch, 20) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_warm_up_rises_to_the_whole_rate() -> None:
    rates = [factor("cosine", 1.0, 4, epoch, 20) for epoch in range(6)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] < 1


def test_heads_that_are_built_meanwhile_disturb_no_first_weights() -> None:
    """A training thread draws after its seed, whatever other threads build."""
    like = torch.zeros(1)
    expected = stack("multi", 64, 3, 1, 5, like).tensors[0]
    with ThreadPoolExecutor(2) as pool:
        building = [pool.submit(build_head, "multi", 64, 3) for _ in range(100)]
        for _ in range(40):
            assert torch.equal(stack("multi", 64, 3, 1, 5, like).tensors[0], expected)
        for future in building:
            future.result()
