"""Checkpoint files: everything that a resumed run needs. Written whole or not at all; reading one runs no code."""

import io
import pickle
import struct
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import torch

from common.errors import is_about_memory
from common.files import written_whole

FORMAT_VERSION = 1

# What torch.load raises for files that are cut off or changed, also in its old formats.
_DAMAGED = (RuntimeError, ValueError, EOFError, LookupError, AssertionError, struct.error, zipfile.BadZipFile)


class DamagedFile(ValueError):
    """A file is cut off or changed. An older one of its kind may do."""


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Write `state` (tensors and plain containers). `path` is then either the old file or the whole new one.

    Raises:
        OSError: if it cannot be written, for example because the disk is full.
    """
    content = io.BytesIO()  # not straight to the file: torch's own writer does not say why it failed
    torch.save(state | {"format_version": FORMAT_VERSION}, content)
    with written_whole(path) as working:
        working.write_bytes(content.getbuffer())


def load_checkpoint(path: str | Path, *, stage: str) -> dict:
    """Read a training checkpoint of this stage onto the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedFile: if the file is truncated or changed, or holds other objects than tensors and plain containers (no
            code in it is run).
        ValueError: if it belongs to another stage or format.
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
        DamagedFile: if it is truncated or changed, or holds other objects. Pickled code is refused and never run.
        OSError: if it does not fit into memory.
    """
    if file is None and not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; check the path, or set trainer.resume to false")
    try:
        with nullcontext(file) if file else open(path, "rb") as opened:
            _check_sums(opened)
            return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DamagedFile(
            f"{path} holds more than tensors and plain containers, or is damaged: not loaded, nothing in it was run"
        ) from None
    except _DAMAGED as error:
        if is_about_memory(error):  # the file is sound, and must not be passed over
            raise OSError(f"{path} does not fit into memory; end other programs, or use another machine") from None
        reason = " ".join(str(error).split())[:80]
        raise DamagedFile(f"{path} cannot be read, it is truncated or not a torch file ({reason})") from None


def _check_sums(file: BinaryIO) -> None:
    """Compare the parts of a zip archive with their checksums; `torch.load` does not. Raises zipfile.BadZipFile."""
    if file.read(2) == b"PK":
        with zipfile.ZipFile(file) as archive:
            changed = archive.testzip()
        if changed:
            raise zipfile.BadZipFile(f"{changed} has changed since it was written")
    file.seek(0)
