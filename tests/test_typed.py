"""The reader of JSON: what has the declared type comes back, and all else is one sentence."""

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiq import files
from aiq.errors import InputError
from aiq.typed import dump_json, parse_json, read_json


@dataclass(frozen=True, slots=True)
class Leaf:
    name: str
    size: float = 1.0


@dataclass(frozen=True, slots=True)
class Tree:
    leaves: tuple[Leaf, ...]
    more: Mapping[str, Any]


NAMES = {"file": "x.json", "what": "a tree", "advice": "give another"}


def parsed(text, **options):
    return parse_json(text, Tree, **NAMES | options)


def refusal(text, **options):
    with pytest.raises(InputError) as error:
        parsed(text, **options)
    message = str(error.value)
    assert message.startswith("x.json is not a tree (")
    assert message.endswith("; give another.")
    assert message.isprintable()
    assert len(message) < 300
    return message


def test_what_was_written_is_read_and_written_again_to_the_same_bytes():
    tree = Tree((Leaf("a", 3), Leaf("b")), {"x": [1, 2.5, None, {"y": True}]})
    text = dump_json(tree, "a tree", "tree/v1")
    assert parsed(text, schema="tree/v1") == tree
    assert dump_json(parsed(text, schema="tree/v1"), "a tree", "tree/v1") == text
    assert '"size": 3.0' in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "truncated"),
        ("[1]", "Expected `object`"),
        ('{"leaves": []}', "missing required field `more`"),
        ('{"leaves": [], "more": {}, "x": 1}', "the key 'x' is unknown"),
        ('{"leaves": [{"name": "a", "y": 1}], "more": {}}', "'y' is unknown at `leaves[0]`"),
        ('{"leaves": [{"name": 1}], "more": {}}', "got `int` at `leaves[0].name`"),
        ('{"leaves": [{"name": "a", "size": true}], "more": {}}', "at `leaves[0].size`"),
        ('{"leaves": [{"name": "a", "size": NaN}], "more": {}}', "invalid character"),
        ('{"leaves": [{"name": "a", "size": 1e999}], "more": {}}', "at `leaves[0].size`"),
        ('{"leaves": [], "more": {"a": 1, "a": 2}}', "repeats the key 'a'"),
        ('{"leaves": [], "more": {"a": -Infinity}}', "invalid character"),
        ('{"leaves": [], "more": {"a": %s}}' % ("9" * 101), "more than 100 digits"),
        ('{"leaves": [], "more": {"a": %s}}' % ("9" * 9000), "out of range"),
        ('{"leaves": [], "more": {"a": "\\ud800"}}', "truncated"),
        ('{"leaves": [], "more": {"a": "\ud800"}}', "surrogates not allowed"),
        ('{"leaves": [], "more": {"a": %s}}' % ("[" * 100 + "]" * 100), "64 deep"),
        ('{"leaves": [], "more": {"a": %s}}' % ("[" * 10**5), "too deeply"),
        ('{"leaves": [], "more": {}, "\\u001b[31m\\n": 1}', "unknown"),
    ],
)
def test_all_else_is_one_sentence_that_names_the_place(text, words):
    assert words in refusal(text)


def test_the_schema_comes_first():
    whole = {"schema": "tree/v1", "leaves": [], "more": {}}
    assert parsed(json.dumps(whole), schema="tree/v1") == Tree((), {})
    for other in ("tree/v2", None, [1], {"a": 1}):
        assert "tree/v1" in refusal(json.dumps({**whole, "schema": other}), schema="tree/v1")
    refusal('{"leaves": [], "more": {}}', schema="tree/v1")
    refusal('{"schema": "x", ' + json.dumps(whole)[1:], schema="tree/v1")


def test_a_value_that_could_not_be_read_is_not_written():
    for bad in (Leaf("a", float("nan")), Leaf("a", float("inf")), Leaf("a", "b"), Leaf(None)):
        with pytest.raises(InputError, match=r"is not a leaf .*; correct that value\."):
            dump_json(bad, "a leaf")
    with pytest.raises(InputError, match="is not a tree"):
        dump_json(Tree((), {"a": object()}), "a tree")
    for more in ({"a": float("nan")}, {"a": [10**200]}, {"a": "\ud800"}):
        with pytest.raises(InputError, match="is not a tree"):
            dump_json(Tree((), more), "a tree")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={"leaves": JSON, "more": JSON}) | JSON)
def test_any_document_is_read_or_refused(document):
    try:
        found = parsed(json.dumps(document))
    except InputError:
        return
    assert json.loads(dump_json(found, "a tree"))["more"] == document["more"]


@given(st.binary(max_size=40))
def test_any_bytes_are_refused(raw):
    with pytest.raises(InputError):
        parsed(raw)


def read(path, limit=100):
    return read_json(path, Tree, what="a tree", advice="give another", limit=limit)


def test_what_is_no_file_is_one_sentence(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    large = tmp_path / "large"
    with large.open("wb") as stream:
        stream.truncate(2**33)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, words in (
        (tmp_path, "directory"),
        (tmp_path / "none", "No such file"),
        (large / "below", "Not a directory"),
        (large, "larger than 100 bytes"),
        (tmp_path / "binary", "UTF-8"),
        (loop, "symbolic links"),
        (fifo, "nobody writes"),
        ("/dev/zero", "larger than 100 bytes"),
        ("a\0b", "null byte"),
        ("a" * 5000, "too long"),
        ("\x1b[31m\n", "No such file"),
    ):
        with pytest.raises(InputError, match=words) as error:
            read(path)
        assert str(error.value).isprintable()
        assert str(error.value).endswith("; give another.")


def test_pipes_are_read_whole_and_to_the_limit(tmp_path):
    text = dump_json(Tree((), {}), "a tree")
    slow = f"sleep 0.2; echo '{text}'; sleep 0.2; echo"
    with subprocess.Popen(["sh", "-c", slow], stdout=subprocess.PIPE) as process:
        assert read(f"/dev/fd/{process.stdout.fileno()}") == Tree((), {})
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_text, args=[text])
    writer.start()
    assert read(fifo) == Tree((), {})
    writer.join()
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as process:
        with pytest.raises(InputError, match="larger than 100 bytes"):
            files.read_text(f"/dev/fd/{process.stdout.fileno()}", 100, "give another")
        process.kill()
