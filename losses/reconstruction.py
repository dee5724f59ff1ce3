"""Stage 2's loss: mean absolute error of pixels and of Fourier coefficients."""

import torch
from torch import Tensor


def mae_loss(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error over all elements, in units of the full pixel range. Source: Eq. (8) of the paper.

    Args:
        restored: (N, C, H, W).
        clean: same shape.
    """
    return (restored.float() - clean.float()).abs().mean()


def fft_loss(restored: Tensor, clean: Tensor, *, norm: str = "backward") -> Tensor:
    """Mean absolute difference of the real and imaginary parts of the 2-D Fourier transforms.

    Args:
        restored: (N, C, H, W). The transform runs in float32: half precision would overflow.
        clean: same shape.
        norm: scaling of the transform, as `torch.fft.fft2` names it. The paper's is "backward" (no scaling), after Cho
            et al.: the loss then grows with the side of the patch. With "ortho" it does not.

    Source: Eq. (9) of the paper; Cho et al., MIMO-UNet (ICCV 2021).
    """
    # Not rfft2: it drops the symmetric half, and the first and last column would count half as much as the others.
    difference = (restored.float() - clean.float()).contiguous()  # channels-last would be copied by the transform
    spectrum = torch.fft.fft2(difference, norm=norm)  # linear: one transform of the difference
    return torch.view_as_real(spectrum).abs().mean()


def reconstruction_loss(
    restored: Tensor, clean: Tensor, *, fft_weight: float = 0.1, fft_norm: str = "backward"
) -> dict:
    """Eq. (10): total = mae + fft_weight * fft; the named terms, each a scalar tensor.

    Raises:
        ValueError: if the shapes disagree.
    """
    if restored.shape != clean.shape:
        raise ValueError(
            f"restored and clean must have one shape, got {tuple(restored.shape)} and {tuple(clean.shape)}"
        )
    mae = mae_loss(restored, clean)
    fft = fft_loss(restored, clean, norm=fft_norm)
    return {"total": mae + fft_weight * fft, "mae": mae, "fft": fft}
