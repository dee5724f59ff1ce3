"""Checkpoints: everything that a resumed run needs. They are written whole or not at all; reading one runs no code."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from common.files import written_whole

FORMAT_VERSION = 1

# What torch.load raises for files that are cut off or changed, also in its old formats.
_DAMAGED = (RuntimeError, ValueError, EOFError, LookupError, AssertionError, struct.error, zipfile.BadZipFile)


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Write `state` (tensors and plain containers). `path` is then either the old file or the whole new one."""
    path = Path(path)
    try:
        with written_whole(path) as working:
            torch.save(state | {"format_version": FORMAT_VERSION}, working)
    except RuntimeError as error:  # from torch's writer, for example if the disk is full
        raise OSError(f"cannot write {path}: {' '.join(str(error).split())[:120]}") from None


def load_checkpoint(path: str | Path, *, stage: str) -> dict:
    """Read a training checkpoint of this stage onto the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, holds other objects than tensors and plain containers (no code in it is
            run), or belongs to another stage or format.
    """
    state = load_tensors(path)
    if not isinstance(state, dict) or "format_version" not in state:
        raise ValueError(f"{path} is no training checkpoint of this project: it has no format_version")
    if state["format_version"] != FORMAT_VERSION:
        raise ValueError(f"{path} has checkpoint format {state['format_version']}, this code reads {FORMAT_VERSION}")
    if state.get("stage") != stage:
        found = state.get("stage")
        raise ValueError(f"{path} is a checkpoint of stage '{found}', but this script trains stage '{stage}'")
    return state


def load_tensors(path: str | Path, file: BinaryIO | None = None) -> object:
    """The content of a torch file, on the CPU. It may hold only tensors and plain containers.

    Args:
        path: the file; named in messages.
        file: its bytes, if they have been read already.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated or holds other objects. Pickled code is refused and never run.
    """
    if file is None and not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; check the path, or set trainer.resume to false")
    try:
        return torch.load(file or path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} holds more than tensors and plain containers, or is damaged: not loaded, nothing in it was run"
        ) from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:80]
        raise ValueError(f"{path} cannot be read, it is truncated or not a torch file ({reason})") from None
