"""Named arrays and a record about them in one file, never read without its checksum.

- Two containers, by the file's suffix: `.safetensors`, which other programs read, and `.npz`.
- A SHA-256 covers the arrays' names, types, shapes and bytes, and the format and record (a text).
- Every reader of stored arrays goes through `read_arrays`: what it returns is what was written.
- An OSError always means that the file can't be reached, never that it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.files import asking_for_space, check_file, replacing
from cache.records import parse_json

Arrays = dict[str, NDArray[Any]]

NOTE = "frostline"  # the metadata or member that holds format, record and checksum, as JSON


@dataclass(frozen=True)
class _Note:
    format: str = ""
    record: str = ""
    sha256: str = ""


class ArrayFileError(ValueError):
    """The file is not the one that was written; the message says in what it differs."""


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], file_format: str, record: str = ""
) -> None:
    """Write arrays and a record, whole or not at all.

    Raises:
        OSError: the folder can't be written, or the disk is full: then the message says how much
            space is needed.
    """
    note = {"format": file_format, "record": record}
    text = json.dumps(note | {"sha256": content_sha256(arrays, file_format, record)})
    size = len(text) + sum(array.nbytes for array in arrays.values())
    with replacing(path) as temporary, asking_for_space(path, size):
        if path.suffix == ".npz":
            member = np.frombuffer(text.encode(), np.uint8)
            with temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **{NOTE: member}, **arrays)
        else:
            _write_safetensors(temporary, arrays, text)


def read_arrays(path: Path, file_format: str) -> tuple[Arrays, str]:
    """Return the arrays and the record that `write_arrays` wrote.

    Raises:
        ArrayFileError: the file is damaged, of another format, or of another program.
        OSError: it does not exist, or cannot be read.
    """
    check_file(path)
    try:
        arrays, text = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
        note = parse_json(text, _Note) if text else _Note()
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ArrayFileError(f"its content is damaged ({reason})") from error
    if note.format != file_format:
        raise ArrayFileError(_other_format(file_format, note.format))
    if note.sha256 != content_sha256(arrays, note.format, note.record):
        raise ArrayFileError("its content does not match its checksum")
    return arrays, note.record


def content_sha256(arrays: Mapping[str, NDArray[Any]], *texts: str) -> str:
    """Hash arrays (names, types, shapes, bytes) and texts, in hex; the arrays' order is nothing."""
    digest = hashlib.sha256()
    for text in (*texts, *(f"{n} {a.dtype.str} {a.shape}" for n, a in sorted(arrays.items()))):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    for _, array in sorted(arrays.items()):
        digest.update(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read_npz(path: Path) -> tuple[Arrays, str]:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, arrays.pop(NOTE).tobytes().decode() if NOTE in arrays else ""


def _read_safetensors(path: Path) -> tuple[Arrays, str]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, (file.metadata() or {}).get(NOTE, "")


def _write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]], text: str) -> None:
    """Write straight to the disk: a network and its copy need not fit in memory."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file({n: np.asarray(a, order="C") for n, a in arrays.items()}, path, {NOTE: text})
    except SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None
        raise
    path.chmod(mode)  # the library's own files are private; ours obey the umask


def _other_format(wanted: str, found: str) -> str:
    if found:
        return f"it has the format {found}, and this version of Frostline reads {wanted}"
    return "it was written by an older version of Frostline, or by another program"
