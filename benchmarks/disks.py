"""Disks that are small, full or read-only, seen by one process and its children alone."""

import os
import subprocess
from pathlib import Path

# A process that is started so may mount; users may where the system lets them have namespaces.
APART = ("unshare", "--user", "--map-root-user", "--mount")
_FILLER = "filler"


def mount(name: str, size: str) -> Path:
    """Mounts a disk in memory."""
    place = Path(name)
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True)
    return place


def fill(disk: Path, spare: int = 0) -> None:
    """Fills a disk but for some bytes; again, if some have become free since."""
    room = os.statvfs(disk)
    block = bytes(4096)
    with (disk / _FILLER).open("ab", buffering=0) as file:
        try:
            for _ in range((room.f_bavail * room.f_frsize - spare) // len(block) + 1):
                file.write(block)
        except OSError:
            return


def enlarge(disk: Path, size: str) -> None:
    """Makes a mounted disk larger."""
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def read_only(folder: str, name: str) -> Path:
    """Shows a folder under another name, read-only."""
    place = Path(name)
    place.mkdir()
    subprocess.run(["mount", "--bind", folder, place], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
    return place


def free(disk: Path) -> None:
    """Takes away what `fill` put there."""
    (disk / _FILLER).unlink()
