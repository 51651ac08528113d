"""What a bundle's hashes and its signature prove, and what they do not."""

import json

import pytest

from cnnkit.errors import GateError
from cnnkit.errors import UsageError
from export import seal
from export.bundle import SCHEMA
from export.bundle import Bundle

KEY, OTHER = b"k" * 32, b"o" * 32


def rewrite(folder, **entries):
    """Writes the manifest as somebody would who wants to hide what he changed."""
    manifest = json.loads((folder / seal.MANIFEST).read_text()) | entries
    (folder / seal.MANIFEST).write_text(json.dumps(manifest))
    return manifest


@pytest.fixture
def folder(tmp_path):
    """A bundle as far as seals go, signed."""
    for name in ("a.tflite", "serving/net/1/saved_model.pb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    manifest = {"files": seal.hashes(tmp_path)}
    assert list(manifest["files"]) == ["a.tflite", "serving/net/1/saved_model.pb"]
    (tmp_path / seal.MANIFEST).write_text(json.dumps(manifest))
    seal.close(tmp_path)
    seal.sign(tmp_path, KEY)
    return tmp_path


def broken(folder, key=None):
    return seal.broken(folder, json.loads((folder / seal.MANIFEST).read_text()), key)


def test_what_nobody_touched_is_whole(folder):
    assert broken(folder) == broken(folder, KEY) == {}
    assert seal.notes(folder, KEY) == []
    assert seal.notes(folder, None) == ["the bundle is signed: `--key KEYFILE` checks it"]
    # `sha256sum -c manifest.sha256` reads it.
    digest, name = (folder / seal.DIGEST).read_text().split("  ")
    assert (len(digest), name) == (64, "manifest.json\n")


def test_changed_added_and_missing_files_are_named(folder):
    (folder / "a.tflite").write_text("hostile")
    (folder / "serving/net/1/saved_model.pb").unlink()
    # TF Serving would load the newest version that it finds.
    (folder / "serving/net/2").mkdir()
    (folder / "serving/net/2/saved_model.pb").write_text("hostile")
    (folder / "serving/net/3").symlink_to(folder / "serving/net/2", target_is_directory=True)
    assert broken(folder) == {
        "a.tflite": "changed after the export (its sha256 differs from manifest.json)",
        "serving/net/1/saved_model.pb": "missing since the export",
        "serving/net/2/saved_model.pb": "added after the export",
        "serving/net/3": "added after the export",
    }


def test_a_manifest_that_was_edited_is_named(folder):
    (folder / "a.tflite").write_text("hostile")
    rewrite(folder, files=seal.hashes(folder / "serving"))
    edited = "edited after the export (its sha256 differs from manifest.sha256)"
    assert broken(folder)[seal.MANIFEST] == edited
    (folder / seal.DIGEST).unlink()
    assert broken(folder)[seal.DIGEST] == "missing since the export"


def test_who_writes_both_files_anew_deceives_all_but_who_has_the_key(folder):
    (folder / "a.tflite").write_text("hostile")
    files = {name: digest for name, digest in seal.hashes(folder).items() if "manifest" not in name}
    signature = (folder / seal.SIGNATURE).read_text()
    rewrite(folder, files=files)
    seal.close(folder)
    assert broken(folder) == {}
    assert broken(folder, KEY) == {seal.SIGNATURE: "missing: nobody has signed this bundle"}
    (folder / seal.SIGNATURE).write_text(signature)
    why = "not of this key, or manifest.json was edited after it was signed"
    assert broken(folder, KEY) == {seal.SIGNATURE: why}
    seal.sign(folder, OTHER)
    assert broken(folder, KEY) == {seal.SIGNATURE: why}
    assert broken(folder, OTHER) == {}


def test_the_signature_is_the_hmac_of_rfc_4231(folder):
    """Test case 2 of RFC 4231, section 4.3; its key is too short for `read_key`."""
    (folder / seal.MANIFEST).write_bytes(b"what do ya want for nothing?")
    seal.sign(folder, b"Jefe")
    assert (folder / seal.SIGNATURE).read_text().strip() == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )


def test_keys(tmp_path):
    path = tmp_path / "key"
    with pytest.raises(UsageError, match=r"Cannot read the key: .*No such file"):
        seal.read_key(path)
    path.write_bytes(b"short")
    with pytest.raises(UsageError, match=r"too short: .*at least 16 bytes. Received 5. `head -c"):
        seal.read_key(path)
    path.write_bytes(KEY)
    assert seal.read_key(path) == KEY


def test_other_versions_are_told():
    then = {"python": "3.11.7", "keras": "3.15.0", "gone": "1"}
    now = {"python": "3.11.7", "keras": "3.15.1", "new": "2"}
    assert seal.skew(then, now) == ["keras was 3.15.0 at the export, and is 3.15.1 here"]


def test_a_manifest_of_a_newer_cnnkit_is_a_failure(folder):
    rewrite(folder, schema=SCHEMA + 1, versions={"cnnkit": "9.0"})
    with pytest.raises(GateError, match=r"newer cnnkit.*schema 2, of cnnkit 9.0. `pip install -U"):
        Bundle.open(folder)
