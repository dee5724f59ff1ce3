"""The reconstruction loss: closed forms, a Fourier transform by matrices in double precision, gradients."""

import math

import pytest
import torch
from torch import Tensor

from losses.reconstruction import fft_loss, mae_loss, reconstruction_loss

SHAPE = (2, 3, 5, 6)


def slow_fft_loss(restored: Tensor, clean: Tensor, norm: str = "backward") -> Tensor:
    """Both images transformed on their own by cosine and sine matrices, then compared: real parts, imaginary parts."""
    height, width = restored.shape[-2:]

    def parts(image: Tensor) -> Tensor:
        rows, columns = (
            2 * math.pi * torch.outer(torch.arange(side), torch.arange(side)).double() / side
            for side in (height, width)
        )
        cosines, sines = image @ columns.cos(), image @ columns.sin()  # exp(-iy) = cos y - i sin y
        real = rows.cos() @ cosines - rows.sin() @ sines
        imaginary = -(rows.cos() @ sines + rows.sin() @ cosines)
        return torch.stack([real, imaginary])  # (2, N, C, H, W)

    scale = {"backward": 1, "ortho": math.sqrt(height * width), "forward": height * width}[norm]
    return (parts(restored) - parts(clean)).abs().mean() / scale


@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
def test_fft_loss_agrees_with_a_transform_by_matrices(norm: str) -> None:
    restored, clean = torch.rand(SHAPE), torch.rand(SHAPE)
    expected = slow_fft_loss(restored.double(), clean.double(), norm)
    torch.testing.assert_close(fft_loss(restored, clean, norm=norm), expected.float())


@pytest.mark.parametrize("norm", ["backward", "ortho"])
def test_fft_loss_of_an_impulse(norm: str) -> None:
    # An impulse of height a at (y, x) has |X| = a everywhere: a |cos| and a |sin| of the phase 2 pi (uy/H + vx/W).
    clean, height, width = torch.zeros(1, 1, 8, 12), 8, 12
    scale = math.sqrt(height * width) if norm == "ortho" else 1
    for y, x in [(0, 0), (3, 5)]:
        restored = clean.clone()
        restored[0, 0, y, x] = 0.7
        phases = [2 * math.pi * (u * y / height + v * x / width) for u in range(height) for v in range(width)]
        expected = (
            0.7 * sum(abs(math.cos(phase)) + abs(math.sin(phase)) for phase in phases) / (2 * len(phases)) / scale
        )
        assert fft_loss(restored, clean, norm=norm).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [4, 32])
def test_losses_of_a_constant_offset(size: int) -> None:
    clean = torch.rand(2, 1, size, size)
    restored = clean + 0.25
    assert mae_loss(restored, clean).item() == pytest.approx(0.25, rel=1e-5)
    # All of it is in one of 2 H W numbers, c H W. The offset is inexact by float32's rounding of a sum near 1.
    assert fft_loss(restored, clean).item() == pytest.approx(0.25 / 2, rel=1e-3)
    assert fft_loss(restored, clean, norm="ortho").item() == pytest.approx(0.25 / 2 / size, rel=1e-3)


def test_equal_images_lose_nothing_and_scale_and_order_act_as_in_a_norm() -> None:
    restored, clean = torch.rand(SHAPE), torch.rand(SHAPE)
    for loss in (mae_loss, fft_loss):
        assert loss(clean, clean).item() == 0
        torch.testing.assert_close(loss(clean, restored), loss(restored, clean))
        torch.testing.assert_close(loss(3 * restored, 3 * clean), 3 * loss(restored, clean))


def test_mae_and_its_gradient_in_closed_form() -> None:
    restored, clean = torch.rand(SHAPE, requires_grad=True), torch.rand(SHAPE)
    loss = mae_loss(restored, clean)
    expected = sum(abs(a - b) for a, b in zip(restored.flatten().tolist(), clean.flatten().tolist(), strict=True))
    assert loss.item() == pytest.approx(expected / clean.numel(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, restored)
    torch.testing.assert_close(gradient, (restored - clean).detach().sign() / clean.numel())


def test_fft_gradient_agrees_with_the_slow_ones() -> None:
    restored, clean = torch.rand(SHAPE, requires_grad=True), torch.rand(SHAPE)
    exact = restored.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(slow_fft_loss(exact, clean.double()), exact)
    (gradient,) = torch.autograd.grad(fft_loss(restored, clean), restored)
    # The loss computes in float32, so finite differences would see rounding; the exact derivative is compared instead.
    # It is a sum of 60 terms of at most 1/360, each exact to 6e-8 of itself. Imaginary parts that are zero by symmetry
    # have no sign; rounding may give them one, which does not matter: it is multiplied by sin(pi k) = 0.
    torch.testing.assert_close(gradient, expected.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    restored, clean = torch.rand(SHAPE).to(dtype), torch.rand(SHAPE)
    terms = reconstruction_loss(restored, clean)
    assert all(term.dtype == torch.float32 for term in terms.values())
    torch.testing.assert_close(terms, reconstruction_loss(restored.float(), clean), rtol=0, atol=0)


def test_half_precision_does_not_overflow() -> None:
    white = torch.ones(1, 1, 256, 256, dtype=torch.float16)  # its sum, 65536, is beyond float16
    assert fft_loss(white, torch.zeros_like(white)).item() == pytest.approx(0.5)


@pytest.mark.parametrize(("weight", "norm"), [(0.1, "backward"), (0.0, "backward"), (2.5, "ortho")])
def test_total_is_the_weighted_sum_of_the_named_terms(weight: float, norm: str) -> None:
    restored, clean = torch.rand(SHAPE, requires_grad=True), torch.rand(SHAPE)
    terms = reconstruction_loss(restored, clean, fft_weight=weight, fft_norm=norm)
    assert list(terms) == ["total", "mae", "fft"]
    torch.testing.assert_close(terms["mae"], mae_loss(restored, clean))
    torch.testing.assert_close(terms["fft"], fft_loss(restored, clean, norm=norm))
    torch.testing.assert_close(terms["total"], terms["mae"] + weight * terms["fft"])
    terms["total"].backward()
    assert restored.grad.isfinite().all()


def test_the_papers_weight_is_the_default() -> None:
    restored, clean = torch.rand(SHAPE), torch.rand(SHAPE)
    torch.testing.assert_close(
        reconstruction_loss(restored, clean), reconstruction_loss(restored, clean, fft_weight=0.1, fft_norm="backward")
    )


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have one shape, got \(2, 1, 4, 4\) and \(1, 1, 4, 4\)"):
        reconstruction_loss(torch.rand(2, 1, 4, 4), torch.rand(1, 1, 4, 4))
