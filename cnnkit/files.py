"""Writing files so that a crash, a kill or a full disk leaves no half of one."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from typing import Any

from cnnkit.errors import CnnkitError
from cnnkit.errors import UsageError

_UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)
_LOCK = ".lock"
# The name of what is being written: stem and suffix of the result, and by which process.
_PARTIAL = re.compile(r"^\.(?P<stem>.*)\.partial-(?P<pid>\d+)(?P<suffix>\.[^.]*)?$")
_PARTIAL_IN_TEXT = re.compile(r"(?:^|(?<=[/\\\s'\"(:]))\.([^/\\]*?)\.partial-\d+((?:\.\w+)?)")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` (file or folder), which becomes `path` on success.

    The suffix is kept, since writers look at it. On an error, and on a full disk, the
    temporary is removed and what stood at `path` stays.

    Raises:
        CnnkitError: If the disk is full or the place cannot be written.
    """
    path = Path(path)
    path = path if path.name else path.resolve()  # such as "."
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    remove_orphans(path)
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _replace(partial, path)
    finally:
        remove(partial)


def final(text: str) -> str:
    """Returns a message with the names that paths of `replacing` will have, or would have had."""
    return _PARTIAL_IN_TEXT.sub(r"\1\2", text)


def remove_orphans(path: Path) -> None:
    """Removes what processes that were killed have left of `path`."""
    for orphan in path.parent.glob(f".{glob.escape(path.stem)}.partial-*"):
        partial = _PARTIAL.match(orphan.name)
        if partial and not _runs(int(partial["pid"])):
            remove(orphan)


def _runs(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 is not a question but Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _replace(partial: Path, path: Path) -> None:
    if not path.is_dir():
        partial.replace(path)
        return
    # A folder cannot be replaced in one step: the old one steps aside first.
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        old.rename(path)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Removes a file or a folder tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made if it is not there.

    A process that was killed owns nothing any more.

    Raises:
        UsageError: If another process works in it.
    """
    lock = folder / _LOCK
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+", encoding="utf-8")
    with file:
        try:
            _lock(file)
            # Else its owner has removed it since it was opened, and the next one makes another.
            if not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                raise BlockingIOError
        except OSError:
            raise UsageError(
                "Another process works in this folder",
                where=folder,
                todo="wait for it, or choose another folder with --out",
            ) from None
        try:
            yield
        finally:
            remove(lock)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Says which place cannot be written, where that is what went wrong.

    Raises:
        CnnkitError: If so.
    """
    try:
        yield
    except Exception as error:
        reason = _unwritable(error)
        if not reason:
            raise
        raise CnnkitError(
            "Cannot write",
            where=final(str(path)),
            received=reason,
            todo="free some space or choose another place; what stood there is untouched",
        ) from error


def _unwritable(error: Exception) -> str:
    """Returns why something cannot be written, or ""."""
    if isinstance(error, OSError):
        return (error.strerror or str(error)) if error.errno in _UNWRITABLE else ""
    # TensorFlow raises the same error where a disk is full and where a memory is.
    full = os.strerror(errno.ENOSPC)
    return full if type(error).__name__ == "ResourceExhaustedError" and full in str(error) else ""


def _lock(file: IO[str]) -> None:
    """Locks an open file until it is closed or the process ends, however it ends."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def require_free(path: Path, marker: str, *, overwrite: bool = False) -> None:
    """Makes sure that nothing of the user's is lost when `path` is written.

    Args:
        path: A folder to be written.
        marker: A file that every folder of its kind has: only such a folder is overwritten.
        overwrite: Whether it may be.

    Raises:
        UsageError: If something else is there, or it may not be overwritten.
    """
    if not path.exists() or (path.is_dir() and all(map(_remains, path.iterdir()))):
        return
    ours = (path / marker).is_file()
    if overwrite and ours:
        return
    raise UsageError(
        "There is something already",
        where=path,
        expected=f"a new place, or with --overwrite a folder that has {marker}",
        todo="choose another place with --out" + (", or add --overwrite" if ours else ""),
    )


def _remains(path: Path) -> bool:
    """Returns whether this is all that a process leaves that was killed as it began."""
    return path.name == _LOCK or _PARTIAL.match(path.name) is not None


def clear(folder: Path) -> None:
    """Removes what is in a folder that this process owns."""
    for path in folder.iterdir():
        if path.name != _LOCK:
            remove(path)


def write_text(path: Path, text: str) -> Path:
    """Writes `text` as UTF-8, whole or not at all, and returns `path`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> Path:
    """Writes `value` as JSON, whole or not at all, and returns `path`."""
    return write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
