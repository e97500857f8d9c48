"""Which cached images are gone from every data set that they were ever found in."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from cache.errors import CacheError, DatasetError
from cache.store import Cache, as_keys, read_headers
from evaluate.workspace.known_datasets import KnownDatasets, known_sets, root_of
from extract.dataset import ImageSet
from extract.sources.image_file import is_remote, to_path


@dataclass(frozen=True)
class Gone:
    """Images of one cache.

    Attributes:
        gone: Their rows may be dropped.
        unknown: Held by no data set known here, as those that `predict` or another workspace
            brought; their rows stay.
    """

    gone: frozenset[bytes]
    unknown: frozenset[bytes]


def images_there(
    caches: Path,
    forgotten: Collection[Path],
    given: Iterable[ImageSet],
    scan: Callable[[Path], ImageSet],
) -> tuple[KnownDatasets, frozenset[bytes]]:
    """Read every data set with rows in a workspace; return what is known, and what is there.

    Args:
        forgotten: Data sets that are gone for good, as the user says.
        given: Further sets.

    Raises:
        CacheError: it is not known which data sets there are; one of them, or a file in it, can't
            be read, so that its images may still exist; or a forgotten one is not known or exists.
    """
    known, found = known_sets(caches), set[bytes]()
    names = {root_of(source) for source in forgotten}
    for source in forgotten:
        if root_of(source) not in known.roots:
            raise CacheError(
                f"--forget {source}: no such data set. Known: " + ", ".join(known.roots)
            )
        if not is_remote(source) and source.exists():
            raise CacheError(f"--forget {source}: it exists. Remove it, or leave out --forget.")
    for root in known.roots:
        if root not in names:
            found |= _images_of(root, scan)
    for images in given:
        _check_whole(str(images.folder), images)
        found |= {file.sha256 for file in images.files}
    return known, frozenset(found)


def gone_from(cache: Cache, known: KnownDatasets, there: frozenset[bytes]) -> Gone:
    """Tell which images of a cache are gone. Raises CacheError on damage."""
    headers = [header for _, header in read_headers(cache)]
    held = frozenset(key for header in headers for key in as_keys(header.hashes))
    held = held.union(f.sha256 for header in headers for f in header.failures)
    return Gone((held & known.images) - there, held - known.images - there)


def _images_of(root: str, scan: Callable[[Path], ImageSet]) -> set[bytes]:
    try:
        images = scan(to_path(root))
    except (DatasetError, OSError) as error:
        raise _refused(root, str(error)) from error
    _check_whole(root, images)
    return {file.sha256 for file in images.files}


def _check_whole(root: str, images: ImageSet) -> None:
    unread = [f"{failure.path}: {failure.reason}" for failure in images.unopened]
    unread += [f"{path} leads nowhere" for path in images.ignored if _leads_nowhere(path)]
    if unread:
        raise _refused(root, unread[0])


def _refused(root: str, reason: str) -> CacheError:
    return CacheError(
        f"{root} can't be read as a whole ({reason}). Its images may still exist, so no row is "
        "dropped. Mount, restore or correct it; if it is gone for good, use --forget."
    )


def _leads_nowhere(path: Path) -> bool:
    return not is_remote(path) and path.is_symlink() and not path.exists()
