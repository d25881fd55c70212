"""What a decoder in a folder may be asked to read, and that it serves one thread at a time."""

import json
import threading

import numpy as np
import pytest

from aiq.errors import InputError, RuntimeUnavailableError
from aiq.generative import program
from aiq.generative.program import Generator

WORDS, POSITIONS = 8, 6


class NextNumber:
    """A program whose likeliest token after each token is the next number."""

    name = "openvino"

    def __init__(self, path, threads):
        self.wait = self.error = None

    def reset(self):
        pass

    def run(self, feed):
        if self.wait is not None:
            self.wait()
        if self.error is not None:
            raise self.error
        return [np.eye(WORDS, dtype=np.float32)[(feed["input_ids"][0] + 1) % WORDS]]


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Open a decoder of a few words and positions, whose configuration may have other keys."""
    monkeypatch.setattr(program, "_OPENERS", {"program": NextNumber})

    def open_(config=None):
        known = {"vocab_size": WORDS, "max_position_embeddings": POSITIONS}
        (tmp_path / "program").touch()
        (tmp_path / "config.json").write_text(json.dumps(known if config is None else config))
        return Generator(tmp_path)

    return open_


def test_a_text_may_have_as_many_tokens_as_there_are_positions(opened):
    decoder = opened()
    assert decoder.generate([1, 2, 3], 4) == [4, 5, 6, 7]
    assert decoder.length == POSITIONS  # nothing has read the last token
    assert decoder.run([1, 2], 4).token >= 0
    assert opened({"vocab_size": WORDS, "n_positions": None}).generate([1], 9)[-1] == 2


@pytest.mark.parametrize("positions", ["max_position_embeddings", "n_positions"])
def test_no_text_is_longer_than_the_positions(opened, positions):
    decoder = opened({"vocab_size": WORDS, positions: POSITIONS})
    decoder.logits([1, 2, 3, 4])
    words = "would have 7 tokens, and the decoder has positions for 6; give a shorter prompt"
    for call in (
        lambda: decoder.logits([5, 6, 7]),
        lambda: decoder.generate([1, 2, 3], 5),
        lambda: decoder.run([1, 2, 3], 4),
    ):
        with pytest.raises(InputError, match=words):
            call()
        assert decoder.length == 4  # the text that was read is kept


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([], "There is no token to read; give at least one"),
        ([1, -1], "no number of 0 or more; give the numbers of a tokenizer"),
        ([1.0], "no number of 0 or more"),
        (np.ones((1, 2), np.int64), "no number of 0 or more"),
        ([2, WORDS], "Token 8 is none of the decoder's 8; give the numbers of its own tokenizer"),
        ([10**30], "is none of the decoder's 8"),
        ("text", "no number of 0 or more"),
        (None, "The tokens are a NoneType; give a list of the numbers of a tokenizer"),
    ],
)
def test_what_no_decoder_can_read_is_refused(opened, tokens, words):
    decoder = opened()
    decoder.logits([1, 2])
    for call in (
        decoder.logits,
        lambda prompt: decoder.generate(prompt, 0),
        lambda prompt: decoder.run(prompt, 1),
    ):
        with pytest.raises(InputError, match=words):
            call(tokens)
        assert decoder.length == 2


@pytest.mark.parametrize("count", [-1, 1.0, "2", None])
def test_numbers_of_tokens_that_make_no_sense_are_refused(opened, count):
    decoder = opened()
    for call in (decoder.generate, decoder.run):
        with pytest.raises(InputError, match=r"tokens is .*; give a number of [01] or more"):
            call([1], count)
    with pytest.raises(InputError, match="give a number of 1 or more"):
        decoder.run([1], 0)


@pytest.mark.parametrize("config", [[], {}, {"vocab_size": "many"}])
def test_a_folder_without_a_configuration_is_refused(opened, config, tmp_path):
    with pytest.raises(InputError, match=r"config\.json is no configuration of a decoder .*again"):
        opened(config)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json cannot be read .*export the plan again"):
        Generator(tmp_path)


def test_a_second_thread_is_refused_while_the_first_one_reads(opened):
    decoder, reads, ends = opened(), threading.Event(), threading.Event()
    decoder._program.wait = lambda: (reads.set(), ends.wait(10))
    found = []
    first = threading.Thread(target=lambda: found.extend(decoder.generate([1, 2], 2)))
    first.start()
    assert reads.wait(10)
    try:
        for call in (
            lambda: decoder.logits([5]),
            lambda: decoder.generate([5], 1),
            lambda: decoder.run([5], 1),
            decoder.reset,
        ):
            with pytest.raises(InputError, match=r"in another thread.* open a Generator in each"):
                call()
    finally:
        ends.set()
        first.join()
    assert found == [3, 4]
    assert decoder.generate([5], 1) == [6]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("no memory"), RuntimeUnavailableError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failure_forgets_the_text_of_which_the_cache_may_hold_a_part(opened, error, raised):
    decoder = opened()
    decoder.logits([1])
    decoder._program.error = error
    with pytest.raises(raised):
        decoder.logits([2])
    assert decoder.length == 0
