"""Restoring photos: what may change in one, and what must come along untouched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch import Tensor, nn

from restoration.folders import Restoring, make_folder, plan, restore_files
from restoration.photos import LUMA, Photo, has_color, read_photo, restore_photo, save_photo

ORIENTATION = 0x0112
MAKER = 0x010F


class Add(nn.Module):
    """A network that adds a constant to every channel; 0 is the identity."""

    def __init__(self, amount: float = 0.0, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.amount = amount
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        self.seen.append(x.clone())
        return x + self.amount


def noise(*shape: int, seed: int = 0, peak: int = 255) -> np.ndarray:
    return (
        np.random.default_rng(seed)
        .integers(0, peak, shape, dtype=np.uint16, endpoint=True)
        .astype(np.min_scalar_type(peak))
    )


def save(path: Path, image: np.ndarray | Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def restored(path: Path, network: nn.Module) -> Image.Image:
    """The written PNG of a photo file, opened and decoded."""
    target = path.parent / "out" / "photo.png"
    save_photo(restore_photo(network, read_photo(path)), target)
    with Image.open(target) as opened:
        opened.load()
        return opened


def exif() -> Image.Exif:
    """What a camera held upright writes."""
    tags = Image.Exif()
    tags[ORIENTATION], tags[MAKER] = 6, "Camera"
    return tags


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(37, 53), (37, 53, 3), (1, 1, 3), (900, 800)])
def test_the_identity_gives_back_the_very_pixels(channels: int, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    result = restore_photo(Add(channels=channels), Photo(pixels, None, {}))
    np.testing.assert_array_equal(result.pixels, pixels)


def test_every_colour_survives_an_unchanged_luma() -> None:
    steps = np.arange(0, 256, 5, dtype=np.uint8)
    pixels = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
    np.testing.assert_array_equal(restore_photo(Add(), Photo(pixels, None, {})).pixels, pixels)


def test_a_luma_network_sees_jfif_luma_and_leaves_chroma() -> None:
    pixels = noise(16, 16, 3) // 2 + 60  # 60..187, so that nothing is clipped
    network = Add(20 / 255)
    result = restore_photo(network, Photo(pixels, None, {})).pixels
    torch.testing.assert_close(network.seen[0][0, 0] * 255, torch.from_numpy(pixels @ LUMA), rtol=0, atol=1e-3)
    np.testing.assert_array_equal(result, pixels + 20)  # Y by 20, B - Y and R - Y by nothing


def test_a_colour_network_sees_gray_three_times_and_gives_its_luma_back() -> None:
    class AddRed(Add):
        def forward(self, x: Tensor) -> Tensor:
            assert (x[:, :1] == x).all()
            return x + x.new_tensor([100 / 255, 0, 0])[:, None, None]

    pixels = noise(8, 9) // 2
    result = restore_photo(AddRed(channels=3), Photo(pixels, None, {})).pixels
    np.testing.assert_array_equal(result, pixels + 30)  # 100 * 0.299, rounded


def test_values_are_clipped_not_wrapped() -> None:
    pixels = noise(8, 8, 3)
    result = restore_photo(Add(100 / 255), Photo(pixels, None, {})).pixels
    np.testing.assert_array_equal(result, np.minimum(pixels.astype(int) + 100, 255))


def test_a_network_that_diverges_writes_nothing(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", noise(8, 8))
    diverging = Restoring(Add(float("nan")))
    failures = restore_files(diverging, diverging, plan([source], tmp_path / "out"))
    assert failures == [f"{source}: the network's output is not finite; try --precision float32, or other weights"]
    assert not (tmp_path / "out").exists()


def test_each_photo_goes_to_the_network_for_its_kind(tmp_path: Path) -> None:
    gray = noise(8, 9) // 2
    almost = np.dstack([gray] * 3)
    almost[7, 8, 2] += 1  # one pixel of colour
    photos = {"gray": gray, "gray_as_rgb": np.dstack([gray] * 3), "almost": almost, "color": noise(8, 9, 3) // 2}
    assert [has_color(Photo(pixels, None, {})) for pixels in photos.values()] == [False, False, True, True]
    sources = [save(tmp_path / f"{name}.png", pixels) for name, pixels in photos.items()]
    networks = Restoring(Add(10 / 255)), Restoring(Add(20 / 255, channels=3))
    assert restore_files(*networks, plan(sources, tmp_path / "out")) == []
    for (name, pixels), added in zip(photos.items(), (10, 10, 20, 20), strict=True):
        with Image.open(tmp_path / "out" / f"{name}.png") as written:
            np.testing.assert_array_equal(np.array(written), pixels + added)


def test_sixteen_bit_gray_stays_sixteen_bit(tmp_path: Path) -> None:
    pixels = noise(20, 30, peak=65535)
    for name in ("deep.png", "deep.tif", "deep.pgm"):
        result = restored(save(tmp_path / name, pixels), Add())
        np.testing.assert_array_equal(np.array(result).astype(np.uint16), pixels)
    brighter = restored(save(tmp_path / "dim.png", pixels // 2), Add(1000 / 65535))
    np.testing.assert_array_equal(np.array(brighter).astype(int), pixels // 2 + 1000)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_with_orientation_and_colour_profile_are_kept_and_pixels_not_turned(tmp_path: Path, suffix: str) -> None:
    source = save(
        tmp_path / f"a.{suffix}", noise(16, 24, 3), exif=exif(), icc_profile=b"a colour profile", dpi=(300, 300)
    )
    result = restored(source, Add())
    assert result.size == (24, 16)
    assert result.getexif()[ORIENTATION] == 6 and result.getexif()[MAKER] == "Camera"
    assert result.info["icc_profile"] == b"a colour profile"
    if suffix != "webp":  # has no resolution
        assert result.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    with Image.open(source) as opened:
        assert result.info["exif"].removeprefix(b"Exif\0\0") == opened.info["exif"].removeprefix(b"Exif\0\0")


def test_tiff_orientation_is_applied_once(tmp_path: Path) -> None:
    pixels = noise(16, 24, 3)
    result = restored(save(tmp_path / "a.tif", pixels, exif=exif()), Add())
    assert ORIENTATION not in result.getexif()
    np.testing.assert_array_equal(np.array(result), np.rot90(pixels, -1))


@pytest.mark.parametrize(("mode", "planes"), [("RGBA", 4), ("LA", 2)])
def test_alpha_is_kept_as_it_is(tmp_path: Path, mode: str, planes: int) -> None:
    pixels = noise(9, 11, planes) // 2
    result = restored(save(tmp_path / "a.png", pixels), Add(10 / 255))
    assert result.mode == mode
    np.testing.assert_array_equal(np.array(result)[..., -1], pixels[..., -1])
    np.testing.assert_array_equal(np.array(result)[..., :-1], pixels[..., :-1] + 10)


def test_a_transparent_colour_becomes_alpha(tmp_path: Path) -> None:
    palette = Image.fromarray(noise(8, 8, 3)).quantize(4)
    for name, image, key in [
        ("p.png", palette, 2),
        ("p.gif", palette, 2),
        ("rgb.png", Image.new("RGB", (8, 8)), (0, 0, 0)),
    ]:
        source = save(tmp_path / name, image, transparency=key)
        with Image.open(source) as opened:
            expected = np.array(opened.convert("RGBA"))
        assert expected[..., 3].min() == 0
        np.testing.assert_array_equal(np.array(restored(source, Add())), expected)


def test_palettes_bilevel_and_cmyk_are_restored_as_colour_and_gray(tmp_path: Path) -> None:
    image = Image.fromarray(noise(16, 16, 3))
    for name, stored, mode in [("p.gif", image.quantize(8), "RGB"), ("1.png", image.convert("1"), "L")]:
        result = restored(save(tmp_path / name, stored), Add())
        assert result.mode == mode
        np.testing.assert_array_equal(np.array(result), np.array(stored.convert(mode)))
    cmyk = save(tmp_path / "cmyk.jpg", image.convert("CMYK"), icc_profile=b"a profile of inks")
    assert restored(cmyk, Add()).mode == "RGB"
    assert "icc_profile" not in restored(cmyk, Add()).info  # it does not describe RGB


def test_animations_and_pages_are_refused_but_the_containers_of_phones_are_not(tmp_path: Path) -> None:
    pictures = [Image.fromarray(noise(16, 16, 3, seed=seed)) for seed in range(3)]
    for name in ("a.gif", "a.tif", "a.png", "a.webp"):
        path = save(tmp_path / name, pictures[0], save_all=True, append_images=pictures[1:])
        with pytest.raises(ValueError, match=rf"{name} holds 3 pictures"):
            read_photo(path)
    phone = save(tmp_path / "phone.jpg", pictures[0], format="MPO", save_all=True, append_images=pictures[1:])
    assert read_photo(phone).pixels.shape == (16, 16, 3)


def test_numbers_without_a_range_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "heights.tif", np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match="heights.tif stores 32-bit numbers"):
        read_photo(path)


def test_damaged_files_are_named_in_one_line(tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "gif", "webp", "tif"):
        path = save(tmp_path / f"cut.{suffix}", noise(64, 64, 3))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=rf"cut\.{suffix} (is|holds)") as error:
            read_photo(path)
        assert "\n" not in str(error.value)
    for content in (b"", b"no image at all"):
        (tmp_path / "text.jpg").write_bytes(content)
        with pytest.raises(ValueError, match="text.jpg is not an image"):
            read_photo(tmp_path / "text.jpg")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(ValueError, match="not a photo"):
        save_photo(Photo(noise(4, 4), None, {"pnginfo": Failing()}), target)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


class Failing:
    """Metadata that fails when the file has been begun."""

    @property
    def chunks(self) -> None:
        raise ValueError("not a photo")


def test_folders_keep_their_structure_and_hidden_files_stay_out(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    for name in ("b.jpg", "sub/A.JPG", "sub/deeper/c.webp", ".thumbnails/b.jpg", "._b.jpg", "sub/notes.txt"):
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    jobs = plan([photos], output)
    assert {job.target.relative_to(output).as_posix() for job in jobs} == {"b.png", "sub/A.png", "sub/deeper/c.png"}
    assert not output.exists()


def test_names_that_clash_keep_their_suffix(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg", "sub/a.jpg"):
        save(tmp_path / "in" / name, noise(4, 4))
    jobs = plan([tmp_path / "in"], tmp_path / "out")
    assert [job.target.relative_to(tmp_path / "out").as_posix() for job in jobs] == [
        "a.jpg.png",
        "a.png.png",
        "b.png",
        "sub/a.png",
    ]


def test_a_photo_given_twice_is_restored_once(tmp_path: Path) -> None:
    source = save(tmp_path / "in" / "a.jpg", noise(4, 4))
    assert len(plan([tmp_path / "in", source, source], tmp_path / "out")) == 1


def test_two_photos_never_share_an_output(tmp_path: Path) -> None:
    sources = [save(tmp_path / folder / "a.jpg", noise(4, 4)) for folder in ("x", "y")]
    with pytest.raises(ValueError, match=r"x/a\.jpg and .*y/a\.jpg would both become .*a\.jpg\.png"):
        plan(sources, tmp_path / "out")


@pytest.mark.parametrize("overwrite", [False, True])
def test_inputs_are_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    source = save(tmp_path / "a.png", noise(4, 4))
    (tmp_path / "link").symlink_to(tmp_path)
    for output in (tmp_path, tmp_path / "link"):
        with pytest.raises(ValueError, match=r"a\.png is an input and would be replaced"):
            plan([source], output, overwrite=overwrite)
    # A JPEG beside its output is no conflict.
    photo = save(tmp_path / "b.jpg", noise(4, 4))
    assert plan([photo], tmp_path)[0].target == tmp_path / "b.png"


def test_existing_outputs_are_kept_unless_told(tmp_path: Path) -> None:
    sources = [save(tmp_path / name, noise(4, 4)) for name in ("a.jpg", "b.jpg", "c.jpg")]
    existing = [save(tmp_path / "out" / name, noise(4, 4)) for name in ("b.png", "c.png")]
    with pytest.raises(FileExistsError, match=r"b\.png exists \(2 of 3 outputs\); add --overwrite"):
        plan(sources, tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"b\.png exists \(the output\); add --overwrite"):
        plan(sources[1:2], tmp_path / "out")
    assert [job.target for job in plan(sources, tmp_path / "out", overwrite=True)][1:] == existing


def test_photos_restored_before_are_no_input(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", noise(4, 4))
    save(tmp_path / "restored" / "b.png", noise(4, 4))
    assert [job.source.name for job in plan([tmp_path], tmp_path / "restored")] == ["a.jpg"]


def test_missing_and_empty_inputs_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give image files, or folders"):
        plan([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"empty holds no photos; files ending in \.jpg, "):
        plan([tmp_path / "empty"], tmp_path / "out")


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"folder .*file \(it is a file\)"):
        make_folder(tmp_path / "file")
    with pytest.raises(ValueError, match=r"folder .*file/below \(Not a directory\)"):
        make_folder(tmp_path / "file" / "below")
    make_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
