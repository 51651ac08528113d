"""Whether a bundle is as it was exported: hashes of its files, and a signature if there is a key.

Three files at the top of the folder, each of which speaks for what is before it:

* `manifest.json` has the SHA-256 of every file. It proves that the files are those of the export,
  as long as the manifest is.
* `manifest.sha256` has the SHA-256 of the manifest, as `sha256sum -c` reads it. It proves that
  nothing was damaged or edited by mistake, and nothing against somebody who means to deceive:
  who edits the manifest can write this file anew.
* `manifest.hmac`, of bundles that were signed, has the HMAC-SHA256 of the manifest. It proves that
  somebody with the key has signed this manifest, and so every file. It does not prove who: whoever
  can check the signature has the key, and can sign. It does not prove when, either, nor that there
  is no later bundle.

Reference:
    Krawczyk, Bellare and Canetti 1997, "HMAC: Keyed-Hashing for Message Authentication", RFC 2104,
    https://www.rfc-editor.org/rfc/rfc2104. Differs: nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnkit import files
from cnnkit.errors import UsageError

MANIFEST = "manifest.json"
DIGEST = "manifest.sha256"
SIGNATURE = "manifest.hmac"
_OWN = (MANIFEST, DIGEST, SIGNATURE)
# RFC 2104, section 3: a key shorter than the hash is weaker than it. Half of it cannot be guessed.
_SHORTEST_KEY = 16


def hashes(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file under `folder`, by its relative path."""
    return {name: files.sha256(folder / name) for name in sorted(_inside(folder))}


def close(folder: Path) -> None:
    """Writes the hash of the manifest beside it; whatever signature was there is gone."""
    files.remove(folder / SIGNATURE)
    digest = files.sha256(folder / MANIFEST)
    files.write_text(folder / DIGEST, f"{digest}  {MANIFEST}\n")


def sign(folder: Path, key: bytes) -> None:
    """Writes the signature of the manifest beside it."""
    files.write_text(folder / SIGNATURE, f"{_hmac(folder, key)}\n")


def read_key(path: Path) -> bytes:
    """Returns the key in a file: all of its bytes.

    Raises:
        UsageError: If it cannot be read, or is so short that it can be guessed.
    """
    try:
        key = path.read_bytes()
    except OSError as error:
        raise UsageError("Cannot read the key", where=path, received=error.strerror) from error
    if len(key) < _SHORTEST_KEY:
        raise UsageError(
            "The key is too short",
            where=path,
            expected=f"at least {_SHORTEST_KEY} bytes",
            received=f"{len(key)}",
            todo=f"`head -c 32 /dev/urandom > {path}` makes one",
        )
    return key


def broken(folder: Path, manifest: Mapping[str, Any], key: bytes | None = None) -> dict[str, str]:
    """Returns what is not as it was at the export: files by their paths, with the reason.

    Args:
        folder: The bundle's folder.
        manifest: The content of its manifest.
        key: What the bundle must be signed with; None does not look at a signature.
    """
    found = _seals(folder, key)
    known, there = manifest["files"], _inside(folder)
    for name, digest in known.items():
        if name not in there or not (folder / name).is_file():
            found[name] = "missing since the export"
        elif files.sha256(folder / name) != digest:
            found[name] = f"changed after the export (its sha256 differs from {MANIFEST})"
    added = dict.fromkeys(there - known.keys() - {*_OWN}, "added after the export")
    return found | dict(sorted(added.items()))


def notes(folder: Path, key: bytes | None) -> list[str]:
    """Returns what was not looked at for want of a key."""
    if key is None and (folder / SIGNATURE).is_file():
        return ["the bundle is signed: `--key KEYFILE` checks it"]
    return []


def skew(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Returns a line for every package that had another version at the export."""
    return [
        f"{name} was {then[name]} at the export, and is {version} here"
        for name, version in now.items()
        if then.get(name, version) != version
    ]


def _seals(folder: Path, key: bytes | None) -> dict[str, str]:
    found = {}
    digest, signature = folder / DIGEST, folder / SIGNATURE
    if not digest.is_file():
        found[DIGEST] = "missing since the export"
    elif digest.read_bytes().split()[:1] != [files.sha256(folder / MANIFEST).encode()]:
        found[MANIFEST] = f"edited after the export (its sha256 differs from {DIGEST})"
    if key is not None and not signature.is_file():
        found[SIGNATURE] = "missing: nobody has signed this bundle"
    elif key is not None and not hmac.compare_digest(
        signature.read_bytes().strip(), _hmac(folder, key).encode()
    ):
        found[SIGNATURE] = f"not of this key, or {MANIFEST} was edited after it was signed"
    return found


def _hmac(folder: Path, key: bytes) -> str:
    return hmac.new(key, (folder / MANIFEST).read_bytes(), hashlib.sha256).hexdigest()


def _inside(folder: Path) -> set[str]:
    """Returns the relative paths of all files; a link counts, wherever it leads."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {path.relative_to(folder).as_posix() for path in found}
