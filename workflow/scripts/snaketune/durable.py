"""Folders that are whole or not there, whatever kill or power cut comes between; and locks that end with their holder.

A folder appears under its name by one rename, after all of it is on the disk, and it vanishes by one rename before any
of it is deleted. So what a reader finds under a name was finished, and what was cut off has a name that `sweep` knows.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

TRASH = ".trash-"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: set[int] = set()  # the descriptors of this process's locks


def _let_go() -> None:
    """A forked worker may outlive its parent's kill, and must not keep the lock for it."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def lock(folder: Path, wait: bool = False) -> int | None:
    """Hold `<folder>/lock` until `unlock` or the end of this process; None where another has it and we do not wait.

    Raises FileNotFoundError where the folder is not there, or has been removed while its lock was waited for; OSError
    of NO_LOCKS where the file system has none.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder / "lock")):
            raise FileNotFoundError(folder)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    _held.add(descriptor)
    return descriptor


def unlock(descriptor: int | None) -> None:
    """Give back what `lock` gave; nothing in a forked process, which has no locks."""
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)


def publish(part: Path, done: Path) -> None:
    """Give a folder its final name in one step, once all of it is on the disk. Raises OSError where `done` is there."""
    for parent, _, names in os.walk(part, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))
    os.rename(part, done)
    sync(done.parent)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems write names at once, and do not know the call
        if not (error.errno in NO_FOLDER_SYNC and path.is_dir()):
            raise
    finally:
        os.close(descriptor)


def aside(path: Path) -> Path:
    """Rename a folder, in one step, to what `sweep` removes; the new path."""
    trash = path.with_name(f"{TRASH}{path.name}-{secrets.token_hex(4)}")
    os.rename(path, trash)
    return trash


def discard(path: Path) -> None:
    """Remove a folder; at no instant does half of it stand under its name."""
    delete(aside(path))


def sweep(folder: Path) -> None:
    """Remove what killed removals have left in a folder."""
    for trash in folder.glob(f"{TRASH}*"):
        delete(trash)


def delete(folder: Path) -> None:
    """Remove a folder that may be half gone, or that another job removes at the same time."""
    while folder.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
