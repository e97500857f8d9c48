"""Half-way trainings as safetensors files: tensors, and a note as metadata. No pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache.arrays import read_arrays, write_arrays
from cache.errors import HeadError
from cache.records import parse_json

FORMAT = "frostline-checkpoint-2"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        note: What JSON can hold.

    Raises:
        OSError: the disk is full, or the folder can't be written.
    """
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    write_arrays(path, arrays, FORMAT, json.dumps(note))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a checkpoint's tensors, on the CPU, and its note.

    Raises:
        HeadError: it is damaged, or none of ours.
        OSError: it can't be read.
    """
    try:
        arrays, record = read_arrays(path, FORMAT)
        note = parse_json(record, dict[str, Any])
    except ValueError as error:
        raise damaged(path, error) from error
    return {name: torch.tensor(array) for name, array in arrays.items()}, note


def damaged(path: Path, why: object) -> HeadError:
    """Return the error to raise for a checkpoint that can't be gone on from."""
    return HeadError(f"{path} can't be used: {why}. Delete it to start the training again.")


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by what follows."""
    begin = f"{prefix}."
    return {
        name.removeprefix(begin): tensor
        for name, tensor in tensors.items()
        if name.startswith(begin)
    }
