"""The probe against explicit features and leaving images out; its spread against noise of known size; the reader."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from torch import Tensor

from cqe.encoder import QualityEncoder
from cqe.fitting import fit_probe, read_coded
from cqe.quality import CROP_PX, NOTHING_KNOWN, QualityProbe, QualityReader, _spread_crops
from cqe.weights import copy_with_probe, encoder_in, save_encoder
from data.color import luma
from data.jpeg import jpeg_roundtrip
from engine.weight_files import read_weight_file
from tests.synthetic import picture


def rows_of(num_images: int, num_rows: int, size: int) -> tuple[Tensor, Tensor]:
    """Representations, and the image of each; several rows an image."""
    return torch.randn(num_rows, size) * torch.arange(1, size + 1) + 3, torch.arange(num_rows) % num_images


@pytest.fixture
def encoder() -> QualityEncoder:
    return QualityEncoder(1, width=8, remove_local_mean=True).eval()


@pytest.fixture
def probe(encoder: QualityEncoder) -> QualityProbe:
    """Any probe that answers differently to different crops, within 1..100."""
    probe = QualityProbe(encoder.representation_size)
    for name in ("linear", "quadratic", "shared_error", "own_error"):
        getattr(probe, name).copy_(torch.rand_like(getattr(probe, name)))
    probe.scale.fill_(10)
    return probe


def test_a_quality_that_is_of_second_degree_is_recovered() -> None:
    x, images = rows_of(20, 200, 4)
    curve, slope = torch.randn(4, 4) / 100, torch.randn(4)

    def quality(x: Tensor) -> Tensor:
        return 50 + x @ slope + ((x @ curve) * x).sum(dim=1)

    fit = fit_probe(x, quality(x), images, penalties=[1e-9])
    unseen = rows_of(1, 100, 4)[0]
    # float32 buffers: about seven digits of numbers up to 100.
    torch.testing.assert_close(fit.probe.unclipped(unseen), quality(unseen), rtol=0, atol=1e-3)
    torch.testing.assert_close(fit.probe(unseen), quality(unseen).clamp(1, 100), rtol=0, atol=1e-3)
    torch.testing.assert_close(fit.held_out, quality(x).double().clamp(1, 100), rtol=0, atol=1e-3)


def test_the_fit_is_ridge_on_squares_and_products_and_its_errors_those_of_left_out_images() -> None:
    x, images = rows_of(12, 90, 3)
    qualities = torch.randint(1, 101, (90,))
    fit = fit_probe(x, qualities, images, penalties=[0.3])

    def features(x: Tensor) -> np.ndarray:
        z = (x - fit.probe.mean) / fit.probe.scale
        products = (z[:, :, None] * z[:, None, :]).flatten(1) / 3  # (N, D, D) -> (N, D*D)
        return torch.cat([torch.ones(len(z), 1), (2 / 3) ** 0.5 * z, products], dim=1).double().numpy()

    ridge = Ridge(alpha=0.3, fit_intercept=False, solver="svd")
    targets = qualities.numpy() - 50.0
    left_out = cross_val_predict(ridge, features(x), targets, groups=images.numpy(), cv=LeaveOneGroupOut())
    np.testing.assert_allclose(fit.held_out, np.clip(left_out + 50, 1, 100), rtol=0, atol=1e-3)  # float32 probe
    unseen = rows_of(1, 40, 3)[0]
    expected = ridge.fit(features(x), targets).predict(features(unseen)) + 50
    np.testing.assert_allclose(fit.probe.unclipped(unseen), expected, rtol=0, atol=1e-3)


def test_the_penalty_with_the_smallest_error_on_held_out_images_is_taken() -> None:
    x, images = rows_of(12, 90, 3)
    qualities = (x[:, 0] + 20 * torch.randn(90)).clamp(-49, 50) + 50  # so noisy that the strongest penalty is best
    fits = {penalty: fit_probe(x, qualities, images, penalties=[penalty]) for penalty in (1e-6, 30.0)}
    errors = {penalty: (fit.held_out - qualities).square().mean() for penalty, fit in fits.items()}
    assert errors[30.0] < errors[1e-6]
    chosen = fit_probe(x, qualities, images, penalties=[1e-6, 30.0])
    torch.testing.assert_close(chosen.held_out, fits[30.0].held_out, rtol=0, atol=0)


def test_the_spread_is_the_error_of_noise_of_known_size() -> None:
    shared, own, crops = 4.0, 3.0, 4

    def codings(number: int, crops: int) -> tuple[Tensor, Tensor]:
        """Representations that read `shared` off in all crops of a coding, and `own` in each; (number, crops, 2)."""
        qualities = torch.rand(number) * 60 + 20
        read = qualities[:, None] + shared * torch.randn(number, 1) + own * torch.randn(number, crops)
        return torch.stack([read, torch.randn(number, crops)], dim=2), qualities

    x, qualities = codings(250, crops)
    images = torch.arange(250) // 5
    rows = [x.flatten(0, 1), qualities.repeat_interleave(crops), images.repeat_interleave(crops)]
    probe = fit_probe(*rows, penalties=[1e-2]).probe
    # 250 codings give a standard deviation to 4.5%; and the regression leans towards the middle, by noise (25) over all
    # variance (325).
    assert probe.own_error.square().mean().sqrt().item() == pytest.approx(own, rel=0.12)
    assert probe.shared_error.square().mean().sqrt().item() == pytest.approx(shared, rel=0.12)
    for crops in (1, 4, 16):
        x, qualities = codings(400, crops)
        readings = [probe.combine(probe.unclipped(one)) for one in x]
        errors = [reading.quality - truth for reading, truth in zip(readings, qualities.tolist(), strict=True)]
        in_spreads = np.array(errors) / [reading.spread for reading in readings]
        assert np.sqrt(np.mean(in_spreads**2)) == pytest.approx(1, abs=0.12)


def test_one_reading_of_several_crops() -> None:
    probe = QualityProbe(2)
    probe.shared_error.copy_(torch.arange(10))
    probe.own_error.copy_(10 + torch.arange(10))
    assert probe.combine(torch.tensor([55.0])) == pytest.approx((55, (5**2 + 15**2) ** 0.5))
    assert probe.combine(torch.tensor([20.0, 90.0, 25.0])).quality == 25
    spread = (2**2 + (12**2 + 10**2 + 10**2) / 9) ** 0.5  # the crops scatter by 10, 0 and 10 about their mean
    assert probe.combine(torch.tensor([15.0, 25.0, 35.0])) == pytest.approx((25, spread))
    quarter = probe.combine(torch.tensor([55.0]), crop_area=0.25)
    assert quarter.spread == pytest.approx((5**2 + 15**2 / 0.25) ** 0.5)
    # What is beyond the scale is unlike anything the probe was fitted to, and off by at least so much.
    assert probe.combine(torch.tensor([130.0])) == pytest.approx((100, (9**2 + 19**2 + 30**2) ** 0.5))
    assert probe.combine(torch.tensor([-40.0])) == pytest.approx((1, (0 + 10**2 + 41**2) ** 0.5))


def test_uniform_parts_of_an_image_do_not_count(encoder: QualityEncoder, probe: QualityProbe) -> None:
    reader = QualityReader(encoder, probe)
    photo = luma(jpeg_roundtrip(picture(128, 128), 30), full_range=True)
    white = np.full((128, 3 * 128), 255, np.uint8)
    assert reader.read(np.hstack([white, photo])) == reader.read(photo)
    assert reader.read(white) == reader.read(white[:1, :1]) == NOTHING_KNOWN
    sky = np.full((64, 64, 3), (90, 140, 220), np.uint8)  # its channels differ, its pixels do not
    assert QualityReader(QualityEncoder(3, width=8).eval(), probe).read(sky) == NOTHING_KNOWN
    blank = np.full((64, 64, 3), 200, np.uint8)
    assert read_coded(encoder, [blank, picture(64, 64)], num_images=100)[2].unique().tolist() == [1]
    with pytest.raises(ValueError, match="all uniform; give photos"):
        read_coded(encoder, [blank], num_images=1)


def test_too_little_to_fit_is_refused() -> None:
    x, images = rows_of(1, 40, 3)
    with pytest.raises(ValueError, match="needs two photos or more that are not uniform, got 1"):
        fit_probe(x, torch.arange(40), images)
    x, images = rows_of(2, 40, 3)
    with pytest.raises(ValueError, match="at 10 qualities in all, got 4"):
        fit_probe(x, torch.arange(40) // 2 % 2, images)
    with pytest.raises(ValueError, match="representations are not finite"):
        fit_probe(x * torch.nan, torch.arange(40) // 2, images)


def test_a_collapsed_encoder_gets_a_probe_that_answers_the_mean() -> None:
    """Measuring must not end a run whose encoder tells nothing apart, as the paper's recipe may have it."""
    _, images = rows_of(2, 40, 3)
    qualities = torch.arange(40) // 2 * 2 + 10
    probe = fit_probe(torch.ones(40, 3), qualities, images).probe
    torch.testing.assert_close(probe(torch.ones(1, 3)), qualities.float().mean()[None], rtol=0, atol=0.1)


def test_coded_crops_are_of_every_image_reproducible_and_carry_the_quality(encoder: QualityEncoder) -> None:
    photos = [picture(48, 48 + 8 * (seed % 2), seed=seed) for seed in range(12)]
    rows = read_coded(encoder, photos, num_images=100)  # as if of 100: a twelfth of the scale between qualities
    again = read_coded(encoder, iter(photos[:2]), num_images=100)
    for first, second in zip(rows, again, strict=True):
        torch.testing.assert_close(first[: len(second)], second, rtol=0, atol=0)
    representations, qualities, images = rows
    assert images.bincount().tolist() == [48] * 12  # 12 qualities, 2 ranges of luma, 2 crops
    assert qualities.min() < 9 and qualities.max() > 92 and len(qualities.unique()) > 50
    assert not torch.equal(again[1], read_coded(encoder, photos[:2], num_images=100, seed=1)[1])
    # An encoder that was never trained is a bank of random filters: enough to do far better than guessing, which is 25
    # points off.
    held_out = fit_probe(*rows).held_out
    assert (held_out - qualities).abs().mean() < 17


@pytest.mark.parametrize("channels", [1, 3])
def test_of_many_images_only_as_many_as_are_needed_are_read(channels: int) -> None:
    encoder = QualityEncoder(channels, width=8).eval()
    photos = [picture(16, 16, seed=seed) for seed in range(9)]
    assert read_coded(encoder, photos, num_images=2 * 1250 + 1)[2].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_crops_are_spread_over_the_image_without_overlap() -> None:
    for height, width, expected in [(5, 3, 1), (321, 481, 6), (255, 129, 1), (256, 2000, 8), (541, 777, 16)]:
        crops = _spread_crops(np.arange(height * width).reshape(height, width))
        assert len(crops) == expected
        assert {crop.shape for crop in crops} == {(min(height, CROP_PX), min(width, CROP_PX))}
        seen = np.concatenate([crop.ravel() for crop in crops])
        assert len(np.unique(seen)) == len(seen)
        rows, columns = np.divmod(seen, width)
        assert abs(rows.mean() - (height - 1) / 2) <= 1 and abs(columns.mean() - (width - 1) / 2) <= 1  # centred


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (37, 41, 3), (130, 257, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_and_kind_are_read(shape: tuple[int, ...], channels: int, probe: QualityProbe) -> None:
    reader = QualityReader(QualityEncoder(channels, width=8).eval(), probe)
    reading = reader.read(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    assert 1 <= reading.quality <= 100 and np.isfinite(reading.spread) and reading.spread > 0


def test_a_photo_is_read_as_a_restorer_would_see_it(encoder: QualityEncoder, probe: QualityProbe) -> None:
    photo = jpeg_roundtrip(picture(150, 140), 30)
    reader = QualityReader(encoder, probe)
    full = luma(photo, full_range=True)
    assert reader.read(photo) == reader.read(full)
    assert reader.read(full) != reader.read(luma(photo))
    assert reader.read(full) == reader.read(full.astype(np.uint16) * 257)
    color = QualityReader(QualityEncoder(3, width=8).eval(), probe)
    assert color.read(full) == color.read(np.dstack([full, full, full]))
    assert color.read(full) != color.read(photo)
    with torch.autocast("cpu", torch.bfloat16):
        in_autocast = reader.read(photo)
    assert in_autocast == reader.read(photo)


def test_a_probe_lies_in_the_file_of_its_encoder(encoder: QualityEncoder, probe: QualityProbe, tmp_path: Path) -> None:
    plain, with_probe, copied = (tmp_path / f"{name}.safetensors" for name in ("plain", "probe", "new/copied"))
    save_encoder(encoder, plain)
    save_encoder(encoder, with_probe, probe)
    copy_with_probe(read_weight_file(with_probe), copied, QualityProbe(encoder.representation_size))
    assert encoder_in(read_weight_file(plain)).probe is None
    for file, expected in ((with_probe, probe), (copied, QualityProbe(encoder.representation_size))):
        opened = encoder_in(read_weight_file(file))
        torch.testing.assert_close(opened.probe.state_dict(), expected.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(opened.encoder.state_dict(), encoder.state_dict(), rtol=0, atol=0)
    paper_size = sum(4 * tensor.numel() for tensor in QualityProbe(256).state_dict().values())
    assert paper_size < 300_000  # bytes
