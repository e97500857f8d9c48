"""Where things lie in a workspace."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The folder that holds what a run makes."""

    root: Path

    def prepare(self) -> None:
        """Make its folders, so that one that can't be written fails before any work. OSError."""
        for folder in (self.cache, self.heads, self.report.parent):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def cache(self) -> Path:
        """Where the caches lie."""
        return self.root / "cache"

    @property
    def heads(self) -> Path:
        """Where the trained heads and their predictions lie."""
        return self.root / "heads"

    @property
    def results(self) -> Path:
        """The table of results."""
        return self.root / "results.csv"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report" / "index.html"
