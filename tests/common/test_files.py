"""Output files that are whole or absent."""

import os
from pathlib import Path

import pytest

from common.files import check_writable, write_text, written_whole


def test_writing_replaces_a_file_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.json"
    for text in ("first", "second"):
        check_writable(target)
        write_text(target, text)
        assert target.read_text() == text
    assert list(target.parent.iterdir()) == [target]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), written_whole(target) as working:
        working.write_text("half written")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_file_name_that_is_no_text_is_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "out.md", "caf\udce9.png")
    assert (tmp_path / "out.md").read_text() == r"caf\udce9.png"


@pytest.mark.parametrize("letter", ["a", "\u3042"])
def test_names_as_long_as_the_system_allows_are_written(letter: str, tmp_path: Path) -> None:
    target = tmp_path / (letter * (251 // len(letter.encode())) + ".png")
    write_text(target, "text")
    assert target.read_text() == "text" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_made_meanwhile_is_replaced_only_if_it_may_be(
    has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(source: Path, target: Path) -> None:
        raise PermissionError(1, "no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", refusing)
    target = tmp_path / "out.png"
    with written_whole(target, may_replace=False) as working:
        working.write_text("first")
    with (
        pytest.raises(FileExistsError, match=r"made by another program meanwhile, .* '.*out\.png'"),
        written_whole(target, may_replace=False) as working,
    ):
        working.write_text("second")
    assert target.read_text() == "first" and list(tmp_path.iterdir()) == [target]
    with written_whole(target) as working:
        working.write_text("third")
    assert target.read_text() == "third"


def test_unwritable_outputs_are_refused_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/out.json cannot be written"):
        check_writable(tmp_path / "file" / "out.json")
    with pytest.raises(ValueError, match="is a folder; name a file"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new" / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
