"""Folders that are whole or not there. What kills leave of removals is tested with the store and the checkpoints."""

import errno
import os

import pytest

from snaketune.durable import delete, discard, publish, sweep, sync


def test_a_published_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "part/model").mkdir(parents=True)
    for name in ("part/a", "part/model/b"):
        (tmp_path / name).write_text(name)
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def record_sync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))

    def record_rename(*paths: object) -> None:
        rename(*paths)
        events.append("rename")

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "rename", record_rename)
    publish(tmp_path / "part", tmp_path / "done")
    assert set(events[:4]) == {"part", "part/a", "part/model", "part/model/b"}
    assert events.index("part/a") < events.index("part")
    assert events[4:] == ["rename", "."]
    assert (tmp_path / "done/model/b").read_text() == "part/model/b"
    (tmp_path / "part").mkdir()
    with pytest.raises(OSError, match="not empty"):
        publish(tmp_path / "part", tmp_path / "done")


def test_a_file_system_that_cannot_sync_folders_is_no_error_and_a_failing_file_is(tmp_path, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "no such call")

    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="no such call"):
        sync(tmp_path / "file")


def test_what_a_removal_leaves_behind_is_swept_and_nothing_else(tmp_path):
    for name in ("one/deep", ".trash-one-0a1b/deep", "two.part", ".other"):
        (tmp_path / name).mkdir(parents=True)
    discard(tmp_path / "one")
    assert {path.name for path in tmp_path.iterdir()} == {".trash-one-0a1b", "two.part", ".other"}
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"two.part", ".other"}
    delete(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        discard(tmp_path / "nowhere")
