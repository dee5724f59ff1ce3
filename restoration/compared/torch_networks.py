"""RNAN and RDN from state dicts with their authors' names; the sizes of the networks follow from the tensors.

RNAN: yulunzhang/RNAN, `RNAN_CAR_Y_F64G10P48L2N10.pt` and so on. RDN: as EDSR-PyTorch names it, without enlargement: its
last layer is `UPNet.0`.
"""

from collections.abc import Mapping

from torch import Tensor

from engine.weight_files import WeightFile, describing, load_exactly
from restoration.networks.rdn import RDN
from restoration.networks.restorer import Restorer
from restoration.networks.rnan import RNAN


def open_rnan(file: WeightFile) -> RNAN | None:
    """RNAN of any width and number of groups. Arguments and errors as in `restoration.compared`."""
    tensors = _state_dict(file, "head.0.weight", "body_nl_low.0.body.1.weight", "body_nl_high.0.body.1.weight")
    if tensors is None:
        return None
    width, channels = tensors["head.0.weight"].shape[:2]
    # `body` has the local groups, then one convolution.
    return _loaded(RNAN, file, channels, width=width, groups=2 + _count(tensors, "body") - 1)


def open_rdn(file: WeightFile) -> RDN | None:
    """RDN of any size, that enlarges nothing. Arguments and errors as in `restoration.compared`."""
    tensors = _state_dict(file, "SFENet1.weight", "RDBs.0.LFF.weight", "RDBs.0.convs.0.conv.0.weight", "GFF.1.weight")
    if tensors is None:
        return None
    if "UPNet.2.weight" in tensors:
        raise ValueError(f"{file.path} holds an RDN that enlarges images; one for compression artifacts is needed")
    width, channels = tensors["SFENet1.weight"].shape[:2]
    growth = tensors["RDBs.0.convs.0.conv.0.weight"].shape[0]
    blocks, layers = _count(tensors, "RDBs"), _count(tensors, "RDBs.0.convs")
    return _loaded(RDN, file, channels, width=width, growth=growth, blocks=blocks, layers=layers)


def _state_dict(file: WeightFile, *names: str) -> Mapping[str, Tensor] | None:
    """The tensors of a file that has at least these, with two axes or more; None for any other file."""
    content = file.content
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        return None
    return content if all(name in content and content[name].ndim > 1 for name in names) else None


def _loaded(network_class: type[Restorer], file: WeightFile, channels: int, **options: int) -> Restorer:
    with describing(file.path):
        network = network_class(channels, **options)
    load_exactly(network, file.content, file.path)
    return network


def _count(tensors: Mapping[str, Tensor], row: str) -> int:
    """The number of modules in a row: of different numbers that follow its name."""
    return len({name.removeprefix(f"{row}.").split(".")[0] for name in tensors if name.startswith(f"{row}.")})
