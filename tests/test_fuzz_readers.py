"""Every reader of JSON, TOML and CSV: a result or one of our errors, whatever the file holds."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.embedding_key import EmbeddingKey
from cache.errors import Failure, FrostlineError
from cache.ray_cluster import resources
from cache.records import RecordError
from cache.tables import table_text
from evaluate.audit.audit import audit
from evaluate.audit.findings import audit_path, in_words, read_audit
from evaluate.audit.split import NOTE, SplitOptions, divided_before
from evaluate.leaderboard import cautions, describe_best, describe_confusions, studies
from evaluate.predict import find_row
from evaluate.predictions import Predictions, read_predictions, write_predictions
from evaluate.report.published_results import read_published
from evaluate.report.sections import speed
from evaluate.results import add_result, read_results
from evaluate.uncertainty.scores import Uncertainty, read_doubt, write_doubt
from evaluate.workspace.current_study import read_current, write_current
from evaluate.workspace.layout import Workspace
from extract.artifact_store import ArtifactStore, Note
from extract.dataset import scan
from extract.distributed.job import from_json, to_json
from extract.distributed.shards import Shard
from extract.distributed.worker import JobResult, Part
from extract.sources.csv_manifest import rows_of, write_list
from extract.sources.file_names import ListingNotes
from extract.sources.hash_index import Hashed
from extract.sources.tar_archive import _said
from frostline.cli.main import cli
from frostline.cli.recipes import read_recipe
from heads.config import HeadConfig, fingerprint
from heads.search.space import read_grid
from heads.search.trials import CALIBRATED, MEASURED, add_trials, read_trials
from tests.conftest import GEL, ROOT
from tests.reported import row

pytestmark = pytest.mark.slow

SAMPLES = ROOT / "test_images"
COMMANDS = {name: cli.commands[name] for name in ("split", "run", "baseline", "report")}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([10**400, -1, 0, 2**63, 1e308, "NaN", "\udce9", "=1", "\0"]),
    lambda it: st.lists(it, max_size=3) | st.dictionaries(st.text(max_size=5), it, max_size=2),
    max_leaves=6,
)  # fmt: skip
DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b"a = " + b"[" * 100_000,
        b"[run]\nseed." + b"a." * 900 + b"a = 1",
        b"[grid]\nepochs = " + b"[" * 80 + b"]" * 80]  # fmt: skip
ODD = [b"", b"\0", b"\xff\xfe\0a", b"\xef\xbb\xbf", b"null", b"[]", b"{}", b"NaN", b"9" * 5000,
       b'"', b"\xe9", b",", b";\r;", b"a\n\n\n", b'{"a": "\\ud800"}', b"1e999"]  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """path: of a file that is read without an error. read: it, and use what was read."""

    path: Path
    read: Callable[[], object]


def _audit(folder: Path) -> Reader:
    place = Workspace(folder)
    images = scan(SAMPLES)
    audit(images, None, place)
    (path,) = place.audits.glob("*.json")
    assert path.parent == audit_path(place, "a", None).parent
    return Reader(path, lambda: in_words(read_audit(path)))


def _doubt(folder: Path) -> Reader:
    path = folder / "head.doubt.json"
    shares = {"margin": 0.5}
    write_doubt(path, Uncertainty("margin", shares, {"clean": 1}, 1, 0.1, 0.1, 0.1, "0"), {})
    return Reader(path, lambda: read_doubt(path))


def _current(folder: Path) -> Reader:
    from evaluate.workspace.current_study import part_of

    place, part = Workspace(folder), part_of(scan(SAMPLES), SAMPLES, None)
    write_current(place, part, part, ["a", "b"])
    return Reader(place.study, lambda: read_current(place))


def _split(folder: Path) -> Reader:
    images = scan(SAMPLES)
    cut = SplitOptions(0.2, 0)
    note = {"images": fingerprint(images.labels)} | dataclasses.asdict(cut)
    (folder / NOTE).write_text(json.dumps(note))
    return Reader(folder / NOTE, lambda: divided_before(images, cut, folder))


def _kept(folder: Path) -> Reader:
    artifact = ArtifactStore(folder).artifact("graph", weights="a")

    def write(temporary: Path) -> None:
        (temporary / "f").write_bytes(b"x")

    def fill() -> None:
        artifact.fill(write)

    fill()
    note = next(path for path in artifact.folder.iterdir() if path.name != "f")

    def read() -> None:
        if artifact.read(Note) is None:  # removed, as what is not whole
            fill()

    return Reader(note, read)


def _label(folder: Path) -> Reader:
    path = folder / "image.json"
    path.write_text('{"label": "gel", "class": 1}')

    def read() -> None:
        with suppress(ValueError):  # it costs this image, see `images_of`
            _said({".json": path.read_bytes()})

    return Reader(path, read)


def _resources(folder: Path) -> Reader:
    path = folder / "resources.json"
    path.write_text('{"CPU": 2, "TPU": 1}')
    return Reader(path, lambda: resources(path.read_text("utf-8", "surrogateescape")))


def _identity(folder: Path) -> Reader:
    path = folder / "identity.json"
    path.write_text(EmbeddingKey(
        "a", "b", 1, "c", "d", "e", "f", 224, (0.5,), (0.5,), "g", "fp32", "", "cpu"
    ).to_json())  # fmt: skip

    def read() -> None:
        with suppress(RecordError):  # segments and heads make it one of ours
            EmbeddingKey.from_json(path.read_text("utf-8", "surrogateescape"))

    return Reader(path, read)


def _part(folder: Path) -> Reader:
    path, shard = folder / "part.json", Shard(0, "", ("a.png",), ("a",), (1,), (1,))
    part = Part("s", shard, 0, {"a.png": Hashed(b"a.png", 1, 1, bytes(32))})
    return sent(path, to_json(part), lambda text: from_json(text, Part))


def _done(folder: Path) -> Reader:
    done = JobResult(
        "s", 0, "w", 0.5, unopened=(Failure(bytes(32), "a", "b"),), notes=ListingNotes()
    )
    return sent(folder / "done.json", to_json(done), lambda text: from_json(text, JobResult))


def sent(path: Path, text: str, read: Callable[[str], object]) -> Reader:
    path.write_text(text)
    return Reader(path, lambda: read(path.read_text("utf-8", "surrogateescape")))


def _recipe(folder: Path) -> Reader:
    path = folder / "recipe.toml"
    path.write_text('[split]\nseed = 1\n[run]\nlr = [0.1]\nhead = ["single"]\n'
                    "[[baseline]]\nmode = \"scratch\"\n[report]\n")  # fmt: skip
    return Reader(path, lambda: read_recipe(path, COMMANDS))


def _grid(folder: Path) -> Reader:
    path = folder / "grid.toml"
    path.write_text('seeds = 2\ncv = 3\n[[grid]]\nhead = ["single"]\nlearning_rate = [0.1, 1.0]\n')
    return Reader(path, lambda: read_grid(path))


def _results(folder: Path) -> Reader:
    place = Workspace(folder)
    for head in ("a", "b"):
        add_result(place.results, row(head, nesterov=1))
    # Without checksums: else whatever is changed is refused for that alone.
    path, table = place.results, read_results(place.results).drop(columns="checksum")
    path.write_text(table.to_csv(index=False))

    def read() -> None:
        for study in studies(path):
            assert describe_best(study) and cautions(study) is not None
            describe_confusions(study.best)
            speed._by_batch(study.best)
        find_row(place, "1")
        find_row(place, "best")

    return Reader(path, read)


def _trials(folder: Path) -> Reader:
    path = folder / "trials.csv"
    measured = dict.fromkeys((*MEASURED, CALIBRATED), 0.5)
    trial = dataclasses.asdict(HeadConfig("single", "adam")) | measured
    trial |= {"cache": "c", "dataset": "d", "n_groups": 0}
    add_trials(path, {"1": trial | {"epoch": 1, "diverged": 0, "seconds": 0.1}})
    text = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(text))
    return Reader(path, lambda: read_trials(path))


def _predictions(folder: Path) -> Reader:
    path = folder / "p.csv"
    half = np.full((1, 2), 0.5)
    write_predictions(
        path, Predictions((Path("a"),), (bytes(32),), np.array([0]), half, np.array([False])), "ab"
    )
    return Reader(path, lambda: read_predictions(path, "ab"))


def _published(folder: Path) -> Reader:
    path = folder / "published.csv"
    path.write_bytes((GEL / "published_results.csv").read_bytes())
    return Reader(path, lambda: [each.right for each in read_published(path)])


def _list(folder: Path) -> Reader:
    path = folder / "l.csv"
    write_list(path, scan(SAMPLES).files[:2])
    return Reader(path, lambda: [*rows_of(path)])


READERS: dict[str, Callable[[Path], Reader]] = {
    "audit": _audit, "uncertainty": _doubt, "study": _current, "split": _split, "kept": _kept,
    "tar label": _label, "resources": _resources, "identity": _identity, "part": _part,
    "done": _done, "recipe": _recipe, "grid": _grid, "results": _results, "trials": _trials,
    "predictions": _predictions, "published": _published, "list": _list,
}  # fmt: skip


@pytest.fixture(scope="module", params=READERS)
def reader(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("fuzz")
    yield READERS[request.param](folder)


def replaced(content: Any, choose: Callable[[int], int], value: Any) -> Any:
    """Put a value in the place of another one, somewhere in a tree."""
    if isinstance(content, dict) and content and choose(4):
        key = sorted(content)[choose(len(content))]
        return content | {key: replaced(content[key], choose, value)}
    if isinstance(content, list) and content and choose(4):
        at = choose(len(content))
        return [*content[:at], replaced(content[at], choose, value), *content[at + 1 :]]
    return value


def mutated(content: bytes, suffix: str, data: st.DataObject) -> bytes:
    """Return another content: of other bytes, another value of the right form, or any."""

    def choose(n: int) -> int:
        return data.draw(st.integers(0, n - 1))

    way = choose(4)
    if way == 0:
        return data.draw(
            st.binary(max_size=40) | st.text().map(lambda it: it.encode("utf-8", "replace"))
        )
    if way == 1:
        at, until = sorted((choose(len(content) + 1), choose(len(content) + 1)))
        middle = data.draw(st.binary(max_size=4) | st.just(content[at:until] * 2))
        return content[:at] + middle + content[until if choose(2) else at :]
    value = data.draw(VALUES)
    if suffix == ".csv":
        rows = [line.split(",") for line in content.decode("utf-8", "surrogateescape").splitlines()]
        cells = rows[choose(len(rows))]
        cells[choose(len(cells))] = str(value) if way == 2 else json.dumps(value)
        return table_text(rows[0], rows[1:]).encode("utf-8", "surrogateescape")
    if suffix == ".toml":
        lines = content.decode().splitlines()
        at = choose(len(lines))
        name = lines[at].partition("=")[0]
        lines[at] = f"{name}= {json.dumps(value)}"
        return "\n".join(lines).encode()
    return json.dumps(replaced(json.loads(content), choose, value)).encode()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_changed_file_is_a_result_or_one_of_our_errors(
    reader: Reader, data: st.DataObject
) -> None:
    content = reader.path.read_bytes()
    try:
        reader.path.write_bytes(mutated(content, reader.path.suffix, data))
        attempt(reader)
    finally:
        reader.path.write_bytes(content)


def test_a_whole_file_is_read_and_no_odd_one_is_a_traceback(reader: Reader) -> None:
    content = reader.path.read_bytes()
    reader.read()
    for odd in (*DEEP, *ODD, content[: len(content) // 2], content * 2):
        reader.path.write_bytes(odd)
        attempt(reader)
    reader.path.write_bytes(content)


def test_a_folder_in_its_place_is_one_of_our_errors(reader: Reader) -> None:
    content = reader.path.read_bytes()
    reader.path.unlink()
    reader.path.mkdir()
    try:
        with suppress(OSError):  # it says what is wrong with which file
            attempt(reader)
    finally:
        if reader.path.is_dir():
            reader.path.rmdir()
        reader.path.write_bytes(content)


def attempt(reader: Reader) -> None:
    try:
        reader.read()
    except FrostlineError as error:
        assert error.args[0]


def test_a_recipe_of_any_values_ends_without_a_traceback(tmp_path: Path) -> None:
    for line in ('dataset = "\\u0000"', "lr = 1e999", f"lr = 1{'0' * 400}",
                 f"epochs = 1{'0' * 400}", "head = [[]]", "seed = nan"):  # fmt: skip
        (tmp_path / "r.toml").write_text(f"[run]\n{line}\n")
        done = CliRunner().invoke(cli, ["run", "--recipe", str(tmp_path / "r.toml"),
                                        "--workspace", str(tmp_path / "out")])  # fmt: skip
        assert done.exception is None or isinstance(done.exception, SystemExit), line
        assert done.exit_code
