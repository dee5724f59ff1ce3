"""A restoration network together with its encoder and weights, by name or by file.

The one module of this package that knows the encoder's: a weight file holds both networks.
"""

from pathlib import Path

from cqe.encoder import QualityEncoder
from cqe.quality import QualityProbe, QualityReader
from cqe.weights import encoder_architecture, is_encoder, load_encoder, load_probe, with_probe, without_probe
from engine.checkpoint import load_tensors
from engine.weight_files import describing, load_exactly, read_weights, save_weights
from restoration.networks import NetworkConfig, build_restorer
from restoration.networks.restorer import Restorer
from restoration.released import is_released, load_released

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


def load_quality_encoder(name_or_path: str | Path, *, channels: int | None = None) -> QualityEncoder:
    """The quality encoder, in eval mode, of an encoder's or a restorer's file or name. Errors as `load_restorer`."""
    path = find_weights(name_or_path)
    if is_encoder(path):
        return load_encoder(path, channels=channels)
    return load_restorer(path, channels=channels).encoder.network


def load_reader(name_or_path: str | Path, restorer: Restorer) -> QualityReader | None:
    """A reader of JPEG qualities that uses the restorer's encoder; None if its file holds no probe.

    Args:
        name_or_path: what the restorer was loaded from.
        restorer: on the device to read on.
    """
    probe = find_probe(name_or_path)
    return None if probe is None else QualityReader(restorer.encoder.network, probe)


def find_probe(name_or_path: str | Path) -> QualityProbe | None:
    """The probe in the file of an encoder or a restorer; None where there is none. Errors as `load_restorer`."""
    path = find_weights(name_or_path)
    return load_probe(path) if path.suffix.lower() == SUFFIX else None


def save_restorer(
    restorer: Restorer,
    config: NetworkConfig,
    path: str | Path,
    *,
    probe: QualityProbe | None = None,
    is_half: bool = False,
) -> None:
    """Write a network, its encoder and the encoder's probe to one `.safetensors` file, atomically.

    Args:
        restorer, config: the network, and what it was built from.
        path: the file.
        probe: of this very encoder; None writes none.
        is_half: store float16. For the probe that is enough: it moves estimates by some hundredths of a point.
    """
    architecture = {
        "channels": restorer.channels,
        "network": config.described(),
        "encoder": encoder_architecture(restorer.encoder.network),
    }
    tensors = with_probe(restorer.state_dict(), probe)
    save_weights(path, tensors, kind="restorer", architecture=architecture, is_half=is_half)


def store_half(source: str | Path, target: str | Path) -> None:
    """Write a network's weight file, its probe included, again with float16 numbers, half the size.

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
    names = sorted(file.stem for file in WEIGHTS_DIR.glob(f"*{SUFFIX}"))
    raise FileNotFoundError(
        f"no weights '{name_or_path}': neither a file nor one of the names {', '.join(names) or '(none)'}"
    )


def _load_ours(path: Path) -> Restorer:
    tensors, architecture = read_weights(path, kind="restorer")
    with describing(path):
        network = NetworkConfig.of(**architecture["network"])
        restorer = build_restorer(network, QualityEncoder(**architecture["encoder"]), architecture["channels"])
    load_exactly(restorer, without_probe(tensors), path)
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
