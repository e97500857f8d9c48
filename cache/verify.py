"""Every segment of a workspace, read to the last bit and held against its checksum."""

from collections.abc import Iterator
from pathlib import Path

from cache.errors import CacheError, SegmentGoneError
from cache.progress import Progress, silent
from cache.segments import read_header, verify_segment


def verify(root: Path, progress: Progress = silent) -> Iterator[tuple[Path, CacheError | None]]:
    """Verify every segment below `root`; yield each with what is wrong with it, or None.

    A segment of another cache than its folder's is wrong, too. progress counts segments.
    """
    paths = sorted(root.glob("*/*.h5"))
    for done, path in enumerate(paths, start=1):
        try:
            verify_segment(path)
            if (name := read_header(path).identity.name) != path.parent.name:
                raise CacheError(f"{path} belongs to another cache: move it to the folder {name}")
            yield path, None
        except SegmentGoneError:  # compacted by another process
            pass
        except CacheError as error:
            yield path, error
        progress(done, len(paths))
