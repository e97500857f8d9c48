"""Where things lie in a workspace."""

from dataclasses import dataclass
from pathlib import Path

from cache.errors import CacheError


@dataclass(frozen=True)
class Workspace:
    """The folder that holds what a run makes."""

    root: Path

    def prepare(self) -> None:
        """Make its folders, so that one that can't be written fails before any work. OSError."""
        for folder in (self.cache, self.heads, self.report.parent):
            folder.mkdir(parents=True, exist_ok=True)

    def require(self) -> None:
        """Make sure that something was extracted into this workspace. Raises CacheError."""
        if not self.cache.is_dir():
            raise CacheError(
                f"{self.cache} is not there: run extract first, or say with --workspace where"
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
    def looks(self) -> Path:
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
    def results(self) -> Path:
        """The table of results."""
        return self.root / "results.csv"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report" / "index.html"
