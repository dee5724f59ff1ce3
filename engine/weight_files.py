"""Reads and writes weight files. A file is read once, and its format is known by its content.

The files of this project are safetensors files. Their metadata says what they are and how to build the network.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from common.files import written_whole
from engine.checkpoint import load_tensors

SUFFIX = ".safetensors"
METADATA_KEY = "description"
UNREADABLE = "cannot be read, it is truncated or no weight file"  # follows the name of a file in messages
KINDS = {"encoder": "a quality encoder (stage 1)", "restorer": "a restoration network (stage 2)"}


class Description(NamedTuple):
    """The description of the network in the metadata of a file of this project."""

    kind: str  # a key of `KINDS`
    architecture: dict[str, Any]  # the options to build the network again


@dataclass(frozen=True)
class WeightFile:
    """A weight file that has been read. No network is built yet.

    Args:
        path: of the file.
        sha256: digest of the bytes that were read.
        content: of a safetensors file, its tensors by name, as stored; of a torch file, its object of plain containers
            and tensors; of any other file, its bytes.
        description: None if another program wrote the file.
    """

    path: Path
    sha256: str
    content: Any
    description: Description | None

    @property
    def is_readable(self) -> bool:
        """Whether the format is supported: safetensors or torch."""
        return not isinstance(self.content, bytes)


def save_weights(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    architecture: Mapping[str, Any],
    is_half: bool = False,
) -> None:
    """Write tensors and their description. If that fails, `path` stays as it was. Makes missing folders.

    Args:
        path: a `.safetensors` file.
        tensors: the state dict of a network.
        kind: a key of `KINDS`.
        architecture: the options to build the network again; plain JSON values.
        is_half: store floating-point tensors as float16. A network that loads them has float32 again.

    Raises:
        ValueError: if a number is too large for float16; names its tensor.
        OSError: if the file cannot be written.
    """
    stored = {
        name: (_halved(name, tensor, path) if is_half else tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    description = json.dumps({"kind": kind, "architecture": dict(architecture)})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    content = save(
        stored, metadata={METADATA_KEY: description}
    )  # bytes: `save_file` has errors and permissions of its own
    with written_whole(path) as working:
        working.write_bytes(content)


def read_weight_file(path: str | Path) -> WeightFile:
    """Read a weight file once. Its first bytes tell the format; its name does not matter.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a safetensors or torch file is damaged, holds code (which is not run), or is a training
            checkpoint. For a checkpoint, the message says where its weights are.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weight file {path}")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if data[8:9] == b"{":  # after the length of the JSON header
        try:
            tensors = load(data)
        except (SafetensorError, KeyError) as error:  # KeyError: a number type that torch lacks
            raise _damaged(path, error) from None
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return WeightFile(path, digest, tensors, _description(header.get("__metadata__") or {}))
    if data.startswith((b"PK", b"\x80")):  # a zip archive or a pickle, the two formats of torch
        content = load_tensors(path, io.BytesIO(data))
        _refuse_checkpoint(path, content)
        return WeightFile(path, digest, content, None)
    return WeightFile(path, digest, data, None)


def read_description(path: str | Path) -> Description | None:
    """The description in a safetensors file; None if another program wrote the file. Reads no tensors.

    Raises:
        ValueError: if the file is truncated or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return _description(file.metadata() or {})
    except SafetensorError as error:
        raise _damaged(path, error) from None


def architecture_of(file: WeightFile, kind: str) -> dict[str, Any]:
    """The architecture in a file of this project. The file must be of this kind.

    Args:
        file: a file that has been read.
        kind: a key of `KINDS`.

    Raises:
        ValueError: if the file is of the other kind, or not of this project.
    """
    if file.description is None:
        is_matlab = isinstance(file.content, bytes) and file.content.startswith(b"MATLAB")  # another system's
        found = "was not written by this project" if file.is_readable or is_matlab else UNREADABLE
        raise ValueError(f"{file.path} {found}; {KINDS[kind]} is needed here")
    if file.description.kind != kind:
        raise ValueError(f"{file.path} holds {KINDS[file.description.kind]}, but {KINDS[kind]} is needed here")
    return file.description.architecture


@contextmanager
def describing(path: str | Path) -> Iterator[None]:
    """Wraps building a network from the architecture in a weight file. An error there is an error of the file.

    Raises:
        ValueError: if the architecture has unknown, missing, wrongly typed or impossible entries; names the file.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # the last one from torch
        raise ValueError(f"{path} describes a network that this version cannot build ({error})") from None


def load_exactly(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a state dict whose keys and shapes are exactly those of the module.

    Raises:
        ValueError: if a tensor is missing, unknown, of another shape or kind of number, or if a number in it is not
            finite; names the file and the first such tensor.
    """
    expected = module.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise ValueError(f"{path} {'lacks' if name not in tensors else 'has an unknown'} tensor '{name}'")
        if expected[name].shape != tensors[name].shape:
            raise ValueError(
                f"{path}: tensor '{name}' is {tuple(tensors[name].shape)}, "
                f"the network needs {tuple(expected[name].shape)}"
            )
        if expected[name].is_floating_point() != tensors[name].is_floating_point():
            raise ValueError(f"{path}: tensor '{name}' is {_dtype(tensors[name])}, not {_dtype(expected[name])}")
        if tensors[name].is_floating_point() and not _is_finite(tensors[name]):
            raise ValueError(f"{path}: tensor '{name}' has numbers that are not finite; the file is of no use")
    module.load_state_dict(tensors)


def _is_finite(tensor: Tensor) -> bool:
    wide = tensor.float() if tensor.itemsize == 1 else tensor  # torch cannot ask float8
    return bool(wide.isfinite().all())


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _halved(name: str, tensor: Tensor, path: str | Path) -> Tensor:
    """A tensor as float16, if it has floating-point numbers. Raises ValueError if one becomes infinite by that."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if (half.isinf() & ~tensor.isinf()).any():
        raise ValueError(
            f"{path} was not written: tensor '{name}' reaches {tensor.abs().max():.3g}, and float16 ends at "
            f"{torch.finfo(torch.float16).max:.0f}; keep the float32 file"
        )
    return half


def _description(metadata: Mapping[str, str]) -> Description | None:
    """The description that `save_weights` wrote; None if another program wrote the file."""
    try:
        description = json.loads(metadata.get(METADATA_KEY, "null"))
    except json.JSONDecodeError:
        return None
    is_ours = (
        isinstance(description, dict)
        and description.get("kind") in list(KINDS)  # in a list, because the kind may be unhashable
        and isinstance(description.get("architecture"), dict)
    )
    return Description(description["kind"], description["architecture"]) if is_ours else None


def _refuse_checkpoint(path: Path, content: object) -> None:
    if isinstance(content, dict) and "format_version" in content:
        name = {"cqe": "encoder", "restorer": "restorer"}.get(str(content.get("stage")), "a file ending in ")
        raise ValueError(f"{path} is a training checkpoint; the weights to use lie beside it, in {name}{SUFFIX}")


def _damaged(path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read, it is truncated or no safetensors file ({error})")
