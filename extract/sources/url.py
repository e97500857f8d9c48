"""Files behind URLs: listed page by page, opened, fetched. fsspec does the work.

Who may read what is fsspec's affair: it finds credentials in the environment and in the provider's
configuration files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from errno import EDQUOT, ENOSPC
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from cache.errors import DatasetError, FrostlineError
from extract.sources.class_names import check_class_names, class_name
from extract.sources.file_names import COUNTED, ListingNotes, is_image, machine_made, maker_among
from extract.sources.image_file import INSTALL, is_remote, to_path

CONNECTIONS = 32  # files on their way at once
BLOCK_BYTES = 8 * 2**20  # read ahead of an archive
TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
VERSIONS = ("ETag", "etag", "md5Hash", "checksum", "generation")
SECONDS_BITS = 30  # of a time made from an ETag: until 2004, so that it is long past
UNKNOWN = -1  # size or time that a listing does not say

Entry = tuple[str, Mapping[str, Any]]  # path below what is listed, and what the listing says


class Listed(NamedTuple):
    """A file as listed.

    Attributes:
        path: As given, below the folder listed.
        size: Bytes; -1: not said.
        mtime_ns: Time of change in whole seconds; below, what else would change with the file
            (`stamped`); -1: not said.
    """

    path: str
    size: int
    mtime_ns: int


@contextmanager
def clear_errors(url: object) -> Iterator[None]:
    """Make an error of ours of whatever a file system raises. A full disk here stays what it is."""
    try:
        yield
    except FrostlineError:
        raise
    except Exception as error:
        if _is_full(error):
            raise
        raise DatasetError(f"{url} {fault(error)}") from error


def fault(error: Exception) -> str:
    """Say what is wrong with a file behind a URL, and what to do."""
    if isinstance(error, ImportError):
        return f"can't be read ({error}): {INSTALL}"
    if isinstance(error, FileNotFoundError):
        return "is not there: check its name"
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return (
            f"may not be read ({error}): give credentials as the provider's own tools take them, "
            "in the environment or a configuration file; for a public bucket of S3, set "
            "FSSPEC_S3_ANON=true"
        )
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"can't be read ({what}): check the URL and the network"


def describe_file(path: Path) -> Listed:
    """Return what is known of one file, here or behind a URL. Raises DatasetError, OSError."""
    if not is_remote(path):
        now = path.stat()
        changed = stamped(now.st_mtime_ns, now.st_ctime_ns, now.st_ino)
        return Listed(str(path), now.st_size, changed)
    with clear_errors(path):
        files, name = _system(path)
        info = files.info(name)
    return Listed(str(path), _size(info), _time(info))


def is_file(path: Path) -> bool:
    """Return whether a file lies there, here or behind a URL. Raises DatasetError."""
    if not is_remote(path):
        return path.is_file()
    with clear_errors(path):
        files, name = _system(path)
        return bool(files.isfile(name))


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read it at any place, here or behind a URL. Raises DatasetError, OSError."""
    if not is_remote(path):
        with path.open("rb") as file:
            yield file
        return
    with clear_errors(path):
        files, name = _system(path)
        with files.open(name, "rb", block_size=BLOCK_BYTES, cache_type="readahead") as file:
            yield file


def list_top(folder: Path, notes: ListingNotes | None = None) -> tuple[list[str], list[Listed]]:
    """Return what users put at the top of a remote folder: the folders' names, and the files.

    Args:
        folder: Behind a URL.
        notes: Count what is machine-made.

    Raises:
        DatasetError: it does not exist, or cannot be listed.
    """
    with clear_errors(folder):
        entries = []
        for path, info in _entries(folder, ""):
            maker = machine_made(path)
            if not maker:
                entries.append((path, info))
            elif notes:
                files = _all_below(folder, path) if info["type"] == "directory" else [path]
                notes.machine_made[maker] += sum(1 for _ in islice(files, COUNTED))
    folders = sorted(path for path, info in entries if info["type"] == "directory")
    return folders, [_listed(folder, entry) for entry in entries if entry[1]["type"] != "directory"]


def list_below(folder: Path, inner: str, notes: ListingNotes | None = None) -> Iterator[Listed]:
    """Yield every file that users put into the folder `inner` of a remote folder, at any depth.

    Of S3 and Google Cloud Storage one page is in memory at a time, of others one folder.

    Args:
        folder: Behind a URL.
        inner: A path in it.
        notes: Count what is machine-made.

    Raises:
        DatasetError: it cannot be listed.
    """
    with clear_errors(folder):
        for path, info in _all_below(folder, inner):
            if maker := maker_among(path.split("/")):
                if notes:
                    notes.machine_made[maker] += 1
            else:
                yield _listed(folder, (path, info))


def parts_below(folder: Path, path: str) -> list[str]:
    """Return the parts of a listed file's path below the folder that was listed."""
    return path.removeprefix(str(folder)).strip("/").split("/")


def check_remote_classes(folder: Path, names: Sequence[str]) -> None:
    """Make sure of the names of classes of a remote folder. Raises DatasetError."""

    def images_of(label: str) -> tuple[int, str]:
        folders = [name for name in names if class_name(name) == label]
        listed = [file.path for name in folders for file in list_below(folder, name)]
        images = [path for path in listed if is_image(path)]
        return len(images), images[0] if images else "no image"

    check_class_names(folder, {class_name(name) for name in names}, images_of)


def fetch_all(urls: Sequence[str], targets: Sequence[Path]) -> list[str]:
    """Fetch files, many at once, and return why each is not available, "" if it is.

    Raises:
        DatasetError: a package for these URLs is missing.
        OSError: the disk is full.
    """

    def get(url: str, target: Path) -> str:
        try:
            files, name = _system(to_path(url))
            files.get_file(name, str(target))
        except Exception as error:  # noqa: BLE001 - each file system has its own
            target.unlink(missing_ok=True)
            return _reason(url, error)
        return ""

    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch") as pool:
        return list(pool.map(get, urls, targets))


def describe_files(urls: Sequence[str]) -> list[Listed | str]:
    """Ask for many files at once; return what is known of each, or why it is not available.

    Raises DatasetError: a package for these URLs is missing.
    """

    def ask(url: str) -> Listed | str:
        try:
            files, name = _system(to_path(url))
            info = files.info(name)
        except Exception as error:  # noqa: BLE001 - each file system has its own
            return _reason(url, error)
        return Listed(url, _size(info), _time(info))

    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="ask") as pool:
        return list(pool.map(ask, urls))


def _system(path: Path) -> tuple[Any, str]:
    """Return the file system of a URL, and the name that the file has there."""
    remote = cast(Any, path)
    return remote.fs, remote.path


def _reason(url: str, error: Exception) -> str:
    """Return what one file costs; raise what the others would meet too."""
    if _is_full(error) or isinstance(error, FrostlineError):
        raise error
    if isinstance(error, ImportError):
        raise DatasetError(f"{url} {fault(error)}") from error
    return fault(error)


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT)


def _listed(folder: Path, entry: Entry) -> Listed:
    path, info = entry
    return Listed(f"{str(folder).rstrip('/')}/{path}", _size(info), _time(info))


def _size(info: Mapping[str, Any]) -> int:
    size = info.get("size", info.get("Size"))
    return UNKNOWN if size is None else int(size)


def _time(info: Mapping[str, Any]) -> int:
    """Return when a file was changed, in ns, `stamped` with all that the listing says of versions.

    Where no time is said, one is made from these; where they are not said either, UNKNOWN.
    """
    versions = [str(info[name]) for name in VERSIONS if info.get(name)]
    for name in TIMES:
        when = info.get(name)
        if isinstance(when, datetime):
            when = when.timestamp()
        if isinstance(when, int | float):
            return stamped(int(when * 10**9), *versions)
    return _number_of(versions, 2**SECONDS_BITS) * 10**9 if versions else UNKNOWN


def stamped(mtime_ns: int, *versions: object) -> int:
    """Return a time with a number made from it and these in place of what is below a second.

    So a file is known by one number, that a file system keeps as a time. Without versions: as it
    is.
    """
    if not versions:
        return mtime_ns
    return mtime_ns // 10**9 * 10**9 + _number_of([mtime_ns, *versions], 10**9)


def _number_of(values: Sequence[object], below: int) -> int:
    return int.from_bytes(sha256(repr(values).encode()).digest()[:16], "big") % below


def _entries(folder: Path, inner: str) -> Iterator[Entry]:
    """Yield what is in one folder below a remote folder, by its path there."""
    files, root = _system(folder)
    files.invalidate_cache()  # else it would not see what is new, and keep what it has listed
    for info in files.ls("/".join(filter(None, (root.rstrip("/"), inner))) or root, detail=True):
        name = str(info["name"]).rstrip("/").rpartition("/")[2]
        itself = info["name"].strip("/") == f"{root}/{inner}".strip("/")
        if not itself:  # some list a mark of the folder in it
            yield "/".join(filter(None, (inner, name))), info


def _all_below(folder: Path, inner: str) -> Iterator[Entry]:
    """Yield every file in the folder `inner` of a remote folder, at any depth."""
    files, _ = _system(folder)
    known = (files.protocol,) if isinstance(files.protocol, str) else files.protocol
    listing = next((PAGED[name] for name in known if name in PAGED), _walk)
    return listing(folder, inner)


def _walk(folder: Path, inner: str) -> Iterator[Entry]:
    """List a folder, then those in it, of any file system."""
    to_list = [inner]
    while to_list:
        folders = []
        for path, info in _entries(folder, to_list.pop()):
            if info["type"] == "directory":
                folders.append(path)
            else:
                yield path, info
        to_list += sorted(folders, reverse=True)


def _s3_pages(folder: Path, inner: str) -> Iterator[Entry]:
    files, root = _system(folder)
    bucket, above, _ = files.split_path(root)
    above = f"{above.rstrip('/')}/" if above else ""
    asked = {"Bucket": bucket, "Prefix": f"{above}{inner}/", **files.req_kw}
    while True:
        page = files.call_s3("list_objects_v2", **asked)
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):  # the mark of a folder
                yield entry["Key"][len(above) :], entry
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _gcs_pages(folder: Path, inner: str) -> Iterator[Entry]:
    files, root = _system(folder)
    bucket, above, _ = files.split_path(root)
    above = f"{above.rstrip('/')}/" if above else ""
    asked: dict[str, str] = {"prefix": f"{above}{inner}/"}
    while True:
        page = files.call("GET", "b/{}/o", bucket, json_out=True, **asked)
        for entry in page.get("items", ()):
            if not entry["name"].endswith("/"):
                changed = datetime.fromisoformat(entry["updated"])
                yield entry["name"][len(above) :], {**entry, "updated": changed}
        if "nextPageToken" not in page:
            return
        asked["pageToken"] = page["nextPageToken"]


PAGED: dict[str, Callable[[Path, str], Iterator[Entry]]] = {"s3": _s3_pages, "gs": _gcs_pages}
