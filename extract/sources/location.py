"""Where things lie: on this machine, or behind a URL that fsspec knows (s3://, gs://, …)."""

import re
from pathlib import Path, PurePath
from typing import cast

from cache.errors import DatasetError

URL = re.compile(r"[a-z][a-z0-9+.-]+(::[a-z][a-z0-9+.-]+)*://", re.IGNORECASE)
LOCAL = ("file://", "local://")
# What URLs need.
INSTALL = "pip install universal-pathlib, s3fs for s3://, gcsfs for gs://, others as it names them"


def place(text: str) -> Path:
    """Return the path that a text names; of a URL, a `upath.UPath`, which works as a Path does.

    `file://` is this machine.

    Raises:
        DatasetError: the URL's scheme is not known, or a package for URLs is missing.
    """
    if not is_url(text):
        return Path(plain(text))
    scheme, colon, rest = text.partition("://")
    try:
        from upath import UPath

        return cast(Path, UPath(scheme + colon + rest.rstrip("/")))
    except ImportError as error:
        raise DatasetError(f"{text} can't be read ({error}): {INSTALL}") from None
    except ValueError as error:
        raise DatasetError(
            f"{text}: {error}: give a folder or file, or a URL such as s3://BUCKET/FOLDER"
        ) from None


def is_url(text: str) -> bool:
    """Tell whether a text is a URL, and no path of this machine."""
    return URL.match(text) is not None and not text.lower().startswith(LOCAL)


def plain(text: str) -> str:
    """Return a path of this machine without `file://`."""
    return text.partition("://")[2] if text.lower().startswith(LOCAL) else text


def is_remote(path: Path) -> bool:
    """Tell whether a path of `place` is behind a URL."""
    return not isinstance(path, PurePath)
