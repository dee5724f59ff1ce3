"""`python -m data prepare`: the layout made, the checks, and that nothing half-made is left after an error."""

import errno
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data.prepare
from data.images import list_images, read_image
from data.known_sets import known_digests, pixel_digest
from data.prepare import prepare
from data.splits import BSDS500_SPLITS, bsds500_stems, refuse_other_split
from data.store import open_store
from tests.program import run_data, run_python

CLASSIC5_ELSEWHERE = ("baboon", "barbara", "boats", "lena", "peppers")


def picture(seed: int | str, *shape: int) -> np.ndarray:
    seed = seed if isinstance(seed, int) else int.from_bytes(seed.encode(), "little")
    return np.random.default_rng(seed).integers(0, 256, shape or (8, 9, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(path.stem) if image is None else image).save(path)
    return path


def classic5_elsewhere(folder: Path) -> Path:
    for name in CLASSIC5_ELSEWHERE:
        save(folder / f"{name}.bmp", picture(name, 8, 8))
    return folder


def berkeley(folder: Path) -> Path:
    """The layout of Berkeley's archive, with one of the example images that it repeats elsewhere."""
    for split in BSDS500_SPLITS:
        for stem in bsds500_stems(split):
            save(folder / "BSR/BSDS500/data/images" / split / f"{stem}.jpg")
    save(folder / "BSR/bench/data/images/2018.jpg", picture(5))
    return folder


def tree(folder: Path) -> list[str]:
    """Every path below a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def run(arguments: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = run_data(*arguments, "--root", str(root), "--pack-dir", str(root.parent / "packed"))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "datasets"


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    return tmp_path / "packed"


def test_classic5_from_other_names_becomes_numbered_png(tmp_path: Path, root: Path) -> None:
    made = prepare("classic5", classic5_elsewhere(tmp_path / "source"), root=root)
    assert tree(root) == ["classic5", *(f"classic5/{number}.png" for number in range(1, 6))]
    for number, name in enumerate(CLASSIC5_ELSEWHERE, start=1):
        np.testing.assert_array_equal(read_image(root / f"classic5/{number}.png"), picture(name, 8, 8))
    assert made.counts == {".": 5}
    assert any("other pixels than the known copy of classic5" in note for note in made.notes)


def test_classic5_stored_as_equal_rgb_becomes_gray_and_colour_is_refused(tmp_path: Path, root: Path) -> None:
    source = classic5_elsewhere(tmp_path / "source")
    save(source / "lena.bmp", np.repeat(picture("lena", 8, 8, 1), 3, axis=2))
    prepare("classic5", source, root=root)
    np.testing.assert_array_equal(read_image(root / "classic5/4.png"), picture("lena", 8, 8))
    save(source / "lena.bmp", picture("lena", 8, 8, 3))
    with pytest.raises(ValueError, match=r"1 broken \(.*lena.bmp is in colour, and classic5 is distributed in gray"):
        prepare("classic5", source, root=root, force=True)


def test_live1_bitmaps_become_png_without_loss_and_strangers_are_left_out(tmp_path: Path, root: Path) -> None:
    for stem in known_digests()["live1"]:
        save(tmp_path / f"refimgs/{stem}.bmp")
    save(tmp_path / "refimgs/extra.bmp")
    made = prepare("live1", tmp_path / "refimgs", root=root)
    assert [path.stem for path in list_images(root / "live1")] == sorted(known_digests()["live1"])
    np.testing.assert_array_equal(read_image(root / "live1/bikes.png"), picture("bikes"))
    assert "note: 1 other images of the source were left out" in made.notes


def test_bsds500_from_berkeleys_archive_is_split_and_packed(tmp_path: Path, root: Path, packs: Path) -> None:
    source = berkeley(tmp_path / "source")
    with tarfile.open(tmp_path / "BSR_bsds500.tgz", "w:gz") as archive:
        archive.add(source / "BSR", "BSR")
    made = prepare("bsds500", tmp_path / "BSR_bsds500.tgz", root=root, pack_dir=packs)
    assert made.counts == {"train": 200, "val": 100, "test": 200}
    assert tree(root)[:2] == ["bsds500", "bsds500/test"]
    for split in BSDS500_SPLITS:
        refuse_other_split(list_images(root / "bsds500" / split), split)
    original = source / "BSR/BSDS500/data/images/test/2018.jpg"
    assert (root / "bsds500/test/2018.jpg").read_bytes() == original.read_bytes()
    assert len(open_store(root / "bsds500/train", packs)) == 200
    assert len(list(packs.glob("[!.]*"))) == 1  # it was packed by `prepare`, and is not packed again


def test_bsds500_in_one_folder_or_the_wrong_ones_is_split_by_the_file_lists(
    tmp_path: Path, root: Path, packs: Path
) -> None:
    flat = tmp_path / "flat"
    for split in BSDS500_SPLITS:
        for stem in bsds500_stems(split):
            save(flat / f"{stem}.jpg")
    prepare("bsds500", flat, root=root, pack_dir=packs, link=True)
    assert len(list_images(root / "bsds500/val")) == 100
    (flat / "train").mkdir()
    (flat / "100007.jpg").rename(flat / "train/100007.jpg")  # a test image
    made = prepare("bsds500", flat, root=root, pack_dir=packs, link=True, force=True)
    assert (root / "bsds500/test/100007.jpg").exists()
    assert "note: 1 images lay in another split's folder; the published file lists decide" in made.notes


def test_the_same_picture_in_two_splits_is_refused(tmp_path: Path, root: Path) -> None:
    images = berkeley(tmp_path / "source") / "BSR/BSDS500/data/images"
    (images / "test/100007.jpg").write_bytes((images / "train/100075.jpg").read_bytes())
    with pytest.raises(ValueError, match="same picture under several names: test/100007 = train/100075"):
        prepare("bsds500", tmp_path / "source", root=root)
    assert not root.exists()


def test_div2k_comes_from_two_archives_and_is_packed(tmp_path: Path, root: Path, packs: Path) -> None:
    for name, numbers in {"DIV2K_train_HR": range(1, 801), "DIV2K_valid_HR": range(801, 901)}.items():
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for number in numbers:
                buffer = BytesIO()
                Image.fromarray(picture(number, 2, 3, 3)).save(buffer, "png")
                archive.writestr(f"{name}/{number:04d}.png", buffer.getvalue())
    with pytest.raises(ValueError, match=r"100 missing \(0801, 0802, 0803 and 97 more\); nothing was written"):
        prepare("div2k", tmp_path / "DIV2K_train_HR.zip", root=root)
    assert not root.exists()
    archives = [tmp_path / "DIV2K_train_HR.zip", tmp_path / "DIV2K_valid_HR.zip"]
    made = prepare("div2k", archives, root=root, pack_dir=packs)
    assert made.counts == {".": 900}
    assert len(open_store(root / "div2k", packs)) == 900
    np.testing.assert_array_equal(read_image(root / "div2k/0801.png"), picture(801, 2, 3, 3))


def test_photos_in_subfolders_keep_apart(tmp_path: Path, root: Path, packs: Path) -> None:
    source = tmp_path / "source"
    for name in ("summer/1.png", "winter/1.png", "winter/2.jpg", "winter/2.png", "3.jpg", ".hidden/4.png", "._5.png"):
        save(source / name, picture(name, 9, 9, 3))
    (source / "notes.txt").write_text("not an image")
    made = prepare("photos", source, root=root, pack_dir=packs)
    names = ["3.jpg", "summer_1.png", "winter_1.png", "winter_2.jpg", "winter_2_png.png"]
    assert [path.name for path in list_images(root / "photos")] == names
    assert open_store(root / "photos", packs).names == names
    assert made.notes == []


def test_photos_that_repeat_or_hold_benchmark_images_are_reported(
    tmp_path: Path, root: Path, packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "source/a.png", picture(1))
    save(tmp_path / "source/b.bmp", picture(1))
    known = {"classic5": {"1": pixel_digest(picture(1))}, "live1": {}}
    monkeypatch.setattr("data.known_sets.known_digests", lambda: known)
    made = prepare("photos", tmp_path / "source", root=root, pack_dir=packs)
    assert made.notes == [
        "warning: the same picture under several names: a = b",
        "warning: benchmark images among the training images: a, b; remove them",
    ]


@pytest.mark.parametrize("name", ["icb", "twitter"])
def test_sets_without_a_known_count_say_what_was_checked(tmp_path: Path, root: Path, name: str) -> None:
    save(tmp_path / "source/tower.ppm")
    made = prepare(name, tmp_path / "source", root=root)
    assert tree(root / name) == ["tower.ppm"]
    assert made.notes == [f"note: the paper gives no count for {name}; only readability was checked"]


def test_link_makes_links_and_copies_are_independent(tmp_path: Path, root: Path) -> None:
    original = save(tmp_path / "source/a.png")
    prepare("icb", tmp_path / "source", root=root, link=True)
    assert (root / "icb/a.png").readlink() == original.resolve()
    prepare("twitter", tmp_path / "source", root=root)
    assert not (root / "twitter/a.png").is_symlink()
    save(tmp_path / "bitmaps/a.bmp")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(original, "a.png")
    with pytest.raises(ValueError, match="only a folder can be linked, and .*a.zip is a file"):
        prepare("photos", tmp_path / "a.zip", root=root, link=True)


def test_missing_and_broken_images_are_named_in_one_line(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = classic5_elsewhere(tmp_path / "source")
    (source / "boats.bmp").unlink()
    png = save(source / "lena.png", picture(1, 64, 64)).read_bytes()
    (source / "lena.bmp").unlink()
    (source / "lena.png").write_bytes(png[: len(png) // 2])
    (source / "peppers.bmp").write_bytes(b"")
    status, out, err = run(["prepare", "classic5", str(source)], root, capsys)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    for part in ("1 missing (3), 2 broken (", "lena.png is damaged or cut off", "peppers.bmp is empty (0 bytes)"):
        assert part in err
    assert not root.exists()


def test_broken_photos_are_counted_and_nothing_is_left(
    tmp_path: Path, root: Path, packs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "source/good.jpg")
    for number in range(5):
        (tmp_path / f"source/bad{number}.jpg").write_text("no image")
    (tmp_path / "source/dangling.jpg").symlink_to("nowhere")
    status, _, err = run(["prepare", "photos", str(tmp_path / "source")], root, capsys)
    assert status == 2
    assert "6 broken (" in err and "bad0.jpg" in err and "and 3 more" in err and "bad4" not in err
    assert not root.exists() and not packs.exists()


def test_an_existing_set_stays_unless_forced(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "first/a.png")
    save(tmp_path / "second/b.png")
    prepare("icb", tmp_path / "first", root=root)
    status, _, err = run(["prepare", "icb", str(tmp_path / "second")], root, capsys)
    assert (status, tree(root)) == (2, ["icb", "icb/a.png"])
    assert "icb is there already; give --force to replace it" in err
    (tmp_path / "third").mkdir()
    (tmp_path / "third/c.png").write_text("broken")
    assert run(["prepare", "icb", str(tmp_path / "third"), "--force"], root, capsys)[0] == 2
    assert tree(root) == ["icb", "icb/a.png"]  # a failed replacement leaves the old set
    status, out, _ = run(["prepare", "icb", str(tmp_path / "second"), "--force"], root, capsys)
    assert (status, tree(root)) == (0, ["icb", "icb/b.png"])
    assert out.startswith("icb: 1 images, 0.0 megapixels")


def test_a_set_is_not_replaced_from_itself(tmp_path: Path, root: Path) -> None:
    save(tmp_path / "source/a.png")
    prepare("icb", tmp_path / "source", root=root)
    for source in (root / "icb", root):
        with pytest.raises(ValueError, match="overlap; give a source outside of it"):
            prepare("icb", source, root=root, link=True, force=True)
    assert tree(root) == ["icb", "icb/a.png"]


@pytest.mark.parametrize("at", ["reading", "renaming"])
def test_ctrl_c_leaves_things_as_they_were(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: str
) -> None:
    save(tmp_path / "old/old.png")
    prepare("icb", tmp_path / "old", root=root)
    save(tmp_path / "source/a.png")
    save(tmp_path / "source/b.png")
    read, rename = data.prepare.read_image, os.rename

    def stop_at_b(path: Path) -> np.ndarray:
        if at == "reading" and path.stem == "b":
            raise KeyboardInterrupt
        return read(path)

    def stop_at_set(before: Path, after: Path) -> None:
        if at == "renaming" and Path(before).name == "set":
            raise KeyboardInterrupt
        rename(before, after)

    monkeypatch.setattr("data.prepare.read_image", stop_at_b)
    monkeypatch.setattr("data.prepare.os.rename", stop_at_set)
    status, _, err = run(["prepare", "icb", str(tmp_path / "source"), "--force"], root, capsys)
    assert (status, err) == (130, "python -m data: stopped\n")
    assert tree(root) == ["icb", "icb/old.png"]


@pytest.fixture(params=["new", "replaced"])
def set_before(request: pytest.FixtureRequest, tmp_path: Path, root: Path, packs: Path) -> list[str]:
    """The tree of `root` before a preparation that will fail: with an older set of photos, or without."""
    save(tmp_path / "source/a.png")
    save(tmp_path / "source/b.png")
    if request.param == "new":
        return []
    save(tmp_path / "old/old.png")
    prepare("photos", tmp_path / "old", root=root, pack_dir=packs)
    return ["photos", "photos/old.png"]


@pytest.mark.parametrize(
    "error, said",
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"photos could not be packed in .*packed \(the disk is full\)",
        ),
        (ValueError("{path} is damaged or cut off"), r"datasets/photos/b.png is damaged or cut off"),
        (KeyboardInterrupt(), "stopped"),
    ],
    ids=["disk full", "broken", "Ctrl-C"],
)
def test_a_set_that_cannot_be_packed_is_not_put_in_place(
    tmp_path: Path,
    root: Path,
    set_before: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    said: str,
) -> None:
    def fail_at_b(path: Path) -> np.ndarray:
        if path.stem != "b":
            return read_image(path)
        raise ValueError(str(error).format(path=path)) if isinstance(error, ValueError) else error

    monkeypatch.setattr("data.store.read_rgb", fail_at_b)
    status, out, err = run(["prepare", "photos", str(tmp_path / "source"), "--force"], root, capsys)
    assert (status, out) == (130 if isinstance(error, KeyboardInterrupt) else 2, "")
    assert re.search(said, err) and err.count("\n") == 1
    assert (tree(root) if root.exists() else []) == set_before


def test_a_pack_folder_that_cannot_be_written_leaves_the_set_as_it_was(
    tmp_path: Path, root: Path, packs: Path, set_before: list[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OSError, match=r"photos could not be packed in .*file/packed \(.*\); the set is as it was before"
    ):
        prepare("photos", tmp_path / "source", root=root, pack_dir=tmp_path / "file/packed", force=True)
    assert (tree(root) if root.exists() else []) == set_before
    with pytest.raises(ValueError, match="packed lies in the set .*photos itself; choose one outside of it"):
        prepare("photos", tmp_path / "source", root=root, pack_dir=root / "photos/packed", force=True)
    assert (tree(root) if root.exists() else []) == set_before


@pytest.mark.parametrize("link", [False, True])
def test_what_is_packed_before_the_swap_is_found_afterwards(
    tmp_path: Path, packs: Path, link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the root is given by a link, and where the old set is one."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "elsewhere/old.png")
    save(tmp_path / "source/a.png")
    Path("disk/datasets").mkdir(parents=True)
    Path("datasets").symlink_to("disk/datasets")
    Path("datasets/photos").symlink_to(tmp_path / "elsewhere")
    prepare("photos", "source", root="datasets", pack_dir=packs, link=link, force=True)
    monkeypatch.setattr("data.store.read_rgb", lambda path: pytest.fail(f"{path} was packed again"))
    for folder in ("datasets/photos", tmp_path / "disk/datasets/photos"):
        np.testing.assert_array_equal(open_store(folder, packs)[0], picture("a"))
    assert tree(tmp_path / "elsewhere") == ["old.png"]


def test_two_pictures_for_one_place_are_refused_and_equal_ones_pass(tmp_path: Path, root: Path) -> None:
    source = classic5_elsewhere(tmp_path / "source")
    save(source / "3.png", picture("boats", 8, 8))
    prepare("classic5", source, root=root)
    save(source / "3.png", picture("other", 8, 8))
    with pytest.raises(ValueError, match="3.png and .*boats.bmp both claim to be classic5 3, with different pixels"):
        prepare("classic5", source, root=root, force=True)


def tar_with(path: Path, member: tarfile.TarInfo, content: bytes = b"") -> Path:
    member.size = len(content)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member, BytesIO(content))
    return path


def hostile_link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../../escaped.png"),
        tarfile.TarInfo("a/../../../escaped.png"),
        hostile_link("link.png", tarfile.SYMTYPE, "../../../secret"),
        hostile_link("link.png", tarfile.SYMTYPE, "/etc/passwd"),
        hostile_link("link.png", tarfile.LNKTYPE, "../../secret"),
    ],
    ids=["parent", "inner parent", "symlink", "absolute symlink", "hard link"],
)
def test_a_tar_that_points_outside_is_refused(tmp_path: Path, root: Path, member: tarfile.TarInfo) -> None:
    archive = tar_with(tmp_path / "hostile.tgz", member)
    with pytest.raises(ValueError, match="hostile.tgz is refused: its member .* points out of it"):
        prepare("photos", archive, root=root)
    assert tree(tmp_path) == ["hostile.tgz"]


@pytest.mark.parametrize("name", ["../escaped.png", "/escaped.png", "a/../../escaped.png", "..\\escaped.png"])
def test_a_zip_that_points_outside_is_refused(tmp_path: Path, root: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(ValueError, match="hostile.zip is refused: its member .* points out of it"):
        prepare("photos", tmp_path / "hostile.zip", root=root)
    assert tree(tmp_path) == ["hostile.zip"]


def test_links_inside_a_zip_are_not_followed(tmp_path: Path, root: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match="links.zip holds no images"):
        prepare("photos", tmp_path / "links.zip", root=root)


def test_archives_that_are_cut_off_or_none_are_named(tmp_path: Path, root: Path) -> None:
    photo = save(tmp_path / "photo.png", picture(1, 90, 90, 3))
    with tarfile.open(tmp_path / "whole.tgz", "w:gz") as archive:
        archive.add(photo, "photo.png")
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.write(photo, "photo.png")
    for suffix in ("tgz", "zip"):
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    changed = bytearray((tmp_path / "whole.zip").read_bytes())
    changed[len(changed) // 2] ^= 0xFF
    (tmp_path / "changed.zip").write_bytes(changed)
    for name, said in {
        "cut.tgz": "is damaged or cut off .*; fetch or pack it again",
        "cut.zip": "is no .zip, .tar or .tgz that can be read",
        "changed.zip": "is damaged or cut off .*CRC.*; fetch or pack it again",
        "photo.png": "is no .zip, .tar or .tgz that can be read",
        "nowhere.zip": "does not exist; give a folder, .zip, .tar or .tgz of images",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=f"{name} {said}") as error:
            prepare("photos", tmp_path / name, root=root)
        assert "\n" not in str(error.value)
    assert not root.exists()


def test_an_empty_folder_and_an_unknown_set_are_refused(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        prepare("photos", tmp_path / "empty", root=root)
    status, _, err = run(["prepare", "clasic5", str(tmp_path)], root, capsys)
    assert status == 2
    assert "unknown set 'clasic5'; the sets are classic5, live1, bsds500, div2k, icb, twitter, photos" in err


def test_odd_names_stay_on_one_line(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source").mkdir()
    for name in (b"line\nbreak.png", b"latin-\xe9.png"):
        Path(os.fsdecode(os.fsencode(tmp_path / "source") + b"/" + name)).write_bytes(b"broken")
    status, _, err = run(["prepare", "icb", str(tmp_path / "source")], root, capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert r"line\nbreak.png is not" in err and r"latin-\udce9.png is not" in err
    shutil.rmtree(tmp_path / "source")
    for name in ("line\nbreak.png", "same.png"):
        save(tmp_path / "source" / name, picture(1))
    assert prepare("twitter", tmp_path / "source", root=root).notes[0].endswith(r"several names: line\nbreak = same")


def test_a_pipe_with_the_name_of_an_image_is_not_waited_for(tmp_path: Path, root: Path) -> None:
    save(tmp_path / "source/a.png")
    os.mkfifo(tmp_path / "source/pipe.png")
    prepare("icb", tmp_path / "source", root=root, link=True)
    assert tree(root / "icb") == ["a.png"]


def test_images_of_a_hidden_source_are_not_hidden_in_the_set(tmp_path: Path, root: Path) -> None:
    save(tmp_path / ".mine/1.png", picture(1))
    save(tmp_path / "yours/1.png", picture(2))
    prepare("icb", [tmp_path / ".mine", tmp_path / "yours"], root=root)
    assert [path.name for path in list_images(root / "icb")] == ["mine_1.png", "yours_1.png"]


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "source/a.png")
    save(tmp_path / "source/locked/b.png")
    list_folder = os.scandir

    def refuse_locked(folder: str) -> Iterator[os.DirEntry]:
        if str(folder).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return list_folder(folder)

    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", refuse_locked)
        prepare("icb", tmp_path / "source", root=root)
    assert caplog.messages == [f"{tmp_path}/source/locked cannot be read (Permission denied) and is left out"]


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "source/a.png")
    (tmp_path / "file").write_text("in the way")
    status, _, err = run(["prepare", "icb", str(tmp_path / "source")], tmp_path / "file/datasets", capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert "file" in err


def test_the_command_itself_exits_with_2_and_one_line(tmp_path: Path) -> None:
    ended = run_python("-m", "data", "prepare", "photos", tmp_path / "nowhere", "--root", tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"python -m data: error: {tmp_path}/nowhere does not exist; give a folder, .zip, .tar or .tgz of images\n"
    )


def test_the_traceback_is_shown_on_request(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        run_data("prepare", "photos", str(tmp_path / "nowhere"), "--root", str(root))


@pytest.mark.parametrize("name", ["classic5", "live1"])
def test_real_benchmarks_have_the_known_pixels(data_root: Callable[[str], Path], name: str, root: Path) -> None:
    assert prepare(name, data_root(name) / name, root=root, link=True).notes == []
