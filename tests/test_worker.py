"""One shard, as every worker does it; and what travels to a worker and back."""

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from errno import ENOSPC
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import pytest
from safetensors.torch import save_file

from cache.errors import DeviceError, Failure, WeightsError
from cache.store import Cache, find_caches, read_headers, summarize
from extract.dataset import scan
from extract.distributed.job import Job, from_json, to_json
from extract.distributed.shards import Shard, list_shards
from extract.distributed.worker import JobResult, Member, Part, Worker
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone
from extract.imaging.image_stats import ImageStats
from extract.pipeline import RunnerOptions, combine
from extract.sources.file_names import ListingNotes
from extract.sources.hash_index import Hashed, key_of, known_among, remember
from extract.state_dict import tensors_sha256
from frostline.cli.distributed import Sums, _fault
from tests.toy import Toy

Few = Callable[[int, int], Path]


OPTIONS = RunnerOptions(workers=1, batch_size=4)


@pytest.fixture
def spec(toy: LoadedBackbone) -> EmbeddingSpec:
    return EmbeddingSpec(toy, "cpu", ("torch",), "fp32")


@pytest.fixture
def worker(spec: EmbeddingSpec, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(Job((spec,), str(tmp_path / "cache"), OPTIONS, 10_000_000))
    yield worker
    worker.close()


def parts(source: Path, size: int = 5) -> list[Part]:
    return [Part("dataset", shard, 0, {}) for shard in list_shards(source, size)]


def cache_of(worker: Worker) -> Cache:
    (cache,) = find_caches(Path(worker.job.root))
    return cache


def test_each_shard_has_segments_of_its_own(worker: Worker, few: Few) -> None:
    data = few(6, 1) / "dataset"
    done = [worker.do(part) for part in parts(data)]
    assert [each.extractions[0].computed for each in done] == [5, 5, 2]
    assert len(cache_of(worker).segments) == 3
    hashes = {member.hashed.sha256 for each in done for member in each.files}
    assert (
        hashes
        == {file.sha256 for file in scan(data).files}
        == {*done[0].image_stats} | {key for each in done[1:] for key in each.image_stats}
    )


def test_a_shard_done_again_makes_the_same_file(worker: Worker, few: Few, tmp_path: Path) -> None:
    (part, *_) = parts(few(6, 1) / "dataset", 12)
    worker.do(part)
    elsewhere = Worker(replace(worker.job, root=str(tmp_path / "other")))
    elsewhere.do(part)
    names = [[path.name for path in cache_of(each).segments] for each in (worker, elsewhere)]
    assert names[0] == names[1] and len(names[0]) == 1
    elsewhere.close()
    again = worker.do(part)
    assert (again.extractions[0].computed, again.extractions[0].present) == (0, 12)


def test_what_others_wrote_meanwhile_is_not_computed_again(worker: Worker, few: Few) -> None:
    one, *_ = parts(few(3, 1) / "dataset", 6)
    other = Worker(worker.job)
    assert worker.do(replace(one, shard=replace(one.shard, number=1))).error == ""
    assert other.do(one).extractions[0].computed == 0
    other.close()


def test_files_that_are_as_they_were_hashed_are_not_read(
    worker: Worker, few: Few, monkeypatch: pytest.MonkeyPatch
) -> None:
    (part,) = parts(few(3, 1) / "dataset", 6)
    done = worker.do(part)
    known = {member.name: member.hashed for member in done.files}
    monkeypatch.setattr("extract.distributed.worker.file_digest", None)  # whoever hashes, fails
    again = worker.do(replace(part, known=known))
    assert again.files == done.files and again.extractions[0].present == 6


def test_what_lies_elsewhere_and_is_there_is_not_fetched(
    worker: Worker, few: Few, tmp_path: Path
) -> None:
    data, archive = few(3, 1) / "dataset", tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(data.rglob("*.*")):
            file.write(path, path.relative_to(data))
        file.writestr("gel/broken.png", b"no image")
    (part,) = parts(archive, 10)
    done = worker.do(part)
    assert len(done.files) == 7 and done.extractions[0].computed == 6
    (failed,) = done.extractions[0].failed
    assert failed.path == f"{archive}/gel/broken.png"  # not where it lay for a moment
    (kept,) = summarize(cache_of(worker)).failures.values()
    assert kept.path == failed.path
    known = {member.name: member.hashed for member in done.files}
    good = {name: it for name, it in known.items() if "broken" not in name}
    archive.write_bytes(b"it is gone")
    assert worker.do(replace(part, known=known)).error  # one is missing: it must be fetched
    listed = zip(
        part.shard.paths, part.shard.labels, part.shard.sizes, part.shard.mtimes_ns, strict=True
    )
    paths, labels, sizes, times = zip(*(it for it in listed if "broken" not in it[0]), strict=True)
    shard = replace(part.shard, paths=paths, labels=labels, sizes=sizes, mtimes_ns=times)
    assert worker.do(replace(part, shard=shard, known=good)).extractions[0].present == 6


def test_a_file_that_is_gone_costs_itself(worker: Worker, few: Few) -> None:
    data = few(3, 1) / "dataset"
    (part,) = parts(data, 6)
    victim = next((data / "gel").iterdir())
    victim.unlink()
    done = worker.do(part)
    assert [failure.path for failure in done.unopened] == [str(victim)]
    assert done.extractions[0].computed == 5


def test_what_can_be_mended_is_told_and_the_next_shard_goes_on(worker: Worker, few: Few) -> None:
    strict = Worker(replace(worker.job, options=replace(OPTIONS, strict=True)))
    data = few(3, 1) / "dataset"
    (data / "gel" / "broken.png").write_bytes(b"no image")
    done = [strict.do(part) for part in parts(data, 1)]
    (failed,) = [each for each in done if each.error]
    assert "broken.png" in failed.error and "--strict" in failed.error
    assert sum(each.extractions[0].computed for each in done if not each.error) == 6
    strict.close()


def test_a_full_disk_costs_its_shard(
    worker: Worker, few: Few, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = parts(few(6, 1) / "dataset")

    def full(*_: object) -> Path:
        raise OSError(ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("extract.writer.write_segment", full)
        assert "No space left" in worker.do(first).error
    assert worker.do(second).extractions[0].computed == 5


def test_a_file_without_a_time_is_hashed_each_time(worker: Worker, few: Few) -> None:
    """As the images that a list of URLs names: nobody says when they were changed."""
    fsspec, url = pytest.importorskip("fsspec"), "memory://worker/0.jpg"
    shard, known = Shard(0, "", (url,), ("a",), (-1,), (-1,)), dict[str, Hashed]()
    for path in sorted((few(2, 1) / "dataset" / "gel").iterdir()):
        content = path.read_bytes().ljust(1_000_000, b"\0")  # of one size
        fsspec.filesystem("memory").pipe_file("/worker/0.jpg", content)
        (member,) = worker.do(Part("dataset", shard, 0, known)).files
        assert member.hashed.sha256 == sha256(content).digest()
        known = {url: member.hashed}


T = TypeVar("T")


def received_copy(sent: T) -> T:
    """What another process receives."""
    received: T = pickle.loads(pickle.dumps(sent))  # noqa: S301 - our own bytes
    return received


class TestAnotherMachine:
    """It receives a spec, and must compute with the same weights and rules, or not at all."""

    def test_a_spec_arrives_as_it_was_sent(self, spec: EmbeddingSpec) -> None:
        assert spec.backbone.module
        received = received_copy(spec)
        assert received == spec and received.key == spec.key
        assert "module" not in vars(received.backbone)
        assert len(pickle.dumps(spec)) < 2000
        assert (
            tensors_sha256(received.backbone.module.get_submodule("network"))
            == spec.backbone.weights_sha256
        )

    def test_other_weights_are_refused(self, spec: EmbeddingSpec, few: Few, tmp_path: Path) -> None:
        other = replace(spec, backbone=replace(spec.backbone, weights_sha256="0" * 64))
        worker = Worker(Job((received_copy(other),), str(tmp_path), OPTIONS, None))
        (part,) = parts(few(2, 1) / "dataset")
        assert re.search("random:0.* not the same on every machine", worker.do(part).error)
        worker.close()

    def test_other_rules_are_refused(
        self, spec: EmbeddingSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = Job((spec,), str(tmp_path), OPTIONS, None)
        received_copy(job).check()
        monkeypatch.setattr("extract.imaging.decode.GRAY_RULE", "another")
        with pytest.raises(WeightsError, match="rules of decoding are not the same"):
            received_copy(job).check()

    def test_files_are_found_from_any_folder(
        self, toy: LoadedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_file(Toy().state_dict(), tmp_path / "toy.safetensors")
        monkeypatch.chdir(tmp_path)
        received = received_copy(load_backbone("toy", "toy.safetensors"))
        monkeypatch.chdir("/")
        assert received.module


def test_a_part_arrives_as_it_was_sent() -> None:
    name = os.fsdecode(b"/data/\xff.png")  # no valid Unicode
    shard = Shard(3, "", (name, "s3://b/k.png"), ("a", "b"), (-1, 5), (-1, 7))
    known = {"s3://b/k.png": Hashed(key_of("s3://b/k.png"), 5, 7, bytes(32))}
    part = Part("test", shard, 4, known)
    assert from_json(to_json(part), Part) == part
    assert to_json(part).isascii()
    for other in ("{}", "[]", "", to_json(JobResult("a", 0, "b", 0.5))):
        with pytest.raises(DeviceError, match="same version of Frostline"):
            from_json(other, Part)


def test_what_was_done_arrives_as_it_was_told(worker: Worker, few: Few) -> None:
    data = few(2, 1) / "dataset"
    (data / "gel" / "broken.png").write_bytes(b"no image")
    (part,) = parts(data, 9)
    done = worker.do(part)
    assert isinstance(next(iter(done.image_stats.values())), ImageStats)
    assert from_json(to_json(done), JobResult) == done
    failed = JobResult(
        "dataset", 1, "host:1", 0.5, unopened=(Failure(b"", "x", "gone"),), error="why"
    )
    assert from_json(to_json(failed), JobResult) == failed


def test_sums_over_shards_are_those_of_all_images(worker: Worker, few: Few) -> None:
    first, second, third = (worker.do(p).extractions[0] for p in parts(few(6, 1) / "dataset"))
    whole = combine(combine(first, second), third)
    assert (whole.computed, whole.present, whole.failed) == (12, 0, ())
    assert whole.engine == "torch"
    each = (first.spent["decode"], second.spent["decode"], third.spent["decode"])
    assert whole.spent["decode"] == pytest.approx(sum(each))


def test_hashes_are_found_again_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table, names = tmp_path / "scan.sqlite", [f"{i}.png" for i in range(2500)]
    assert known_among(table, names) == {}
    hashed = {
        name: Hashed(key_of(name), 1, 2, bytes([i % 256]) * 32) for i, name in enumerate(names)
    }
    remember(table, hashed.values())
    assert known_among(table, [*names, "s3://b/other.png"]) == hashed
    assert known_among(table, [str(tmp_path / "7.png")]) == {
        str(tmp_path / "7.png"): hashed["7.png"]
    }


def test_rows_are_counted_once(worker: Worker, few: Few) -> None:
    """A copy in another shard is the same image."""
    data = few(2, 1) / "dataset"
    (data / "gel" / "copy.jpg").write_bytes(next((data / "gel").iterdir()).read_bytes())
    for part in parts(data, 1):
        worker.do(part)
    stored = sum(len(header.hashes) for _, header in read_headers(cache_of(worker)))
    assert stored == 4


def test_what_a_tar_holds_besides_images_comes_back_and_stops_or_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    notes = ListingNotes()
    assert not notes.takes("x.tar/@eaDir/x.png", ("@eaDir", "x.png"))
    names = {label: f"x.tar/{label}.png" for label in ("gel", "Gel")}
    files = tuple(
        Member(name, label, Hashed(key_of(name), 1, 1, bytes(32))) for label, name in names.items()
    )
    done = JobResult("dataset", 0, "host:1", 0.5, files, notes=notes)
    assert from_json(to_json(done), JobResult) == done
    sums = Sums()
    sums.add(done)
    fault = _fault(sums, {"dataset": Path("x.tar")})
    assert "'Gel' (1 image(s)) and 'gel' (1 image(s), first: x.tar/gel.png) differ" in str(fault)
    assert "x.tar: 1 file(s) ignored" in capsys.readouterr().err


@pytest.mark.parametrize(("gone", "stops"), [(1, False), (2, True)])
def test_a_source_that_is_mostly_gone_stops(gone: int, stops: bool) -> None:
    member = Member("a.png", "gel", Hashed(key_of("a.png"), 1, 1, bytes(32)))
    sums, lost = Sums(), Failure(b"", "q.png", "No such file")
    sums.add(JobResult("dataset", 0, "host:1", 0.5, (member,), unopened=(lost,) * gone))
    fault = _fault(sums, {"dataset": Path("d")})
    assert ("2 of 3 file(s) can't be opened. The first: q.png" in str(fault)) is stops
