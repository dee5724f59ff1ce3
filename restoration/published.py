"""A restoration network together with its encoder and weights, by name or by file.

The one module of this package that knows the encoder's: a weight file holds both networks.
"""

from pathlib import Path

from cqe.encoder import QualityEncoder
from cqe.published import encoder_architecture
from engine.checkpoint import load_tensors
from engine.weights import describing, load_exactly, read_weights, save_weights
from restoration.networks import NetworkConfig, build_restorer
from restoration.released import is_released, load_released
from restoration.restorer import Restorer

WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "weights"
SUFFIX = ".safetensors"


def published_names() -> list[str]:
    """Names of the restoration networks that come with the project."""
    return sorted(path.stem for path in WEIGHTS_DIR.glob(f"*{SUFFIX}") if not path.stem.startswith("cqe_"))


def load_restorer(name_or_path: str | Path, *, channels: int | None = None) -> Restorer:
    """A trained network in eval mode.

    Args:
        name_or_path: a name from `weights/`, a `.safetensors` file of stage 2, or the authors' `.pth` file.
        channels: refuse a network for another number of image channels; None takes any.

    Raises:
        FileNotFoundError: if there is no such name or file.
        ValueError: if the file is damaged, holds code, is of the other stage, or is for other channels.
    """
    path = find_weights(name_or_path)
    restorer = _load_ours(path) if path.suffix.lower() == SUFFIX else _load_released_file(path)
    if channels is not None and restorer.channels != channels:
        raise ValueError(
            f"{path} restores {_KINDS[restorer.channels]} images, but {_KINDS[channels]} ones were asked for; "
            f"change --channels or --weights"
        )
    return restorer.eval()


def save_restorer(restorer: Restorer, config: NetworkConfig, path: str | Path, *, is_half: bool = False) -> None:
    """Write a network and its encoder to one `.safetensors` file, atomically; `is_half` stores float16."""
    architecture = {
        "channels": restorer.channels,
        "network": config.described(),
        "encoder": encoder_architecture(restorer.encoder.network),
    }
    save_weights(path, restorer.state_dict(), kind="restorer", architecture=architecture, is_half=is_half)


def store_half(source: str | Path, target: str | Path) -> None:
    """Write a network's weight file again with float16 numbers, half the size.

    Raises:
        FileNotFoundError, ValueError: as `load_restorer`; and if either is no `.safetensors` file.
    """
    if Path(target).suffix != SUFFIX:
        raise ValueError(f"{target} must end in {SUFFIX}, by which weight files are told apart")
    if Path(source).suffix.lower() != SUFFIX:
        raise ValueError(f"{source} is no {SUFFIX} file; give restorer{SUFFIX} of a stage 2 run")
    tensors, architecture = read_weights(source, kind="restorer")
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    save_weights(target, tensors, kind="restorer", architecture=architecture, is_half=True)


def find_weights(name_or_path: str | Path) -> Path:
    """The file of a published name, or the file itself. Raises FileNotFoundError, listing the names."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.name == str(name_or_path) and (WEIGHTS_DIR / f"{path.name}{SUFFIX}").is_file():
        return WEIGHTS_DIR / f"{path.name}{SUFFIX}"
    raise FileNotFoundError(
        f"no weights '{name_or_path}': neither a file nor one of the names {', '.join(published_names()) or '(none)'}"
    )


def _load_ours(path: Path) -> Restorer:
    tensors, architecture = read_weights(path, kind="restorer")
    with describing(path):
        network = NetworkConfig.of(**architecture["network"])
        restorer = build_restorer(network, QualityEncoder(**architecture["encoder"]), architecture["channels"])
    load_exactly(restorer, tensors, path)
    return restorer


def _load_released_file(path: Path) -> Restorer:
    tensors = load_tensors(path)
    if isinstance(tensors, dict) and "format_version" in tensors:
        raise ValueError(f"{path} is a training checkpoint; the weights to use lie beside it, in restorer{SUFFIX}")
    if not isinstance(tensors, dict) or not is_released(tensors):
        raise ValueError(f"{path} is neither a {SUFFIX} file of this project nor one of the authors' weight files")
    try:
        return load_released(tensors, QualityEncoder)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


_KINDS = {1: "luma (1-channel)", 3: "colour (3-channel)"}
