"""Half-way trainings as safetensors files: tensors, and a note as metadata. No pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cache.atomic import replacing
from cache.errors import HeadError

FORMAT = "frostline-checkpoint-1"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. note: what JSON can hold.

    Raises:
        OSError: the disk is full, or the folder can't be written.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "note": json.dumps(note), "sha256": _sha256(whole)}
    with replacing(path) as temporary:
        save_file(whole, temporary, metadata)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a checkpoint's tensors, on the CPU, and its note.

    Raises:
        HeadError: it is damaged, or none of ours.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError("this version of Frostline did not write it")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _sha256(tensors):
            raise ValueError("its tensors are not those that were written")
        note: dict[str, Any] = json.loads(metadata["note"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise damaged(path, error) from error
    return tensors, note


def damaged(path: Path, why: object) -> HeadError:
    """Return the error to raise for a checkpoint that can't be gone on from."""
    return HeadError(f"{path} can't be used: {why}. Delete it, and the training begins anew.")


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by what follows."""
    begin = f"{prefix}."
    return {
        name.removeprefix(begin): tensor
        for name, tensor in tensors.items()
        if name.startswith(begin)
    }


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
