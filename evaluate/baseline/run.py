"""A backbone, a head's configuration and labelled images → a model that was trained as a whole."""

from __future__ import annotations

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import torch
from filelock import FileLock, Timeout

from cache.arrays import write_arrays
from cache.embedding_key import file_name
from cache.errors import Failure, GridError, HeadError, WeightsError
from cache.locks import sharing
from cache.progress import Progress, silent
from evaluate.backbone_loader import NETWORK_FORMAT, check_network, network_path
from evaluate.baseline.images import Readable, readable
from evaluate.baseline.modes import MODES, check_start
from evaluate.baseline.network import build_network, placed
from evaluate.baseline.training import NO_AUGMENTATION, Training, TrainingPlan
from evaluate.text import TRAINED
from evaluate.workspace.layout import Workspace
from extract.dataset import ImageSet
from extract.devices import torch_device
from extract.embedding_spec import EmbeddingSpec
from extract.imaging.augmentation import POLICIES
from extract.signals import stoppable
from extract.sources.image_file import ImageFile
from heads.architectures import HEADS
from heads.batched.fit import TrainingData, head_group
from heads.config import HeadConfig, fingerprint
from heads.embedding_dataset import EmbeddingDataset
from heads.modules import folded
from heads.splits import Groups
from heads.store import HeadInfo, Network, Selection, TrainedHead, read_head, save_head, unreadable
from heads.temperature_scaling import cross_entropies, fit_temperatures


@dataclass(frozen=True)
class TrainedNetwork:
    """A model that was trained as a whole: its head, which says where its backbone lies.

    Attributes:
        already: It was there, and nothing was trained.
        failures: Images that could not be decoded.
    """

    head: TrainedHead
    already: bool
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class NetworkOptions:
    """How a network is trained as a whole, beside its configuration.

    Attributes:
        groups: Near duplicates, which the split into training and validation keeps together.
        augmentation: Policy by which each image is changed in every epoch, or `none`.
        found: Which of the images can be decoded; None: all are decoded once at first.
        progress: Counts images, to train and to validate.
        remark: Receives a line if another process trains the same network, and is waited for.
    """

    groups: Groups = field(default_factory=dict)
    augmentation: str = NO_AUGMENTATION
    found: Readable | None = None
    progress: Progress = silent
    remark: Callable[[str], None] = lambda text: None


USUAL = NetworkOptions()


def train_network(
    spec: EmbeddingSpec,
    configuration: HeadConfig,
    mode: str,
    training: ImageSet,
    workspace: Workspace,
    options: NetworkOptions = USUAL,
) -> TrainedNetwork:
    """Train a backbone and a head as one network, unless it was done before.

    Killed or stopped, the same call resumes from a checkpoint; on the CPU, with as many threads,
    it ends with the same weights to the last bit.

    Args:
        spec: The backbone, where it is trained, and how precisely: `fp32`, or `bf16` by autocast;
            its engines are for later.
        mode: Of MODES.

    Raises:
        GridError, HeadError: this can't be trained in this way, on these images; or it diverged.
        WeightsError: the mode can't start from the backbone's weights.
        DeviceError: the device can't be used here.
        DatasetError: an image has changed while it was trained on.
        OSError: the disk is full.
        KeyboardInterrupt: the user asked to stop; a checkpoint is there.
    """
    groups, augmentation, remark = options.groups, options.augmentation, options.remark
    check(configuration, mode, augmentation)
    check_start(mode, spec.backbone)
    where = torch_device(spec.device)
    told = _Told(options.progress, len(training.unique) * (1 + configuration.epochs))
    found = options.found or readable(training, spec.preprocessing, told.advance)
    network = Network("", mode, spec.backbone.weights, augmentation, spec.precision, spec.device)
    begun = _begun(spec, configuration, training, found.files, groups, network)
    with sharing(workspace.networks), _alone(workspace, _network_of(begun).name, remark):
        if saved := _kept(workspace, begun, remark):
            return TrainedNetwork(saved, True, found.failures)
        run = _prepared(begun, spec, found.files, groups, where, workspace)
        run.resume()
        told.expect(run.remaining)
        saved = _save(workspace, _finished(begun, run, told), run)
        run.checkpoint.unlink(missing_ok=True)
    return TrainedNetwork(saved, False, found.failures)


@contextmanager
def _alone(workspace: Workspace, name: str, remark: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process is at the training of this name, and keep it from beginning."""
    lock = FileLock(workspace.networks / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        remark(f"{name} is being trained by another process: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Told:
    """Tells progress of images, of which there may turn out to be others than was thought."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.done, self.total = progress, 0, total

    def advance(self, images: int) -> None:
        self.done += images
        self.progress(self.done, self.total)

    def expect(self, images: int) -> None:
        self.total = self.done + images


def check(configuration: HeadConfig, mode: str, augmentation: str) -> None:
    """Make sure that a configuration can be trained in the ordinary way.

    Raises:
        GridError, HeadError: it can't.
    """
    if HEADS[configuration.head].fitted:
        raise HeadError(
            f"--head {configuration.head} is fitted at once, to embeddings that do not change; "
            "choose one that is trained by an optimizer"
        )
    if configuration.views and configuration.balance != "augment":
        raise GridError(
            "--views: a whole network sees another view of each image in every epoch: choose them "
            "by --augment, and leave --views out"
        )
    if configuration.balance == "augment" and augmentation == NO_AUGMENTATION:
        raise GridError(
            f"--balance augment fills small classes up with augmented views, and --augment "
            f"{augmentation} forbids them: give --augment {' or '.join(POLICIES)}"
        )
    if configuration.batch_size == 1 and MODES[mode].trains_backbone:
        raise GridError("--batch-size 1: batch norm needs two images or more")


def _begun(
    spec: EmbeddingSpec,
    configuration: HeadConfig,
    training: ImageSet,
    files: Sequence[ImageFile],
    groups: Groups,
    network: Network,
) -> HeadInfo:
    """Return what is known of a head before it is trained; its training gets its name."""
    cache_key, labels = spec.key, {file.sha256: file.label for file in files}
    images = fingerprint(labels, groups)
    key = json.dumps([asdict(configuration), cache_key.digest, images, asdict(network)])
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    sizes = Counter(groups[key] for key in labels.keys() & groups.keys())
    return HeadInfo(
        configuration=configuration,
        identity=cache_key,
        classes=tuple(sorted(set(labels.values()))),
        dataset=training.name,
        dataset_fingerprint=fingerprint(training.labels),
        images_fingerprint=images,
        n_groups=sum(size > 1 for size in sizes.values()),
        weights=network.start,
        n_training=0,
        n_validation=0,
        training_seconds=0.0,
        embedding_seconds=0.0,
        curves={},
        epoch=0,
        temperature=1.0,
        selection=Selection(),
        network=replace(network, name=f"{file_name(cache_key.backbone)}-{network.mode}-{digest}"),
    )


def _prepared(
    begun: HeadInfo,
    spec: EmbeddingSpec,
    files: tuple[ImageFile, ...],
    groups: Groups,
    where: str,
    workspace: Workspace,
) -> Training:
    """Return the training of a head and its backbone, before its first epoch."""
    network, configuration, preprocessing = (
        _network_of(begun),
        begun.configuration,
        spec.preprocessing,
    )
    labels = torch.tensor([begun.classes.index(file.label) for file in files])
    rows = EmbeddingDataset(torch.empty(1, len(files), 0), labels, len(begun.classes))
    mine = {file.sha256: groups[file.sha256] for file in files if file.sha256 in groups}
    data = TrainingData({file.sha256: file.label for file in files}, rows, mine)
    if network.augmentation != NO_AUGMENTATION:
        preprocessing = replace(preprocessing, augmentation=network.augmentation)
    course = TrainingPlan(
        configuration, files, labels, len(begun.classes), head_group([configuration], data),
        preprocessing, network.augmentation, spec.precision, where,
    )  # fmt: skip
    whole = build_network(
        spec.backbone.module, configuration, begun.identity.embedding_dim, course.classes,
        MODES[network.mode].trains_backbone,
    )  # fmt: skip
    checkpoint = workspace.networks / f"{network.name}.checkpoint.safetensors"
    return Training(course, placed(whole, where, spec.precision), checkpoint)


def _finished(begun: HeadInfo, run: Training, told: _Told) -> HeadInfo:
    """Train to the end, and return what is known of the head then; its backbone's file aside."""
    with stoppable() as stopped:
        epoch = run.run(stopped, told.advance)
        told.expect(len(run.held_out))  # patience may have spared epochs
        logits = run.answers(stopped, told.advance).double().numpy()[None]
    labels = run.labels[run.held_out].numpy()
    temperatures = fit_temperatures(logits, labels)
    return replace(
        begun,
        n_training=len(run.course.files) - len(labels),
        n_validation=len(labels),
        training_seconds=run.seconds,
        curves=run.curves,
        epoch=epoch,
        temperature=float(temperatures[0]),
        calibrated_loss=float(cross_entropies(logits, labels, temperatures)[0]),
    )


def _save(workspace: Workspace, info: HeadInfo, run: Training) -> TrainedHead:
    """Write the backbone, if it was trained, and then the head: where it is, both are."""
    from extract.state_dict import tensors_sha256

    network, whole = _network_of(info), run.network.cpu()
    if MODES[network.mode].trains_backbone:
        backbone = whole.backbone.get_submodule("network")
        sha256 = tensors_sha256(backbone)
        key = replace(info.identity, weights_sha256=sha256)
        info = replace(info, identity=key, weights=f"{TRAINED}:{network.name}")
        state = {name: tensor.numpy() for name, tensor in backbone.state_dict().items()}
        write_arrays(network_path(workspace, network.name), state, NETWORK_FORMAT)
    head = {name: t.contiguous() for name, t in folded(whole.head.state_dict()).items()}
    return save_head(workspace.heads, info, head)


def _kept(
    workspace: Workspace, begun: HeadInfo, remark: Callable[[str], None]
) -> TrainedHead | None:
    """Return the head of this training, if it is there with all that belongs to it.

    Args:
        remark: Receives a line about each file that cannot be used.
    """
    network = _network_of(begun)
    if MODES[network.mode].trains_backbone:
        if not network_path(workspace, network.name).exists():
            return None
        try:
            check_network(workspace, network.name)
        except WeightsError as error:
            remark(f"Trained again: {error}")
            return None
    kind = begun.id.rpartition("-")[0]  # its digits depend on what the backbone becomes
    for path in sorted(workspace.heads.glob(f"{glob.escape(kind)}-*.safetensors")):
        try:
            head = read_head(path)
        except HeadError as error:  # perhaps another's
            remark(str(error))
        except OSError as error:
            remark(unreadable(path, error))
        else:
            if head.info.network == network:
                return head
    return None


def _network_of(info: HeadInfo) -> Network:
    assert info.network is not None  # noqa: S101 - of a head of ours
    return info.network
