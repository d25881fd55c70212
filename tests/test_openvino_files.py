"""A network and its weights are replaced as one, whenever the writer is killed."""

import itertools
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import aiq
from aiq.errors import InputError
from aiq.files import write_atomic

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 - needs OpenVINO

from aiq.runtimes import openvino_files  # noqa: E402 - needs OpenVINO

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6)).astype(np.float32)


def pair(tmp_path, outputs):
    """Return the two files of a linear layer with `outputs` outputs, and what it says to X."""
    weights = RNG.normal(size=(6, outputs)).astype(np.float32)
    x = ops.parameter([2, 6], np.float32)
    model = openvino.Model([ops.matmul(x, ops.constant(weights), False, False)], [x])
    file = tmp_path / "made" / "model.xml"
    openvino.save_model(model, file, compress_to_fp16=False)
    return file.read_bytes(), file.with_suffix(".bin").read_bytes(), X @ weights


def said(path):
    """Return what a network says, as somebody without aiq runs it."""
    program = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return program(X)[0]


def close(found, *expected):
    return any(
        found.shape == e.shape and np.allclose(found, e, rtol=1e-4, atol=1e-5) for e in expected
    )


class KilledError(Exception):
    """The writer is no more."""


@pytest.mark.parametrize("sizes", [(3, 50), (50, 3)])
def test_killed_at_any_write_it_leaves_a_right_pair(tmp_path, monkeypatch, sizes):
    old, new = pair(tmp_path, sizes[0]), pair(tmp_path, sizes[1])
    path = tmp_path / "m.xml"
    for last in itertools.count():
        openvino_files.write_pair(path, *old[:2])
        assert close(said(path), old[2])
        writes = itertools.count()

        def write(target, content, last=last, writes=writes):
            if next(writes) == last:
                raise KilledError
            write_atomic(target, content)
            assert close(said(path), old[2], new[2])

        with monkeypatch.context() as patch:
            patch.setattr(openvino_files, "write_atomic", write)
            try:
                openvino_files.write_pair(path, *new[:2])
            except KilledError:
                assert close(said(path), old[2], new[2])
                openvino_files.write_pair(path, *new[:2])  # the next export mends everything
                done = False
            else:
                done = True
        assert close(said(path), new[2])
        assert (path.read_bytes(), path.with_suffix(".bin").read_bytes()) == new[:2]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bin", "m.xml", "made"]
        if done:
            break
    assert last == 5


def test_what_is_half_there_is_not_taken_for_a_pair(tmp_path, monkeypatch):
    old, new = pair(tmp_path, 3), pair(tmp_path, 3)
    path = tmp_path / "m.xml"
    path.write_bytes(old[0])  # its weights were lost

    def write(target, content):
        write_atomic(target, content)
        assert not path.exists() or path.read_bytes() == new[0]

    with monkeypatch.context() as patch:
        patch.setattr(openvino_files, "write_atomic", write)
        openvino_files.write_pair(path, *new[:2])
    assert close(said(path), new[2])
    path.unlink()  # and now the network
    openvino_files.write_pair(path, *old[:2])
    assert close(said(path), old[2])


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Two exports of networks that differ in their weights only, and what they say."""
    folder, x = tmp_path_factory.mktemp("exports"), torch.from_numpy(X)
    results = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 4)).eval()
        plan = aiq.search(model, "xeon_2vcpu_roofs", example_inputs=x, formats="fp32")
        aiq.export(plan, model, folder / f"{seed}.xml", example_inputs=x)
        results.append(aiq.load(folder / f"{seed}.xml")(x).numpy())
    return folder, results


def test_a_mixed_pair_is_refused(exports, tmp_path):
    folder, _ = exports
    shutil.copy(folder / "0.xml", tmp_path / "m.xml")
    shutil.copy(folder / "1.bin", tmp_path / "m.bin")
    with pytest.raises(InputError, match="not of one export; export the plan again"):
        aiq.load(tmp_path / "m.xml")


def test_who_loads_while_others_write_gets_one_or_the_other(exports, tmp_path):
    folder, expected = exports
    files = [
        ((folder / f"{n}.xml").read_bytes(), (folder / f"{n}.bin").read_bytes()) for n in (0, 1)
    ]
    path = tmp_path / "m.xml"
    openvino_files.write_pair(path, *files[0])
    over = threading.Event()

    def write():
        while not over.is_set():
            for given in files:
                openvino_files.write_pair(path, *given)
                time.sleep(0.02)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(6):
            assert close(aiq.load(path)(torch.from_numpy(X)).numpy(), *expected)
    finally:
        over.set()
        for writer in writers:
            writer.join()
