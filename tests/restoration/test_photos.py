"""Restoring photos: what may change in one, and what must come along untouched."""

import io
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational
from torch import Tensor, nn

from common import machine
from restoration import photos
from restoration.folders import PhotoRestorer, make_folder, plan, restore_files
from restoration.photos import LUMA, Photo, has_color, read_photo, restore_photo, save_photo
from restoration.tiling import restore_tensor
from tests.synthetic import noise, save

ORIENTATION = 0x0112
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
MAKER = 0x010F


class Blur(nn.Module):
    """A network that changes each pixel by its neighbours."""

    def __init__(self, channels: int, share: float) -> None:
        super().__init__()
        self.channels = channels
        self.share = share
        self.filter = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.share * (self.filter(x) - x)


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


def restored_at_once(network: nn.Module, pixels: np.ndarray, *, tile_px: int) -> np.ndarray:
    """`restore_photo` as it was before it went by strips: the whole photo in floating point."""
    peak = np.iinfo(pixels.dtype).max
    seen = pixels.astype(np.float32).reshape(*pixels.shape[:2], -1) / peak
    if network.channels == 1 and pixels.ndim == 3:
        seen = (seen @ LUMA)[..., None]
    elif network.channels == 3 and pixels.ndim == 2:
        seen = np.repeat(seen, 3, axis=2)
    x = torch.from_numpy(seen).permute(2, 0, 1)[None]
    change = (restore_tensor(network, x, tile_px=tile_px) - x)[0].permute(1, 2, 0).numpy()
    if pixels.ndim == 2:
        change = change[..., 0] if network.channels == 1 else change @ LUMA
    return np.rint(np.clip(pixels + peak * change, 0, peak)).astype(pixels.dtype)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("shape", "peak"), [((333, 250), 255), ((333, 250, 3), 255), ((250, 333), 65535)])
@pytest.mark.parametrize("share", [0.3, 1e-3])  # the second is left alone
def test_strips_change_no_bit(channels: int, shape: tuple[int, ...], peak: int, share: float) -> None:
    pixels, network = noise(*shape, peak=peak), Blur(channels, share)
    for tile_px in (96, 160, 768):
        result = restore_photo(network, Photo(pixels, None, {}), tile_px=tile_px).pixels
        np.testing.assert_array_equal(result, restored_at_once(network, pixels, tile_px=tile_px))
        assert result.dtype == pixels.dtype and np.array_equal(result, pixels) == (share < 0.1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_photo_is_not_held_in_floating_point(channels: int) -> None:
    """Before, numpy's share alone was 36 bytes a pixel; now the result's 3, and what a row of tiles takes."""
    photo = Photo(noise(2400, 300, 3), None, {})
    tracemalloc.start()
    restore_photo(Add(0.1, channels), photo, tile_px=96)
    has_color(photo)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / photo.pixels[..., 0].size < 6


def test_a_picture_that_is_converted_in_parts_is_the_whole_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgba = Image.fromarray(noise(37, 20, 4))
    deep = Image.fromarray(noise(37, 20, peak=65535))
    sources = [
        save(tmp_path / "rgb.png", rgba.convert("RGB")),
        save(tmp_path / "rgba.png", rgba),
        save(tmp_path / "la.png", rgba.convert("LA")),
        save(tmp_path / "palette.png", rgba.convert("RGB").quantize(9), transparency=bytes([0, 9, 200])),
        save(tmp_path / "color_key.png", rgba.convert("RGB"), transparency=rgba.getpixel((3, 30))[:3]),
        save(tmp_path / "bilevel.png", rgba.convert("1")),
        save(tmp_path / "cmyk.tif", rgba.convert("CMYK")),
        save(tmp_path / "deep.png", deep),
    ]
    for source in sources:
        with Image.open(source) as opened:
            is_deep, has_alpha = opened.mode.startswith("I"), opened.has_transparency_data
            mode = ("L" if opened.mode in ("1", "LA") else "RGB") + ("A" if has_alpha else "")
            expected = np.array(opened if is_deep else opened.convert(mode))
        for num_pixels in (1, 20 * 36, 2**22):
            monkeypatch.setattr(photos, "STRIP_PIXELS", num_pixels)
            photo = read_photo(source)
            found = photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])
            np.testing.assert_array_equal(found, expected, err_msg=source.name)


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
    diverging = PhotoRestorer(Add(float("nan")))
    failures = restore_files(lambda photo: diverging, plan([source], tmp_path / "out"))
    assert failures == [f"{source}: the network's output is not finite; try float32 precision, or other weights"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            MemoryError(),
            "not enough memory with tiles of 768 pixels; use smaller tiles, or cut the picture into parts",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            "not enough memory with tiles of 768 pixels; use smaller tiles, or cut the picture into parts",
        ),
        (torch.OutOfMemoryError("CUDA"), "no GPU memory left with tiles of 768 pixels; use smaller tiles"),
        (TypeError("a\nbug"), "TypeError in test_photos.py, line {line}: a bug"),
        (struct.error("argument out of range"), "error in test_photos.py, line {line}: argument out of range"),
    ],
)
def test_whatever_happens_to_a_photo_the_others_are_restored(tmp_path: Path, error: Exception, reason: str) -> None:
    class Failing(Add):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] == 9:
                raise error
            return super().forward(x)

    sources = [save(tmp_path / f"{name}.png", noise(8, width)) for name, width in (("a", 8), ("b", 9), ("c", 10))]
    failing = PhotoRestorer(Failing())
    failures = restore_files(lambda photo: failing, plan(sources, tmp_path / "out"))
    line = Failing.forward.__code__.co_firstlineno + 2
    assert failures == [f"{sources[1]}: {reason.format(line=line)}"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


@pytest.mark.parametrize("kind", ["closed", "full"])
def test_photos_are_restored_where_stdout_takes_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", None if kind == "closed" else Full())
    source = save(tmp_path / "a.png", noise(8, 8))
    restoring = PhotoRestorer(Add(), lambda pixels: (50.0, 1.0))
    assert restore_files(lambda photo: restoring, plan([source], tmp_path / "out")) == []
    assert (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_made_meanwhile_is_replaced_only_where_that_was_allowed(overwrite: bool, tmp_path: Path) -> None:
    source, target = save(tmp_path / "a.png", noise(8, 8)), tmp_path / "out" / "a.png"
    jobs = plan([source], tmp_path / "out", overwrite=overwrite)
    target.parent.mkdir()
    target.write_bytes(b"of another program")
    failures = restore_files(lambda photo: PhotoRestorer(Add()), jobs)
    assert (target.read_bytes() == b"of another program") == (not overwrite)
    assert len(failures) == (not overwrite) and all("made by another program meanwhile" in line for line in failures)


def test_a_link_to_nothing_is_an_output_that_exists(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jpg", noise(8, 8))
    (tmp_path / "a.png").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match=r"a\.png exists"):
        plan([source], tmp_path)
    assert len(plan([source], tmp_path, overwrite=True)) == 1


def test_earlier_outputs_among_the_inputs_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", noise(8, 8))
    assert [job.target.name for job in plan([tmp_path], tmp_path)] == ["a.png"]
    save(tmp_path / "a.png", noise(8, 8))
    with pytest.raises(ValueError, match=r"a\.png is an input, but may be an earlier output for .*a\.jpg"):
        plan([tmp_path], tmp_path)
    save(tmp_path / "a.png", noise(8, 16))  # another picture
    assert [job.target.name for job in plan([tmp_path], tmp_path)] == ["a.jpg.png", "a.png.png"]
    assert [job.target.name for job in plan([tmp_path], tmp_path / "out")] == ["a.jpg.png", "a.png.png"]


def test_ctrl_c_still_ends_the_work(tmp_path: Path) -> None:
    class Stopped(Add):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    source = save(tmp_path / "a.png", noise(8, 8))
    with pytest.raises(KeyboardInterrupt):
        restore_files(lambda photo: PhotoRestorer(Stopped()), plan([source], tmp_path / "out"))


def test_a_picture_for_which_there_is_no_memory_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = save(tmp_path / "a.png", noise(50, 40)), save(tmp_path / "b.png", noise(400, 250))
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    meminfo.write_text(
        "MemTotal: 2000 kB\nMemFree: 90 kB\nMemAvailable:  500 kB\nSwapFree: 500 kB\nHugePages_Free: 0\n"
    )
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    monkeypatch.setattr(machine, "CGROUP", group)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # decoding would fail
    with pytest.raises(ValueError, match=r"b.png has 250x400 pixels: restoring it takes about 0.0 GB of memory, and"):
        read_photo(large)
    monkeypatch.undo()

    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    monkeypatch.setattr(machine, "CGROUP", group)
    failures = restore_files(lambda photo: PhotoRestorer(Add()), plan([large, small], tmp_path / "out"))
    assert len(failures) == 1 and "b.png has 250x400 pixels" in failures[0]
    assert (tmp_path / "out" / "a.png").is_file()
    meminfo.write_text("MemAvailable: 9999999 kB\nSwapFree: 0 kB\n")
    assert read_photo(large).pixels.shape == (400, 250)

    group.mkdir()  # a container may have less than the machine
    for name, content in (("max", "6000000\n"), ("current", "2000000\n"), ("stat", "anon 1\ninactive_file 700000\n")):
        (group / f"memory.{name}").write_text(content)
    with pytest.raises(ValueError, match="cut it into parts"):
        read_photo(large)
    (group / "memory.stat").write_text("anon 1\ninactive_file 900000\n")
    assert read_photo(large).pixels.shape == (400, 250)
    (group / "memory.stat").write_text("anon 1\ninactive_file 0\n")
    (group / "memory.max").write_text("max\n")
    assert read_photo(large).pixels.shape == (400, 250)
    meminfo.unlink()
    (group / "memory.max").unlink()
    assert read_photo(large).pixels.shape == (400, 250)  # systems that do not say


def test_each_photo_goes_to_the_network_for_its_kind(tmp_path: Path) -> None:
    gray = noise(8, 9) // 2
    almost = np.dstack([gray] * 3)
    almost[7, 8, 2] += 1  # one pixel of colour
    photos = {"gray": gray, "gray_as_rgb": np.dstack([gray] * 3), "almost": almost, "color": noise(8, 9, 3) // 2}
    assert [has_color(Photo(pixels, None, {})) for pixels in photos.values()] == [False, False, True, True]
    sources = [save(tmp_path / f"{name}.png", pixels) for name, pixels in photos.items()]
    for_gray, for_color = PhotoRestorer(Add(10 / 255)), PhotoRestorer(Add(20 / 255, channels=3))
    jobs = plan(sources, tmp_path / "out")
    assert restore_files(lambda photo: for_color if has_color(photo) else for_gray, jobs) == []
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


@pytest.mark.parametrize(
    "resolution", [IFDRational(2**32 - 1, 1), IFDRational(0, 0), IFDRational(1, 0), IFDRational(0, 1)]
)
@pytest.mark.parametrize("unit", [2, 3])  # inch, centimetre
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_a_resolution_that_png_cannot_keep_is_dropped(
    tmp_path: Path, suffix: str, unit: int, resolution: IFDRational
) -> None:
    tags = Image.Exif()
    tags[X_RESOLUTION] = tags[Y_RESOLUTION] = resolution
    tags[RESOLUTION_UNIT] = unit
    pixels = noise(16, 24)
    bad = save(tmp_path / f"bad.{suffix}", pixels, exif=tags)
    good = save(tmp_path / "good.png", pixels, dpi=(300, 200))
    with Image.open(bad) as opened:
        opened.load()
        expected = np.array(opened)
    restoring = PhotoRestorer(Add())
    assert restore_files(lambda photo: restoring, plan([bad, good], tmp_path / "out")) == []
    with Image.open(tmp_path / "out" / "bad.png") as opened:
        np.testing.assert_array_equal(np.array(opened), expected)
        assert opened.info.get("dpi", (72, 72)) == pytest.approx((72, 72), abs=0.01)  # Pillow's own where EXIF has none
    with Image.open(tmp_path / "out" / "good.png") as opened:
        assert opened.info["dpi"] == pytest.approx((300, 200), abs=0.02)


@pytest.mark.parametrize(
    ("dpi", "is_kept"),
    [
        ((300, 300), True),
        ((IFDRational(72, 1), 72.5), True),
        ((1, 54_546_000), True),
        ((300, 54_546_100), False),  # 2**31 pixels a metre
        ((300, 0.001), False),  # no pixel a metre
        ((300,), False),
        ((300, 300, 300), False),
        (((300, 1), (300, 1)), False),
        ((float("nan"), 300), False),
        ((-72, 72), False),
        ("72", False),
    ],
)
def test_which_resolutions_png_can_keep(tmp_path: Path, dpi: object, is_kept: bool) -> None:
    image = Image.fromarray(noise(4, 4))
    image.info["dpi"] = dpi
    photo = photos._as_photo(image)
    assert ("dpi" in photo.metadata) == is_kept
    save_photo(photo, tmp_path / "a.png")


def test_texts_that_are_called_as_metadata_are_dropped(tmp_path: Path) -> None:
    texts = PngInfo()
    for name in ("exif", "icc_profile", "dpi"):
        texts.add_text(name, "words")
    source = save(tmp_path / "a.png", noise(8, 8), pnginfo=texts)
    assert not read_photo(source).metadata.keys() & {"icc_profile", "dpi"}  # Pillow takes the first for EXIF data
    assert restored(source, Add()).size == (8, 8)


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
    for content, complaint in ((b"", "empty"), (b"no image at all", "not an image")):
        (tmp_path / "text.jpg").write_bytes(content)
        with pytest.raises(ValueError, match=f"text.jpg is {complaint}"):
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
    with pytest.raises(FileExistsError, match=r"b\.png exists \(2 of 3 outputs\); allow overwriting"):
        plan(sources, tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"b\.png exists \(the output\); allow overwriting"):
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
