"""Output files that are whole or absent."""

from pathlib import Path

import pytest

from common.files import check_writable, write_text


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
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "half written \ud800")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_unwritable_outputs_are_refused_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/out.json cannot be written"):
        check_writable(tmp_path / "file" / "out.json")
    with pytest.raises(ValueError, match="is a folder; name a file"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new" / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
