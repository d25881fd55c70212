"""Where hardware profiles are found, and files that are none."""

import os
import resource

import pytest

from aiq import hardware
from aiq.errors import HardwareError
from aiq.hardware import Hardware

TEXT = (hardware.builtin_folder() / "xeon_2vcpu_roofs.yaml").read_text()


def test_load_by_path_and_pass_through(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace("name: xeon_2vcpu_roofs", "name: mine"))
    mine = Hardware.load(path)
    assert mine.name == "mine"
    assert Hardware.load(str(path)) == mine
    assert Hardware.load(mine) is mine


def test_users_folder_comes_first(tmp_path, monkeypatch):
    (tmp_path / "xeon_2vcpu_roofs.yaml").write_text(
        TEXT.replace("read_gbps: 32.7", "read_gbps: 20")
    )
    (tmp_path / "board.yaml").write_text(TEXT.replace("name: xeon_2vcpu_roofs", "name: board"))
    monkeypatch.setenv("AIQ_HW_PROFILES", str(tmp_path))
    assert Hardware.load("xeon_2vcpu_roofs").dram_gbps == 20
    assert Hardware.load("board").name == "board"
    assert hardware.profile_files()["board"] == tmp_path / "board.yaml"


def test_a_profile_found_by_name_has_that_name(tmp_path, monkeypatch):
    (tmp_path / "board.yaml").write_text(TEXT)
    monkeypatch.setenv("AIQ_HW_PROFILES", str(tmp_path))
    with pytest.raises(HardwareError, match=r"board\.yaml: name is 'xeon_2vcpu_roofs', .* 'board'"):
        Hardware.load("board")


def test_unknown_name_lists_what_there_is():
    with pytest.raises(HardwareError, match=r"no hardware profile 'cray'; use one of .*xeon_2vcpu"):
        Hardware.load("cray")


def test_unreadable_files(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path, "a\0b.yaml", f"{'n' * 5000}.yaml"):
        source = path if str(path).endswith(".yaml") else tmp_path.rename(f"{tmp_path}.yaml")
        with pytest.raises(HardwareError, match="cannot be read"):
            Hardware.load(source)


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo.yaml")
    with pytest.raises(HardwareError, match="nobody writes to it"):
        Hardware.load(tmp_path / "fifo.yaml")


def test_files_that_are_no_profiles(tmp_path):
    huge = tmp_path / "huge.yaml"
    with huge.open("wb") as stream:
        stream.truncate(100 * 2**20)  # a sparse file of 100 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HardwareError, match="larger than"):
        Hardware.load(huge)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
    with pytest.raises(HardwareError, match="larger than"):
        Hardware.load(_link(tmp_path / "endless.yaml", "/dev/zero"))
    with pytest.raises(HardwareError, match="keys with values"):
        Hardware.load(_link(tmp_path / "empty.yaml", "/dev/null"))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HardwareError, match="UTF-8"):
        Hardware.load(binary)


def _link(path, target):
    path.symlink_to(target)
    return path
