"""Reading image files: which pixels come out, and what is said about files that cannot be read."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from data.color import luma
from data.images import list_images, read_image, read_rgb, to_channels
from tests.synthetic import noise


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_formats_give_back_the_pixels(tmp_path: Path, suffix: str) -> None:
    image = noise(13, 9, 3)
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(image).save(path, lossless=True)
    read = read_image(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, image)


def test_gray_stays_two_dimensional_and_read_rgb_repeats_it(tmp_path: Path) -> None:
    image = noise(6, 7)
    Image.fromarray(image).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), image)
    np.testing.assert_array_equal(read_rgb(tmp_path / "gray.png"), np.stack([image] * 3, axis=2))


def test_sixteen_bit_gray_is_divided_by_257_and_rounded(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for name in ("deep.png", "deep.tif", "deep.pgm"):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name), np.round(values / 257).astype(np.uint8))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba, gray_alpha = noise(5, 4, 4), noise(5, 4, 2)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(gray_alpha).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), rgba[:, :, :3])
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), gray_alpha[:, :, 0])


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    indices = noise(8, 8) % 4
    palettes = {"colour": [9, 8, 7, 0, 0, 255, 1, 2, 3, 50, 60, 70], "gray": [9] * 3 + [4] * 3 + [0] * 6}
    for name, colors in palettes.items():
        palette = Image.fromarray(indices).convert("P")
        palette.putpalette(colors)
        palette.save(tmp_path / f"{name}.png")
        table = np.array(colors, dtype=np.uint8).reshape(4, 3)
        expected = table[indices] if name == "colour" else table[indices][:, :, 0]
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), expected)


def test_bilevel_and_cmyk_become_gray_and_rgb(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 8) > 127).save(tmp_path / "bilevel.png")
    assert set(np.unique(read_image(tmp_path / "bilevel.png"))) == {0, 255}
    white = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    white.save(tmp_path / "cmyk.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "cmyk.jpg"), np.full((8, 8, 3), 255))


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: quarter turn
    Image.fromarray(noise(8, 16, 3)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (8, 16, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"cut{suffix} is damaged or cut off .*; replace or remove") as error:
        read_image(path)
    one_line(error)


def test_every_cut_of_a_png_is_refused_or_complete(tmp_path: Path) -> None:
    image = noise(10, 10, 3)
    Image.fromarray(image).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    for length in range(0, len(data), 7):
        (tmp_path / "cut.png").write_bytes(data[:length])
        try:
            read = read_image(tmp_path / "cut.png")
        except ValueError as error:
            assert "cut.png" in str(error) and "\n" not in str(error)
        else:
            np.testing.assert_array_equal(read, image)  # only the end marker was missing


def test_a_changed_byte_in_a_png_is_noticed(tmp_path: Path) -> None:
    Image.fromarray(noise(32, 32, 3)).save(tmp_path / "flipped.png")
    data = bytearray((tmp_path / "flipped.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "flipped.png").write_bytes(data)
    with pytest.raises(ValueError, match="flipped.png is damaged or cut off"):
        read_image(tmp_path / "flipped.png")


def test_whatever_a_decoder_makes_of_damage_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    message = "Failed to decode image: Missing or empty image item"  # the AVIF decoder's

    def failing(self: Image.Image) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(ImageFile.ImageFile, "load", failing)
    with pytest.raises(ValueError, match=r"a\.png is damaged or cut off \(Failed to decode"):
        read_image(tmp_path / "a.png")
    message = "not enough memory"
    with pytest.raises(RuntimeError, match="not enough memory"):
        read_image(tmp_path / "a.png")


def test_text_and_empty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is no image")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ValueError, match="text.png is not an image that can be read; replace or remove"):
        read_image(tmp_path / "text.png")
    with pytest.raises(ValueError, match=r"empty.jpg is empty \(0 bytes\); replace or remove"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(FileNotFoundError, match="missing.png"):
        read_image(tmp_path / "missing.png")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)  # claims 3.6 gigapixels in a few bytes
    pixels = zlib.compress(b"\0" * 100)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(ValueError, match="bomb.png has more than [0-9]+ megapixels") as error:
        read_image(tmp_path / "bomb.png")
    one_line(error)


def test_floating_point_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="float.tif stores floating point numbers; save it with 8 or 16 bits"):
        read_image(tmp_path / "float.tif")


def test_listing_is_sorted_and_ignores_other_and_hidden_files(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "._a.png", "notes.txt", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG"]


def test_listing_a_missing_empty_or_wrong_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give a folder of images"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no images; files ending in .png"):
        list_images(tmp_path)
    (tmp_path / "file.png").touch()
    with pytest.raises(ValueError, match="file.png is not a folder"):
        list_images(tmp_path / "file.png")


def test_to_channels_converts_or_says_what_to_do() -> None:
    gray, rgb = noise(5, 6), noise(5, 6, 3)
    np.testing.assert_array_equal(to_channels(gray, 1), gray)
    np.testing.assert_array_equal(to_channels(rgb, 1), luma(rgb))
    np.testing.assert_array_equal(to_channels(rgb, 3), rgb)
    with pytest.raises(ValueError, match="1.png is gray, but 3 channels were asked for; use a colour image, or gray"):
        to_channels(gray, 3, name="1.png")
    with pytest.raises(ValueError, match=r"channels must be 1 \(luma\) or 3 \(RGB\), got 2"):
        to_channels(rgb, 2)
