"""Networks of spandrel's, small and untrained, saved as their authors save them and opened through our seam."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.FBCNN import FBCNN
from spandrel.architectures.GRL import GRL
from spandrel.architectures.NAFNet import NAFNet
from spandrel.architectures.SCUNet import SCUNet
from spandrel.architectures.SwinIR import SwinIR
from torch import Tensor, nn

from restoration.tiling import restore_image, restore_tensor
from restoration.weights import open_weights
from tests.synthetic import noise

KIND = "a network that spandrel loads (FBCNN, SwinIR, SCUNet, NAFNet, GRL and others)"


def fbcnn(channels: int) -> nn.Module:
    return FBCNN(in_nc=channels, out_nc=channels, nc=[4, 4, 8, 512], nb=2)  # 512 is fixed where it reads the quality


def swinir(channels: int) -> nn.Module:
    """For JPEG: windows of 7 pixels, and a range of 255 that the file does not tell."""
    return SwinIR(
        img_size=28, in_chans=channels, embed_dim=8, depths=[2], num_heads=[2], window_size=7, mlp_ratio=2, upscale=1,
        img_range=255.0, upsampler="", resi_connection="1conv",
    )  # fmt: skip


def scunet(channels: int) -> nn.Module:
    return SCUNet(in_nc=channels, config=[1] * 7)


def nafnet(channels: int) -> nn.Module:
    return NAFNet(img_channel=channels, width=4, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])


def grl(channels: int) -> nn.Module:
    return GRL(
        img_size=32, in_channels=channels, out_channels=channels, embed_dim=8, upscale=1, upsampler="", depths=[1],
        num_heads_window=[1], num_heads_stripe=[1], window_size=8, stripe_size=[8, 8], stripe_groups=[None, None],
        stripe_shift=True, mlp_ratio=2, anchor_one_stage=True, anchor_window_down_factor=4, conv_type="1conv",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "channels", "title", "size", "tiling", "wrapper"),
    [
        (fbcnn, 1, "FBCNN", (21, 30), "fine", None),
        (fbcnn, 3, "FBCNN", (24, 16), "fine", "safetensors"),
        (swinir, 1, "SwinIR", (17, 24), "discouraged", "params"),
        (swinir, 3, "SwinIR", (28, 28), "discouraged", None),
        (scunet, 3, "SCUNet", (41, 50), "discouraged", None),
        (nafnet, 3, "NAFNet", (19, 23), "fine", "params"),
        (grl, 3, "GRL", (32, 40), "fine", "state_dict"),
    ],
)
def test_a_network_gives_what_its_own_code_gives(
    tmp_path: Path, build: Callable, channels: int, title: str, size: tuple[int, int], tiling: str, wrapper: str | None
) -> None:
    network, x = build(channels).eval(), torch.rand(1, channels, *size)
    tensors = network.state_dict()
    if wrapper == "safetensors":
        save_file(tensors, tmp_path / "net.pth")
    else:
        torch.save({wrapper: tensors} if wrapper else tensors, tmp_path / "net.pth")
    opened = open_weights(tmp_path / "net.pth", needs="network")
    assert (opened.kind, opened.network.title, opened.network.channels) == (KIND, title, channels)
    assert (opened.network.tiling, opened.network.encoder, opened.network.as_published) == (tiling, None, True)
    with torch.inference_mode():
        answer = network(x)
        expected = (answer if isinstance(answer, Tensor) else answer[0]).clamp(0, 1)  # FBCNN tells the quality too
        torch.testing.assert_close(opened.network(x), expected, rtol=0, atol=1e-5)
        assert opened.network(torch.rand(1, channels, 1, 3)).shape == (1, channels, 1, 3)


def test_images_are_measured_whole_if_tiles_are_discouraged(tmp_path: Path) -> None:
    torch.save(swinir(1).state_dict(), tmp_path / "swinir.pth")
    network, seen = open_weights(tmp_path / "swinir.pth").network, []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    restore_image(network, noise(130, 100), tile_px=96)
    restore_tensor(network, torch.rand(1, 1, 130, 20), tile_px=96)  # as photos are
    assert seen[0] == (130, 100) and len(seen) > 2
    seen.clear()
    network.tiling = "never"
    restore_tensor(network, torch.rand(1, 1, 130, 20), tile_px=96)
    assert seen == [(130, 20)]


def test_networks_for_other_tasks_and_damaged_files_are_one_line(tmp_path: Path) -> None:
    whole = nafnet(1).state_dict()
    files = {
        "enlarges": Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4).state_dict(),
        "lacks": {name: tensor for name, tensor in whole.items() if name != "encoders.0.0.conv1.bias"},
        "two": nafnet(2).state_dict(),
    }
    messages = {
        "enlarges": r"enlarges\.pth holds .*Compact.* for another task \(SR, x4\)",
        "lacks": r"lacks\.pth looks like NAFNet, but spandrel cannot load it \(.*encoders\.0\.0\.conv1\.bias",
        "two": r"two\.pth holds NAFNet for 2 channels; networks for 1 or 3 can be used",
    }
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=messages[name]) as caught:
            open_weights(tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)
