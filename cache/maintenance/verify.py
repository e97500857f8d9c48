"""Every segment of a workspace, read to the last bit and held against its checksum."""

from collections.abc import Iterator
from pathlib import Path

from cache.errors import CacheError, SegmentGoneError
from cache.progress import Progress, silent
from cache.segment import verify_segment
from cache.storage import cache_folders, segment_files


def verify(root: Path, progress: Progress = silent) -> Iterator[tuple[Path, CacheError | None]]:
    """Verify every segment below `root`; yield each with what is wrong with it, or None.

    A segment of another cache than its folder's is wrong, too.

    Args:
        progress: Counts segments.
    """
    paths = [path for folder in cache_folders(root) for path in segment_files(folder)]
    for number, path in enumerate(paths, start=1):
        try:
            if (name := verify_segment(path).key.name) != path.parent.name:
                raise CacheError(f"{path} belongs to another cache: move it to the folder {name}")
            yield path, None
        except SegmentGoneError:  # compacted by another process
            pass
        except CacheError as error:
            yield path, error
        progress(number, len(paths))
