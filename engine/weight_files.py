"""Published weights: safetensors files whose metadata says what they are and how to build the network."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.files import written_whole

METADATA_KEY = "description"


def save_weights(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    architecture: Mapping[str, Any],
    is_half: bool = False,
) -> None:
    """Write tensors and what they are, so that `path` is either the old file or the whole new one.

    Args:
        path: a `.safetensors` file.
        tensors: a network's state dict.
        kind: "encoder" or "restorer".
        architecture: what is needed to build the network again; plain JSON values.
        is_half: store floating-point tensors as float16; `read_weights` gives float32 back.
    """
    stored = {
        name: (tensor.half() if is_half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    description = json.dumps({"kind": kind, "architecture": dict(architecture)})
    with written_whole(path) as working:
        working.touch()  # with the user's usual permissions; save_file alone makes it private
        mode = working.stat().st_mode
        save_file(stored, working, metadata={METADATA_KEY: description})
        working.chmod(mode)


def read_weights(path: str | Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a weight file (floating-point ones as float32) and its architecture.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is truncated, not ours, or of another kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weight file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            description = _description(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read, it is truncated or no safetensors file ({error})") from None
    if description is None:
        raise ValueError(f"{path} does not say what network it is for: it was not written by this project")
    if description["kind"] != kind:
        raise ValueError(f"{path} holds {_WITH_ARTICLE[description['kind']]}, but {_WITH_ARTICLE[kind]} is needed here")
    floats = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return floats, description["architecture"]


@contextmanager
def describing(path: str | Path) -> Iterator[None]:
    """Around building a network from a weight file's architecture: what does not fit is the file's, not the code's.

    Raises:
        ValueError: naming the file, where the architecture has unknown, missing or ill-typed entries.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} describes a network that this version cannot build ({error})") from None


def load_exactly(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a state dict with every key and shape as expected, or say in one line which is not.

    Raises:
        ValueError: naming the file and the first key that is missing, too many, or of another shape.
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
    module.load_state_dict(tensors)


def _description(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """What `save_weights` wrote about the network; None where another program wrote the file."""
    try:
        description = json.loads(metadata.get(METADATA_KEY, "null"))
    except json.JSONDecodeError:
        return None
    is_ours = (
        isinstance(description, dict)
        and description.get("kind") in list(_WITH_ARTICLE)  # a list: the kind may be anything, unhashable too
        and isinstance(description.get("architecture"), dict)
    )
    return description if is_ours else None


_WITH_ARTICLE = {"encoder": "a quality encoder (stage 1)", "restorer": "a restoration network (stage 2)"}
