"""Which cached images are gone from the disk."""

from collections.abc import Iterable
from pathlib import Path
from sqlite3 import Error

from cache.errors import CacheError
from cache.store import Cache, as_keys, read_headers
from extract.hashes import still_there
from extract.scan import ImageSet


def images_there(sets: Iterable[ImageSet], table: Path) -> frozenset[bytes]:
    """Return the hashes of these images, and of every file scanned before that is still there.

    So a workspace of several data sets loses no row of those that are not named now.

    Raises:
        CacheError: the table of files scanned before can't be used.
    """
    try:
        seen = still_there(table)
    except Error as error:
        raise CacheError(f"{table} can't be used ({error}): delete it and run extract") from error
    return seen.union(file.sha256 for images in sets for file in images.files)


def gone(cache: Cache, there: frozenset[bytes]) -> frozenset[bytes]:
    """Return the images of a cache that are not there any more. Raises CacheError on damage."""
    headers = [header for _, header in read_headers(cache)]
    held = frozenset(key for header in headers for key in as_keys(header.hashes))
    return held.union(f.sha256 for header in headers for f in header.failures) - there
