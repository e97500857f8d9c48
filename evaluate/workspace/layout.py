"""Where things lie in a workspace."""

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from cache.errors import CacheError, FrostlineError
from cache.files import check_replaceable
from cache.locks import LOCK
from evaluate.workspace.failures import check_failures


@dataclass(frozen=True)
class Workspace:
    """The folder that holds what a run makes.

    Raises:
        FrostlineError: it is the folder of this program, or a package of it. There `cache/` and
            `heads/` are code, and `results.csv` is that of the repository.
    """

    root: Path

    def __post_init__(self) -> None:
        real = self.root.resolve()
        if _is_program(real) or (_is_program(real.parent) and (real / "__init__.py").exists()):
            raise FrostlineError(
                f"--workspace {self.root}: this folder holds Frostline's own code, so results "
                "can't be kept here. Choose another folder, such as --workspace out."
            )

    def prepare(self) -> None:
        """Make its folders, so that one that can't be written fails before any work.

        Raises:
            ResultsError: a file that a run would overwrite is somebody else's.
            OSError: a folder can't be made.
        """
        for folder in (self.cache, self.heads, self.report.parent):
            folder.mkdir(parents=True, exist_ok=True)
        check_failures(self.failures)
        check_replaceable(self.report, b"Frostline", what="The report")

    def require_folder(self) -> None:
        """Make sure that the workspace exists, for commands that only read. Raises CacheError."""
        if not self.root.is_dir():
            raise CacheError(
                f"The workspace {self.root} does not exist. Run `cli.py run` first, or name "
                "another folder with --workspace."
            )

    def require(self) -> None:
        """Make sure that something was extracted into this workspace. Raises CacheError."""
        self.require_folder()
        if not self.cache.is_dir():
            raise CacheError(
                f"The workspace {self.root} has no cache. Run `cli.py extract` first, or name "
                "another folder with --workspace."
            )

    @property
    def cache(self) -> Path:
        """Where the caches lie."""
        return self.root / "cache"

    @property
    def scan_table(self) -> Path:
        """The table of files hashed before."""
        return self.cache / "scan.sqlite"

    @property
    def image_index(self) -> Path:
        """The table of what images look like."""
        return self.cache / "looks.sqlite"

    @property
    def audits(self) -> Path:
        """Where it is kept what audits have found."""
        return self.root / "audit"

    @property
    def failures(self) -> Path:
        """The images that the last extraction could not read."""
        return self.root / "failures.csv"

    @property
    def heads(self) -> Path:
        """Where the trained heads and their predictions lie."""
        return self.root / "heads"

    @property
    def networks(self) -> Path:
        """Where the backbones lie that were trained together with their heads."""
        return self.root / "networks"

    @property
    def lists(self) -> Path:
        """Where lists of images with their hashes lie, as clusters have found them."""
        return self.root / "lists"

    @property
    def images(self) -> Path:
        """Where archives of images are unpacked."""
        return self.root / "images"

    @property
    def study(self) -> Path:
        """Which study was run last."""
        return self.root / "study.json"

    @property
    def splits(self) -> Path:
        """Where `run --test-fraction` keeps which images it holds out."""
        return self.root / "split"

    @property
    def results(self) -> Path:
        """The table of results."""
        return self.root / "results.csv"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report" / "index.html"


@contextmanager
def writable(workspace: Workspace, remark: Callable[[str], None]) -> Iterator[Workspace]:
    """Yield a workspace that can be written: this one, or where it is read-only a temporary one.

    The temporary one holds links to all that is here; what is added there is removed at the end.

    Args:
        remark: Receives that it is used.

    Raises:
        OSError: there is no room for a temporary folder.
    """
    folders = [workspace.cache, *(path for path in workspace.cache.glob("*") if path.is_dir())]
    if not workspace.cache.is_dir() or all(os.access(folder, os.W_OK) for folder in folders):
        yield workspace
        return
    remark(
        f"The workspace {workspace.root} is read-only: new embeddings and findings are not saved."
    )
    with TemporaryDirectory(prefix="frostline-") as folder:
        root = Path(folder)
        inner = [*folders, *filter(Path.is_dir, (workspace.audits, workspace.images))]
        for each in (workspace.root, *inner):
            _link_all(each, root / each.relative_to(workspace.root), but=inner)
        yield Workspace(root)


def _link_all(folder: Path, other: Path, but: Collection[Path] = ()) -> None:
    """Link what is in a folder from another one. Tables of SQLite are copied: they are written."""
    other.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path in but or path.name == LOCK:
            continue
        if path.suffix == ".sqlite":
            copyfile(path, other / path.name)
        else:
            (other / path.name).symlink_to(path.absolute())


def _is_program(folder: Path) -> bool:
    """Tell whether a folder is a copy of this program, by whatever path it is named."""
    return (folder / "cli.py").is_file() and (folder / "cache" / "store.py").is_file()
