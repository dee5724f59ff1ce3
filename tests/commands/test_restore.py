"""`test.py restore`: files and folders in, PNG files out, and one clear line for mistakes."""

import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands.restore import COLOR, GRAY, best_of, choose_by_photo
from cqe.quality import QualityProbe, QualityReader
from restoration.photos import Photo, read_photo
from restoration.weights import open_weights
from tests import program
from tests.networks import save_tiny, tiny_restorer
from tests.synthetic import noise, save


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small luma network, untrained: its last layer is zero, so it changes nothing."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)  # a fixture of the module is made before the seed of a test is set
    restorer = tiny_restorer()
    probe = QualityProbe(restorer.encoder.network.representation_size)
    probe.scale.fill_(0.1)
    probe.linear.fill_(0.1)  # readings stay within 1..100
    probe.shared_error.fill_(6.4)
    save_tiny(folder / "reads.safetensors", restorer, probe=probe)
    return save_tiny(folder / "small.safetensors", restorer)


@pytest.fixture(scope="module")
def reads(weights: Path) -> Path:
    """The same network with a probe."""
    return weights.with_name("reads.safetensors")


@pytest.fixture(scope="module")
def run(weights: Path) -> Callable[..., None]:
    """`test.py restore` with those weights."""

    def restore(*arguments: object) -> None:
        program.run("restore", "--weights", weights, "--device", "cpu", *arguments)

    return restore


def save_constant(path: Path, *, channels: int, reading: float) -> None:
    """A small untrained network whose probe reads one quality off everything."""
    restorer = tiny_restorer(channels, tail_std=1.0)  # it changes every photo
    probe = QualityProbe(restorer.encoder.network.representation_size)
    probe.bias.fill_(reading)
    probe.shared_error.fill_(6.4)
    save_tiny(path, restorer, probe=probe)


def photo(path: Path, *shape: int) -> Path:
    return save(path, noise(*shape))


def test_a_folder_and_a_file_are_restored_with_a_line_each(
    run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sources = [photo(tmp_path / "in" / "gray.png", 9, 12), photo(tmp_path / "in" / "sub" / "big.jpg", 140, 230, 3)]
    single = photo(tmp_path / "single.bmp", 5, 4, 3)
    output = tmp_path / "out"
    run(tmp_path / "in", single, "--output", output, "--tile", 96, "--precision", "float32")
    for source, name in zip([*sources, single], ["gray.png", "sub/big.png", "single.png"], strict=True):
        with Image.open(source) as clean, Image.open(output / name) as restored:
            assert restored.format == "PNG"
            np.testing.assert_array_equal(np.array(restored), np.array(clean))
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 3 and captured.err.count("holds no quality probe: qualities are not read") == 1
    assert lines[0].startswith(f"{sources[0]} -> {output / 'gray.png'}  12x9  ") and "  230x140  " in lines[1]
    assert all(line.endswith(" s  fine already, left as it was") for line in lines)


@pytest.mark.parametrize("use", ["weights", "reads"])  # a line after each photo; one before it as well
def test_photos_are_restored_when_nobody_reads_the_lines(
    use: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    photos = [photo(tmp_path / "in" / name, 20, 30) for name in ("a.png", "b.png")]
    monkeypatch.setattr(sys, "stdout", Closed())
    program.run("restore", "--weights", request.getfixturevalue(use), "--device", "cpu", *photos, "--output", tmp_path)
    assert (tmp_path / "a.png").is_file() and (tmp_path / "b.png").is_file()


def test_bfloat16_changes_nothing_but_the_residual(run: Callable, tmp_path: Path) -> None:
    source = photo(tmp_path / "a.png", 20, 30, 3)
    run(source, "--output", tmp_path / "out", "--precision", "bfloat16")
    with Image.open(source) as clean, Image.open(tmp_path / "out" / "a.png") as restored:
        np.testing.assert_array_equal(np.array(restored), np.array(clean))


def test_a_broken_photo_among_good_ones_is_named_and_the_others_restored(
    run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a.png", "z.png"):
        photo(tmp_path / "in" / name, 8, 8)
    broken = photo(tmp_path / "in" / "broken.png", 64, 64)
    broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.raises(SystemExit) as exit_info:
        run(tmp_path / "in", "--output", tmp_path / "out")
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert exit_info.value.code == 2 and len(errors) == 2  # the first says that these weights hold no probe
    assert errors[1].startswith(f"test.py: error: 1 of 3 photos not restored: {broken} is damaged or cut off")
    assert len(captured.out.splitlines()) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "z.png"]


def test_the_quality_of_each_photo_is_printed(
    run: Callable, reads: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"color.jpg": (140, 30, 3), "gray.png": (9, 9), "deep.png": (20, 20)}
    sources = [photo(tmp_path / "in" / name, *shape) for name, shape in shapes.items()]
    deep = np.arange(400, dtype=np.uint16).reshape(20, 20) * 100
    Image.fromarray(deep).save(sources[2])
    reader = open_weights(reads).reader()
    assert isinstance(reader, QualityReader)
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda answer=is_terminal: answer, raising=False)
        run(*sources, "--weights", reads, "--output", tmp_path / f"out{is_terminal}", "--precision", "bfloat16")
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        assert len(lines) == 6 and "probe" not in captured.err
        assert sum(" -> " in line for line in lines) == (0 if is_terminal else 3)
        for source in sources:
            quality = reader.read(read_photo(source).pixels).quality
            assert f"{source}: JPEG quality about {quality:.0f} +- 6" in lines
    written = set(re.findall(r": JPEG quality about (\d+) \+- 6", captured.out))
    assert len(written) == 3  # not one number for all


@pytest.mark.parametrize("has_color_network", [False, True])
def test_without_weights_each_photo_gets_the_network_for_its_kind(
    has_color_network: bool, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    save_constant(folder / "fast_tiny_gray.safetensors", channels=1, reading=20)
    if has_color_network:
        save_constant(folder / "fast_tiny_color.safetensors", channels=3, reading=70)
    monkeypatch.setattr("restoration.weights.WEIGHTS_DIR", folder)
    gray, color = photo(tmp_path / "gray.png", 9, 12), photo(tmp_path / "color.png", 9, 12, 3)
    program.run("restore", str(gray), str(color), "--output", str(tmp_path / "out"), "--device", "cpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{gray}: JPEG quality about 20 +- 6" and lines[1].endswith(" s  gray, by fast_tiny_gray")
    assert lines[2] == f"{color}: JPEG quality about {70 if has_color_network else 20} +- 6"
    by_color, by_luma = " s  colour, by fast_tiny_color", "luma restored, chroma as it was, by fast_tiny_gray"
    assert lines[3].endswith(by_color if has_color_network else by_luma)


@pytest.mark.parametrize("kind", ["gray", "color"])
def test_without_weights_a_large_photo_gets_the_faster_network(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for channels, candidates in ((1, GRAY), (3, COLOR)):
        for candidate in candidates:
            save_constant(folder / f"{candidate.name}.safetensors", channels=channels, reading=20)
    monkeypatch.setattr("restoration.weights.WEIGHTS_DIR", folder)
    for name, (best, fastest) in (("GRAY", GRAY), ("COLOR", COLOR)):
        monkeypatch.setattr(f"commands.restore.{name}", (best._replace(max_megapixels=1e-4), fastest))
    shape = (3,) if kind == "color" else ()
    photos = [photo(tmp_path / "fits.png", 10, 10, *shape), photo(tmp_path / "large.png", 10, 11, *shape)]
    program.run("restore", *photos, "--output", tmp_path / "out", "--device", "cpu")
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(", by ")[2] for line in lines[1::2]] == [f"fast_small_{kind}", f"fast_tiny_{kind}"]


def test_a_photo_too_large_for_all_gets_the_last_network() -> None:
    assert best_of(GRAY, (100_000, 100_000)) is GRAY[-1] and best_of(GRAY[:1], (100_000, 100_000)) is GRAY[0]


def test_a_gpu_takes_the_best_network_for_all_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for channels, candidates in ((1, GRAY), (3, COLOR)):
        for candidate in candidates:
            save_constant(tmp_path / f"{candidate.name}.safetensors", channels=channels, reading=20)
    monkeypatch.setattr("restoration.weights.WEIGHTS_DIR", tmp_path)
    monkeypatch.setattr("torch.nn.Module.to", lambda module, *args, **options: module)
    choose, opened = choose_by_photo(torch.device("cuda"))
    assert list(opened) == [GRAY[0].name, COLOR[0].name]
    assert choose(Photo(np.zeros((4000, 4000), np.uint8), None, {})).name == GRAY[0].name


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable) -> None:
    monkeypatch.setattr("restoration.weights.WEIGHTS_DIR", tmp_path)
    line = refusal("restore", photo(tmp_path / "a.png", 9, 12), "--output", tmp_path / "out", "--device", "cpu")
    assert line == "test.py: error: weights/ holds no fast_small_gray or fast_tiny_gray; give --weights\n"


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", r"é\udcff"), ("ascii", r"\xe9\udcff")])
def test_names_that_cannot_be_printed_are_escaped(
    run: Callable,
    reads: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
    encoding: str,
    shown: str,
) -> None:
    name = os.fsdecode("é".encode() + b"\xff")  # the second is no UTF-8
    try:
        broken = photo(tmp_path / "in" / f"{name}0.png", 8, 8)
        photo(tmp_path / "in" / f"{name}1.png", 8, 8)
    except OSError:
        pytest.skip("this file system takes no such names")
    broken.write_bytes(b"")
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding, "strict", write_through=True) for name in ("out", "err")}
    for stream_name, stream in streams.items():
        monkeypatch.setattr(sys, f"std{stream_name}", stream)
    monkeypatch.setattr(streams["err"], "isatty", lambda: is_terminal, raising=False)
    with pytest.raises(SystemExit) as exit_info:
        run(tmp_path / "in", "--output", tmp_path / "out", "--weights", reads)
    assert exit_info.value.code == 2 and len(list((tmp_path / "out").iterdir())) == 1
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams.values())
    assert f"{shown}1.png: JPEG quality about " in out
    assert f"{shown}0.png is empty (0 bytes)" in err.splitlines()[-1]
    if is_terminal:
        assert f"{shown}1.png: 100%" in err
    else:
        assert f"{shown}1.png -> " in out


def test_overwrite_replaces_outputs(run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, output = photo(tmp_path / "a.jpg", 8, 8), photo(tmp_path / "out" / "a.png", 3, 3)
    with pytest.raises(SystemExit):
        run(source, "--output", tmp_path / "out")
    assert "a.png exists (the output); " in (error := capsys.readouterr().err) and "--overwrite" in error
    run(source, "--output", tmp_path / "out", "--overwrite")
    with Image.open(output) as replaced:
        assert replaced.size == (8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "in"], "a.png is an input and would be replaced"),
        (["--output", "a.png/out"], "(Not a directory)"),
        (["--output", "fixed.png"], "the output is a folder, but fixed.png is named like a photo"),
        (["--output", "out", "--weights", ""], "argument --weights: is empty"),
        (["", "--output", "out"], "an argument is empty"),
        (["--output=out", ""], "an argument is empty"),
        (["--output", "out", "--tile", 100], "multiple of 32 pixels and at least 96, got 100"),
        (["--output", "out", "--weights", "unknown"], "no weights 'unknown'"),
        ([], "--output"),
    ],
)
def test_mistakes_end_before_any_work(
    refusal: Callable, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "a.png", 8, 8)
    photo(tmp_path / "in" / "a.png", 8, 8)
    assert message in refusal("restore", "in", "--weights", weights, "--device", "cpu", *options)


@pytest.mark.parametrize("is_fine", [False, True])
def test_a_terminal_gets_a_bar_instead_of_lines(
    is_fine: bool, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photo(tmp_path / "a.png", 200, 100)
    weights = save_tiny(tmp_path / "w.safetensors", tiny_restorer(tail_std=0.0 if is_fine else 1.0))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    options = ["--weights", weights, "--device", "cpu", "--output", tmp_path / "out", "--tile", 96]
    program.run("restore", source, *options)
    captured = capsys.readouterr()
    assert captured.out == (f"{source}: fine already, left as it was\n" if is_fine else "")
    assert "a.png: 100%" in captured.err and "1.0/1 photos" in captured.err
