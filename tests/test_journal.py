"""The journal: complete or absent records, none of them stale, whatever interrupts the work."""

import gc
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import zlib

import numpy as np
import pytest
import torch
from torch import nn

import aiq
from aiq.errors import DataError, InputError
from aiq.evaluate import Evaluator, evaluator
from aiq.evaluate import journal as journals
from aiq.evaluate.journal import Journal
from aiq.formats import parse

WORK = """
    import sys
    import torch
    from torch import nn
    from aiq import sensitivity
    from aiq.evaluate import Evaluator

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    data = [(torch.randn(400, 2, 8, 8), torch.randint(3, (400,)))]
    ran = 0

    def progress(stage, done, total):
        print(".", end="", flush=True)

    evaluator = Evaluator(model, data, cache=sys.argv[1], memory=200_000, progress=progress)
    run = evaluator.runner.run

    def counted(*arguments, **options):
        global ran
        ran += 1
        return run(*arguments, **options)

    evaluator.runner.run = counted
    table = sensitivity.measure(evaluator, "w8a8,w4a4,w2", precision=0)
    print()
    print(ran)
    print(repr((table.drop.tolist(), table.measured.tolist(), table.error.tolist())))
"""


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORK), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder):
    """Return how many chunks ran, and the result."""
    out, errors = start(folder).communicate(timeout=300)
    assert out.count("\n") == 3, errors
    _, ran, result = out.splitlines()
    return int(ran), result


def records(folder):
    (path,) = folder.glob("*.sqlite")
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT plan, chunk, data FROM scores ORDER BY 1, 2").fetchall()
    connection.close()
    return found


def test_killed_at_random_and_resumed_it_gives_the_same_bytes(tmp_path):
    """``kill -9`` in the middle of the work, twice; what was there is not run again."""
    whole = tmp_path / "whole"
    total, expected = finish(whole)
    rng = random.Random(0)
    folder = tmp_path / "killed"
    before = 0
    for _ in range(2):
        process = start(folder)
        for _ in range(rng.randint(3, 30)):  # steps of progress, each a chunk
            process.stdout.read(1)
        time.sleep(rng.random() / 100)  # somewhere between two of them
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kept = len(records(folder))
        assert kept >= before
        before = kept
    ran, result = finish(folder)
    assert result == expected
    assert records(folder) == records(whole)
    # Of each chunk the float32 network may run once more, for the others to be compared with.
    chunks = len({chunk for _, chunk, _ in records(whole)})
    assert ran <= len(records(whole)) - before + chunks
    assert ran < total
    again, result = finish(folder)
    assert (again, result) == (0, expected), "the third time nothing runs at all"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.out = nn.Linear(3, 3)

    def forward(self, x):
        return self.out(self.fc(x).relu())


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


X, Y = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 3
PLAN = {"fc": parse("w2"), "out": parse("w4a4")}


def runs(net, folder, plan=PLAN, **options):
    """Return how many chunks an evaluation runs."""
    arguments = {"data": [(X, Y)], "cache": folder} | options
    built = Evaluator(net, arguments.pop("data"), **arguments)
    count, run = 0, built.runner.run

    def counted(*given, **options):
        nonlocal count
        count += 1
        return run(*given, **options)

    built.runner.run = counted
    built.evaluate(plan)
    return count


def test_what_is_known_is_not_run_and_what_changed_is(net, tmp_path, monkeypatch):
    assert runs(net, tmp_path) > 0
    assert runs(net, tmp_path) == 0
    changes = {
        "data": {"data": [(X + 1e-3, Y)]},
        "targets": {"data": [(X, Y.flip(0))]},
        "metric": {"metric": "perplexity"},
        "own metric": {"metric": lambda out, y: (out.argmax(1) == y).double()},
        "another own metric": {"metric": lambda out, y: (out.argmax(1) != y).double()},
        "observer": {"observer": "min_max"},
        "calibration": {"calibration": [X[:20]]},
        "format": {"plan": {"fc": parse("w2g32"), "out": parse("w4a4")}},
    }
    for name, change in changes.items():
        assert runs(net, tmp_path, **change) > 0, name
        assert runs(net, tmp_path, **change) == 0, name
    with torch.no_grad():
        net.out.bias[0] += 1e-3
    assert runs(net, tmp_path) > 0, "weights"
    assert runs(net, tmp_path) == 0
    monkeypatch.setattr(evaluator.metadata, "version", lambda name: "9.9")
    assert runs(net, tmp_path) > 0, "version"


def test_a_metric_that_cannot_be_told_from_others(net, tmp_path):
    class Metric:
        def __call__(self, outputs, targets):
            return torch.ones(len(targets))

    with pytest.raises(InputError, match="give a plain function, or no cache"):
        Evaluator(net, [(X, Y)], metric=Metric(), cache=tmp_path)


def test_parts_are_kept_too(net, tmp_path):
    """An evaluation that was stopped early is continued, not repeated."""
    options = {"memory": 500}
    built = Evaluator(net, [(X, Y)], cache=tmp_path, **options)
    assert built.chunks > 3
    part = built.evaluate(PLAN, lambda e: e.samples > 20)
    assert part.samples < 50
    rest = runs(net, tmp_path, **options)
    done = len([r for r in records(tmp_path) if r[0]])
    assert done == built.chunks
    assert rest <= 2 * built.chunks


def test_arrays_come_back_bit_by_bit(tmp_path):
    journal = Journal(tmp_path, "f" * 64)
    scores = np.random.default_rng(0).random((3, 7))
    scores[2, 3] = np.nan
    assert journal.get("plan", 0) is None
    journal.put("plan", 0, scores)
    journal.put("plan", 1, scores[:, :2])
    assert journal.get("plan", 0).tobytes() == scores.tobytes()
    again = Journal(tmp_path, "f" * 64)
    assert again.get("plan", 1).shape == (3, 2)
    assert again.get("other", 1) is None


FINGERPRINT = "f" * 64
SCORES = np.arange(15.0).reshape(3, 5)


def refusal(function):
    """Return the message of a refusal, which never says to delete anything."""
    with pytest.raises(DataError) as error:
        function()
    message = str(error.value)
    assert message.startswith("The journal ")
    assert message.isprintable()
    assert "delete" not in message
    assert "another folder" in message
    return message


def kept(tmp_path, *statements):
    """Make a journal with a record, change it, and return what an attempt to read it says."""
    journal = Journal(tmp_path, FINGERPRINT)
    journal.put("plan", 0, SCORES)
    journal._connection.close()
    with sqlite3.connect(journal.path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    before = journal.path.read_bytes()

    def use():
        Journal(tmp_path, FINGERPRINT).get("plan", 0, 5)

    message = refusal(use)
    gc.collect()  # the journal is closed, which writes what SQLite has not yet written
    assert journal.path.read_bytes() == before, "it is kept as it is"
    return message


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE scores SET data = zeroblob(120)", "not what was written"),
        ("UPDATE scores SET data = 'text'", "not what was written"),
        ("UPDATE scores SET data = NULL", "not what was written"),
        ("UPDATE scores SET data = 7", "not what was written"),
        ("UPDATE scores SET check_sum = 'x'", "not what was written"),
        (f"UPDATE scores SET data = x'', check_sum = {zlib.crc32(b'')}", "another size"),
        (f"UPDATE scores SET data = x'00', check_sum = {zlib.crc32(bytes(1))}", "another size"),
        (
            f"UPDATE scores SET data = zeroblob(24), check_sum = {zlib.crc32(bytes(24))}",
            "another size",
        ),
        ("CREATE TABLE more (a)", "other tables"),
        ("CREATE TRIGGER t AFTER INSERT ON scores BEGIN DELETE FROM scores; END", "other tables"),
        ("ALTER TABLE scores RENAME COLUMN data TO dates", "no such column"),
        ("UPDATE about SET fingerprint = 'x'", "another model, data or version"),
        ("INSERT INTO about VALUES ('x')", "another model, data or version"),
        ("PRAGMA user_version=2", "newer version of aiq; update aiq"),
    ],
)
def test_damage_is_named_and_kept(tmp_path, statement, words):
    assert words in kept(tmp_path, statement)


def test_what_is_no_database_is_named_and_kept(tmp_path):
    path = Journal(tmp_path, FINGERPRINT).path
    text = b"not a database, but long enough to be looked at" * 100
    for leftover in tmp_path.iterdir():
        leftover.unlink()
    path.write_bytes(text)
    assert "is damaged (file is not a database)" in refusal(lambda: Journal(tmp_path, FINGERPRINT))
    assert path.read_bytes() == text
    path.unlink()
    os.mkfifo(path)
    assert "it is not a file" in refusal(lambda: Journal(tmp_path, FINGERPRINT))
    path.unlink()
    path.mkdir()
    assert "it is not a file" in refusal(lambda: Journal(tmp_path, FINGERPRINT))


def test_folders_that_cannot_be_used(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "Not a directory" in refusal(lambda: Journal(blocked / "x", FINGERPRINT))
    assert "cannot be used (File exists)" in refusal(lambda: Journal(blocked, FINGERPRINT))
    assert "null" in refusal(lambda: Journal("a\0b", FINGERPRINT))
    assert "too long" in refusal(lambda: Journal(tmp_path / ("a" * 300), FINGERPRINT))


def test_the_folder_is_checked_before_the_work(net, tmp_path, monkeypatch):
    def began(*given, **named):
        pytest.fail("the work began")

    monkeypatch.setattr(aiq.graph, "trace", began)
    monkeypatch.setattr(evaluator, "gather", began)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        with pytest.raises(DataError, match=r"journal cannot be used: .*cannot be"):
            Evaluator(net, [(X, Y)], cache=folder)
        with pytest.raises(DataError, match=r"journal cannot be used: .*cannot be"):
            aiq.search(net, "xeon_2vcpu_roofs", [(X, Y)], cache=folder)


def test_journals_of_older_versions_are_read(tmp_path):
    journal = Journal(tmp_path, FINGERPRINT)
    journal.put("plan", 0, SCORES)
    journal._connection.execute("PRAGMA user_version=0")
    assert Journal(tmp_path, FINGERPRINT).get("plan", 0).tolist() == SCORES.tolist()


def test_a_lock_is_waited_for_and_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "PATIENCE_SECONDS", 0.2)
    journal = Journal(tmp_path, FINGERPRINT)
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "is locked by another process; wait" in refusal(lambda: journal.put("plan", 0, SCORES))
    assert "is locked by another process; wait" in refusal(lambda: Journal(tmp_path, FINGERPRINT))
    other.execute("ROLLBACK")
    journal.put("plan", 0, SCORES)


def test_a_journal_that_may_only_be_read_is_no_damage(tmp_path):
    journal = Journal(tmp_path, FINGERPRINT)
    journal._connection.execute("PRAGMA query_only=ON")
    assert "cannot be opened or written by this user" in refusal(
        lambda: journal.put("plan", 0, SCORES)
    )


def test_a_full_disk_is_no_damage(tmp_path):
    journal = Journal(tmp_path, FINGERPRINT)
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count={pages}")
    assert "has no room to grow; free some space" in refusal(
        lambda: journal.put("plan", 0, np.zeros((3, 5000)))
    )


def test_threads_and_processes_share_a_journal(tmp_path):
    """Three processes with four threads each open the same new file at once, write and read."""

    def work(tag):
        journal = Journal(tmp_path, FINGERPRINT)
        failed = []

        def write(thread):
            try:
                for chunk in range(25):
                    scores = np.full((3, 4), 100.0 * tag + thread)
                    journal.put(f"{tag} {thread}", chunk, scores)
                    journal.put("shared", chunk, SCORES)
                    assert journal.get(f"{tag} {thread}", chunk, 4).tolist() == scores.tolist()
                    assert journal.get("shared", chunk, 5).tolist() == SCORES.tolist()
            except (DataError, AssertionError) as error:
                failed.append(error)

        threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return failed

    children = []
    for tag in range(3):
        child = os.fork()
        if not child:
            code = 1
            try:
                code = len(work(tag))
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(records(tmp_path)) == 3 * 4 * 25 + 25
