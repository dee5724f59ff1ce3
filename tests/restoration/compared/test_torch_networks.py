"""RNAN and RDN from state dicts with their authors' names, against the same arithmetic written out step by step."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from restoration.networks import rnan
from restoration.networks.rdn import RDN
from restoration.networks.restorer import Restorer
from restoration.networks.rnan import RNAN
from restoration.tiling import restore_tensor
from restoration.weights import open_weights

StateDict = dict[str, Tensor]


def randomised(network: Restorer) -> StateDict:
    """Weights that keep the size of what they filter; the zeros that training starts from are replaced too."""
    for name, parameter in network.named_parameters():
        std = 0.1 if name.endswith("bias") else 0.8 / parameter[0].numel() ** 0.5
        torch.nn.init.normal_(parameter, std=std)
    return network.state_dict()


def conv(weights: StateDict, name: str, x: Tensor, **options: int) -> Tensor:
    taps = weights[f"{name}.weight"]
    return F.conv2d(x, taps, weights[f"{name}.bias"], **({"padding": taps.shape[-1] // 2} | options))


def rnan_block(weights: StateDict, name: str, x: Tensor) -> Tensor:
    return x + conv(weights, f"{name}.body.2", conv(weights, f"{name}.body.0", x).relu())


def rnan_nonlocal(weights: StateDict, name: str, x: Tensor) -> Tensor:
    """Pair by pair: the weight of query q and key k is exp(q.k) over the sum of all queries' with this key."""
    queries, keys, values = (conv(weights, f"{name}.{part}", x)[0].flatten(1).T for part in ("theta", "phi", "g"))
    mixed = torch.zeros_like(values)
    for key, value in zip(keys, values, strict=True):
        likeness = (queries * key).sum(dim=1).exp()
        mixed += (likeness / likeness.sum())[:, None] * value
    return x + conv(weights, f"{name}.W", mixed.T.reshape(1, -1, *x.shape[-2:]))


def rnan_group(weights: StateDict, name: str, x: Tensor, *, is_nonlocal: bool) -> Tensor:
    inner = f"{name}.body.0"
    x = rnan_block(weights, f"{inner}.RA_RB1.0", x)
    trunk = rnan_block(weights, f"{inner}.RA_TB.0.body.1", rnan_block(weights, f"{inner}.RA_TB.0.body.0", x))
    mask, before = f"{inner}.RA_MB.0", x
    if is_nonlocal:
        before = rnan_nonlocal(weights, f"{mask}.MB_RB1.0", x)
    before = rnan_block(weights, f"{mask}.MB_RB1.{int(is_nonlocal)}", before)
    half = conv(weights, f"{mask}.MB_Down.0", before, stride=2, padding=1)
    half = rnan_block(weights, f"{mask}.MB_RB2.1", rnan_block(weights, f"{mask}.MB_RB2.0", half))
    up = F.conv_transpose2d(half, weights[f"{mask}.MB_Up.0.weight"], weights[f"{mask}.MB_Up.0.bias"], 2, 2)
    mixed = rnan_block(weights, f"{mask}.MB_RB3.0", before + up)
    x = x + trunk * conv(weights, f"{mask}.MB_1x1conv.0", mixed).sigmoid()
    x = rnan_block(weights, f"{inner}.RA_tail.1", rnan_block(weights, f"{inner}.RA_tail.0", x))
    return conv(weights, f"{name}.body.1", x)


def rnan_slowly(weights: StateDict, levels: Tensor) -> Tensor:
    """A part of an image, in grey levels; of two non-local groups and one local."""
    x = conv(weights, "head.0", levels)
    x = rnan_group(weights, "body_nl_low.0", x, is_nonlocal=True)
    x = conv(weights, "body.1", rnan_group(weights, "body.0", x, is_nonlocal=False))
    x = rnan_group(weights, "body_nl_high.0", x, is_nonlocal=True)
    return levels + conv(weights, "tail.0", x)


def rdn_slowly(weights: StateDict, levels: Tensor, *, blocks: int, layers: int) -> Tensor:
    shallow = conv(weights, "SFENet1", levels)
    trunk, outputs = conv(weights, "SFENet2", shallow), []
    for block in range(blocks):
        maps = [trunk]
        for layer in range(layers):
            maps.append(conv(weights, f"RDBs.{block}.convs.{layer}.conv.0", torch.cat(maps, 1)).relu())
        trunk = trunk + conv(weights, f"RDBs.{block}.LFF", torch.cat(maps, 1))
        outputs.append(trunk)
    fused = conv(weights, "GFF.1", conv(weights, "GFF.0", torch.cat(outputs, 1)))
    return levels + conv(weights, "UPNet.0", fused + shallow)


def test_rnan_is_its_authors_network(tmp_path: Path) -> None:
    weights = randomised(RNAN(1, width=4, groups=3))
    weights["head.0.weight"] /= 255  # the likenesses stay small enough for exp
    torch.save(weights, tmp_path / "RNAN_CAR_Y_F64G10P48L2N10.pt")
    opened = open_weights(tmp_path / "RNAN_CAR_Y_F64G10P48L2N10.pt", needs="network")
    assert (opened.kind, opened.network.channels, opened.network.title) == ("RNAN (.pt)", 1, "RNAN")
    x = torch.rand(1, 1, 16, 20)
    with torch.no_grad():
        found = opened.network.train()(x)  # at once
        torch.testing.assert_close(255 * found, rnan_slowly(weights, 255 * x), rtol=0, atol=1e-3)


def test_rnan_sees_parts_of_fewer_than_10000_pixels_as_its_authors_code_does(tmp_path: Path) -> None:
    weights = randomised(RNAN(1, width=2, groups=3))
    weights["head.0.weight"] /= 255
    torch.save(weights, tmp_path / "rnan.pt")
    network, x = open_weights(tmp_path / "rnan.pt").network, torch.rand(1, 1, 49, 66)
    # Halves of 24 and 33 pixels, down to multiples of 4, plus 12: parts of 36x44, at the four corners.
    with torch.no_grad():
        for rows, columns, (top, left) in (
            (slice(0, 24), slice(0, 33), (0, 0)),
            (slice(24, 49), slice(33, 66), (13, 22)),
        ):
            part = x[..., top : top + 36, left : left + 44]
            expected = rnan_slowly(weights, 255 * part)[..., rows.start - top : rows.stop - top, columns.start - left :]
            found = 255 * restore_tensor(network, x, tile_px=96)[..., rows, columns]  # it is never cut into tiles
            torch.testing.assert_close(found, expected[..., : found.shape[-1]], rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (30, 21), (81, 103)])
def test_rnan_takes_any_size(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnan, "PART_PIXELS", 2000)
    network, seen = RNAN(1, width=2, groups=2).eval(), []
    network.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0, 0].numel()))
    with torch.no_grad():
        assert network(torch.rand(1, 1, *size)).shape == (1, 1, *size)
    assert max(seen) < 2000


def test_rdn_is_its_authors_network(tmp_path: Path) -> None:
    weights = randomised(RDN(1, width=6, growth=5, blocks=3, layers=2))
    torch.save(weights, tmp_path / "rdn.pt")
    opened = open_weights(tmp_path / "rdn.pt", needs="network")
    assert (opened.kind, opened.network.channels, opened.network.title) == ("RDN (.pt)", 1, "RDN")
    x = torch.rand(1, 1, 13, 17)
    with torch.no_grad():
        expected = rdn_slowly(weights, 255 * x, blocks=3, layers=2)
        torch.testing.assert_close(255 * opened.network(x), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("network", "change", "message"),
    [
        (RNAN(1, width=4, groups=2), {"tail.0.bias": None}, r"x\.pt lacks tensor 'tail\.0\.bias'"),
        (RNAN(1, width=4, groups=2), {"more": torch.zeros(1)}, r"x\.pt has an unknown tensor 'more'"),
        (RDN(1, width=4, growth=4, blocks=1, layers=1), {"GFF.0.bias": torch.zeros(5)}, r"'GFF\.0\.bias' is \(5,\)"),
        (
            RDN(1, width=4, growth=4, blocks=1, layers=1),
            {"UPNet.2.weight": torch.zeros(1, 4, 3, 3)},
            r"x\.pt holds an RDN that enlarges images",
        ),
    ],
)
def test_files_that_only_resemble_them_are_one_line(
    tmp_path: Path, network: Restorer, change: dict, message: str
) -> None:
    tensors = network.state_dict() | change
    torch.save({name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message):
        open_weights(tmp_path / "x.pt")
