import hashlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cnnkit import files
from cnnkit.errors import CnnkitError
from cnnkit.errors import UsageError


def inside(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_a_file_and_the_folders_above_it(tmp_path):
    path = files.write_json(tmp_path / "a" / "b.json", {"é": [1]})
    assert path.read_text("utf-8") == '{\n "é": [\n  1\n ]\n}\n'
    assert inside(path.parent) == ["b.json"]
    files.write_text(path, "new")
    assert path.read_text() == "new"


def test_the_temporary_keeps_the_suffix_and_the_folder(tmp_path):
    with files.replacing(tmp_path / "net.keras") as partial:
        assert (partial.suffix, partial.parent) == (".keras", tmp_path)
        partial.touch()


def test_replaces_a_folder(tmp_path):
    target = tmp_path / "bundle"
    for name in ("old", "new"):
        with files.replacing(target) as partial:
            files.write_text(partial / name, name)
    assert (inside(tmp_path), inside(target)) == (["bundle"], ["new"])


@pytest.mark.parametrize("is_folder", [False, True])
def test_an_error_leaves_what_stood_there(tmp_path, is_folder):
    target = tmp_path / "target"
    content = target / "file" if is_folder else target
    files.write_text(content, "old")

    def fail():
        with files.replacing(target) as partial:
            files.write_text(partial / "file" if is_folder else partial, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (inside(tmp_path), content.read_text()) == (["target"], "old")


def test_a_full_disk_leaves_what_stood_there(tmp_path):
    """A process that may write no file above 4 kB gets EFBIG in the middle of its write."""
    target = files.write_text(tmp_path / "target.txt", "old")
    code = (
        "import sys, pathlib\n"
        "from cnnkit import errors, files\n"
        "try:\n"
        "    files.write_text(pathlib.Path(sys.argv[1]), 'x' * 100_000)\n"
        "except errors.CnnkitError as error:\n"
        "    sys.exit(str(error))\n"
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], preexec_fn=limit, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"Cannot write: {target}. Received File too large. Free some space or choose another "
        "place; what stood there is untouched.\n",
    )
    assert (inside(tmp_path), target.read_text()) == (["target.txt"], "old")


def test_a_kill_half_way_leaves_nothing_under_the_final_name(tmp_path):
    target = tmp_path / "target.txt"
    code = (
        "import sys, time, pathlib\n"
        "from cnnkit import files\n"
        "with files.replacing(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half')\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE)
    with child:
        assert child.stdout.readline() == b"written\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not target.exists()
    files.write_text(target, "whole")
    assert target.read_text() == "whole"


def test_a_place_that_cannot_be_written():
    with pytest.raises(CnnkitError, match=r"^Cannot write: /sys/cnnkit/x\. Received "):
        files.write_text(Path("/sys/cnnkit/x"), "")


def test_other_errors_are_not_disguised(tmp_path):
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "never_written"):
        pass


def test_removes_files_folders_and_links_but_not_what_links_point_to(tmp_path):
    kept = files.write_text(tmp_path / "kept" / "file", "x")
    link = tmp_path / "link"
    link.symlink_to(kept.parent)
    files.remove(link)
    files.remove(tmp_path / "missing")
    assert (inside(tmp_path), kept.exists()) == (["kept"], True)
    files.remove(kept.parent)
    assert inside(tmp_path) == []


def test_sha256(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 5000)
    assert files.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_a_killed_process_left_is_removed(tmp_path):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    orphan = tmp_path / f".x.partial-{int(gone.stdout)}.txt"
    alive = tmp_path / f".x.partial-{os.getppid()}.txt"
    for path in (orphan, alive):
        path.write_text("half")
    files.write_text(tmp_path / "x.txt", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.name, "x.txt"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Load model from /a/.b.partial-12/onnx/.x_f.partial-9.onnx failed. No",
            "Load model from /a/b/onnx/x_f.onnx failed. No",
        ),
        ("Cannot write: .my net.partial-3/x", "Cannot write: my net/x"),
        ("ended. '.b.c.partial-3.tflite' (.b.partial-3)", "ended. 'b.c.tflite' (b)"),
        ("/home/.hidden/b", "/home/.hidden/b"),
    ],
)
def test_messages_name_what_will_be_there(text, expected):
    assert files.final(text) == expected


def test_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with files.replacing(Path()) as partial:
        partial.mkdir()
        (partial / "a").write_text("whole")
    assert (tmp_path / "here" / "a").read_text() == "whole"


def test_a_folder_has_one_owner(tmp_path):
    run = tmp_path / "run"
    with files.owned(run):
        with (
            pytest.raises(UsageError, match="Another process works in this folder"),
            files.owned(run),
        ):
            pass
        assert inside(run) == [".lock"]
    assert inside(run) == []
    with files.owned(run):
        pass


def test_a_lock_that_was_taken_away_is_no_lock(tmp_path):
    """The second process has opened it when the first ends, and locks what nobody else can see."""
    code = (
        "import fcntl, pathlib, sys\n"
        "from cnnkit import errors, files\n"
        "lock, flock = pathlib.Path(sys.argv[1], '.lock'), fcntl.flock\n"
        "def late(*arguments):\n"
        "    lock.unlink()\n"
        "    flock(*arguments)\n"
        "fcntl.flock = late\n"
        "try:\n"
        "    with files.owned(lock.parent):\n"
        "        sys.exit('owned')\n"
        "except errors.UsageError as error:\n"
        "    sys.exit(str(error)[:23])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.stderr == "Another process works i\n"


def test_what_is_left_of_a_process_that_was_killed_as_it_began_is_nothing(tmp_path):
    for name in (".lock", ".environment.partial-7.json"):
        (tmp_path / name).touch()
        files.require_free(tmp_path, "environment.json")
    (tmp_path / ".git").mkdir()
    with pytest.raises(UsageError, match="There is something already"):
        files.require_free(tmp_path, "environment.json", overwrite=True)


def test_clears_all_but_the_lock(tmp_path):
    with files.owned(tmp_path):
        files.write_text(tmp_path / "checkpoints" / "state.json", "{}")
        files.write_text(tmp_path / "config.toml", "")
        files.clear(tmp_path)
        assert inside(tmp_path) == [".lock"]


def test_a_full_disk_is_no_full_memory(tmp_path):
    """TensorFlow raises its error of a full memory, here from a device that is always full."""
    import tensorflow as tf

    def write():
        with files.explained(tmp_path), tf.io.gfile.GFile("/dev/full", "w") as file:
            file.write("x" * 100_000)

    with pytest.raises(CnnkitError, match="No space left on device"):
        write()
    with pytest.raises(tf.errors.ResourceExhaustedError), files.explained(tmp_path):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
