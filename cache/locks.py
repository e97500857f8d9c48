"""Several processes, perhaps on several machines, writing into one folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cache.files import remove_leftovers
from cache.storage import is_url

LOCK = ".lock"


@contextmanager
def sharing(folder: Path) -> Iterator[bool]:
    """Announce that this process writes into `folder`; yield whether no other does.

    Whoever comes alone removes what killed processes left half-written. The lock is the operating
    system's, so that it ends with its process, however that ends. Where there are no such locks
    (Windows, some network file systems) nobody counts as alone, and leftovers stay. Behind a URL
    nobody is alone either, and there are no leftovers.

    Raises:
        OSError: the folder can't be written.
    """
    if is_url(folder):
        yield False
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as file:
        alone = _lock(file)
        if alone:
            remove_leftovers(folder)
            _share(file)
        yield alone


def _lock(file: IO[bytes]) -> bool:
    """Lock a file for this process alone, else share the lock with those who have it."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _share(file)
        return False
    except OSError:  # a file system without locks
        return False
    return True


def _share(file: IO[bytes]) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_SH)
