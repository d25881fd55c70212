"""Files are old or new, whatever happens in between, and whatever the path leads to."""

import os
import random
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from aiq.errors import InputError
from aiq.files import check_target, is_file, write_atomic


def refusal(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    message = str(error.value)
    assert message.isprintable()
    assert message.endswith("name another file.")
    assert len(message) < 400
    return message


def as_nobody(function):
    """Return the message with which `function` is refused to a user without rights."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writer, refusal(function).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as stream:
        return stream.read()


def test_content_and_rights_are_those_of_any_new_file(tmp_path):
    path, plain = tmp_path / "folder" / "mine.json", tmp_path / "plain"
    write_atomic(path, "größer")
    plain.write_text("")
    assert path.read_bytes() == "größer".encode()
    assert path.stat().st_mode == plain.stat().st_mode
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    write_atomic(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "(No space left on device); free some space" in refusal(write_atomic, path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_followed_and_modes_kept(tmp_path):
    real, link, again = tmp_path / "real" / "a.json", tmp_path / "link", tmp_path / "again"
    write_atomic(real, "old")
    real.chmod(0o640)
    link.symlink_to("real/a.json")
    again.symlink_to(link)
    write_atomic(again, "new")
    assert (again.is_symlink(), link.is_symlink(), real.is_symlink()) == (True, True, False)
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    dangling = tmp_path / "dangling"
    dangling.symlink_to("elsewhere/b.json")
    check_target(dangling)
    assert not (tmp_path / "elsewhere").exists()
    write_atomic(dangling, "b")
    assert (tmp_path / "elsewhere" / "b.json").read_text() == "b"


def test_what_cannot_be_written_is_known_before_the_work(tmp_path):
    file, loop = tmp_path / "file", tmp_path / "loop"
    file.write_text("")
    loop.symlink_to(loop)
    for path, words in (
        (tmp_path, "it is a folder"),
        (f"{tmp_path}/", "it is a folder"),
        ("", "The empty path cannot be written"),
        (file / "below", "Not a directory"),
        (file / "far" / "below", "Not a directory"),
        (loop, "symbolic links"),
        (tmp_path / ("a" * 256), "too long"),
        (tmp_path / ("a" * 256) / "b", "too long"),
        (tmp_path / "/".join(["a" * 200] * 30), "too long"),
        ("a\0b", "null byte"),
        ("\ud800", "surrogates"),
        ("/proc/nothing/x.json", "No such file"),
        ("/dev/fd/987", "Bad file descriptor"),
    ):
        for function in (check_target, lambda path: write_atomic(path, "x")):
            assert words in refusal(function, path)
    for path in (file, tmp_path / ("a" * 255), tmp_path / "new" / "b", "/dev/null", "/dev/full"):
        check_target(path)
    assert sorted(tmp_path.iterdir()) == [file, loop]
    write_atomic(tmp_path / ("a" * 255), "long")


def test_rights_are_asked_before_the_work():
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        (folder / "mine.json").write_text("mine")
        (folder / "mine.json").chmod(0o444)
        folder.chmod(0o555)
        for path in ("new.json", "deep/new.json", "mine.json"):
            for function in (check_target, lambda path: write_atomic(path, "x")):
                message = as_nobody(lambda f=function, p=path: f(folder / p))
                assert "(Permission denied)" in message
        folder.chmod(0o777)
        for function in (check_target, lambda path: write_atomic(path, "x")):
            assert "(Permission denied)" in as_nobody(lambda f=function: f(folder / "mine.json"))
        assert (folder / "mine.json").read_text() == "mine"
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_devices_and_pipes_are_written_to(tmp_path):
    write_atomic("/dev/null", "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert "No space left" in refusal(write_atomic, "/dev/full", "x")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    check_target(fifo)
    assert "nobody reads from it" in refusal(write_atomic, fifo, "x")
    found = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_text()))
    reader.start()
    write_atomic(fifo, "x" * 10**6)
    reader.join()
    assert found == ["x" * 10**6]
    assert stat.S_ISFIFO(fifo.lstat().st_mode)


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("name", ["file", "fifo"])
def test_the_standard_output_is_appended_to(path, name, tmp_path):
    """Also where it is a file, which must not be replaced under the shell's hands."""
    if name == "fifo":
        os.mkfifo(tmp_path / name)
    child = os.fork()
    if not child:
        os.dup2(os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT), 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - a descriptor
        print("before")
        write_atomic(path, "plan\n")
        print("after", flush=True)
        os._exit(0)
    if name == "file":
        os.waitpid(child, 0)
    assert (tmp_path / name).read_text() == "before\nplan\nafter\n"
    if name == "fifo":
        os.waitpid(child, 0)


def test_killed_writers_leave_nothing_that_the_next_does_not_sweep(tmp_path):
    path = tmp_path / "x.json"
    rng = random.Random(0)
    for _ in range(8):
        child = os.fork()
        if not child:
            while True:
                write_atomic(path, b"x" * rng.randrange(10**6, 10**7) + b"\n")
        time.sleep(rng.uniform(0.02, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not path.exists() or path.read_bytes().endswith(b"x\n")
    write_atomic(path, "last")
    assert list(tmp_path.iterdir()) == [path]


def test_writers_do_not_sweep_each_other(tmp_path):
    """Threads write files in one folder, over and over: nobody's temporary file is taken away."""
    failed = []

    def write(name):
        try:
            for number in range(100):
                write_atomic(tmp_path / name, f"{name} {number}")
        except InputError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=[name]) for name in ("a", "b", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {x: f"{x} 99" for x in "abc"}


def test_paths_that_no_file_system_takes_are_no_files(tmp_path):
    (tmp_path / "a").write_text("")
    assert is_file(tmp_path / "a")
    for path in (tmp_path, tmp_path / "b", tmp_path / "a" / "b", tmp_path / ("a" * 300), "a\0b"):
        assert not is_file(Path(path))
