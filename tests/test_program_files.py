"""Program files from anywhere: their content is checked, and nothing that they name imported."""

import json
import sys
import zipfile

import onnx
import pytest
import torch
from compared import FLOAT
from torch import nn

import aiq
from aiq.errors import AiqError, InputError
from aiq.runtimes import package

LEAF = {"type": None, "context": None, "children_spec": []}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return {"y": self.linear(x)}


@pytest.fixture(scope="module")
def x():
    return torch.ones(2, 4)


@pytest.fixture(scope="module")
def good(x, tmp_path_factory):
    """Return an exported ONNX model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("good") / "net.onnx"
    aiq.export(FLOAT, Net().eval(), path, example_inputs=x)
    return onnx.load(path)


@pytest.fixture
def altered(good, tmp_path):
    """Return a function that writes the model with what it is given as metadata."""

    def write(change):
        model = onnx.ModelProto()
        model.CopyFrom(good)
        (entry,) = [item for item in model.metadata_props if item.key == "aiq"]
        document = json.loads(entry.value)
        text = change(document)
        entry.value = text if isinstance(text, str) else json.dumps(document)
        path = tmp_path / "altered.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def old(document, returns):
    """Make a document of version 1 of one of version 2."""
    (x,) = document["inputs"]
    for key in ("arguments", "inputs", "kernels", "threads"):
        del document[key]
    document |= {"schema": "aiq/program/v1", "shapes": [x["shape"]], "dtypes": [x["dtype"]]}
    document |= {"keywords": [], "returns": json.dumps([1, returns])}


def test_a_file_of_the_first_version_is_read(altered, x):
    returns = {"type": "builtins.dict", "context": '["y"]', "children_spec": [LEAF]}
    program = aiq.load(altered(lambda d: old(d, returns)))
    torch.manual_seed(0)
    torch.testing.assert_close(program(x), {"y": Net()(x)["y"].detach()})


def test_nothing_that_a_file_names_is_imported(altered, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    factory = {"default_factory_module": "evil_module", "default_factory_name": "f"}
    enum = json.dumps([{"__enum__": True, "fqn": "evil_module:f", "name": "z"}])
    for kind, context in (
        ("collections.defaultdict", factory | {"dict_context": ["y"]}),
        ("builtins.dict", enum),
        ("evil_module.Type", None),
        ("evil_module.Type", "null"),
        (None, enum),
        ("builtins.dict", None),
        ("builtins.dict", "[]"),
    ):
        returns = {"type": kind, "context": context, "children_spec": [LEAF]}
        with pytest.raises(InputError, match="export the plan again"):
            aiq.load(altered(lambda d, returns=returns: old(d, returns)))
    assert "evil_module" not in sys.modules


def put(*path, value):
    """Return a change of a document at a path of keys."""

    def change(document):
        *outer, last = path
        for key in outer:
            document = document[key]
        document[last] = value

    return change


GAP = {"kind": "tensor", "value": None, "keys": [], "parts": []}
BAD = {
    "no object": lambda d: "[]",
    "empty": lambda d: "",
    "deep": lambda d: "[" * 200_000,
    "no schema": lambda d: d.pop("schema") and None,
    "other schema": put("schema", value="aiq/program/v9"),
    "unknown key": put("more", value=1),
    "no such format": put("formats", "linear", value="zz"),
    "formats": put("formats", value=[]),
    "negative size": put("inputs", 0, "shape", value=[-2, 4]),
    "huge size": put("inputs", 0, "shape", value=[2**62, 4]),
    "another shape": put("inputs", 0, "shape", value=[4, 4]),
    "overlapping": put("inputs", 0, "stride", value=[0, 1]),
    "few strides": put("inputs", 0, "stride", value=[1]),
    "no dtype": put("inputs", 0, "dtype", value="torch.load"),
    "another dtype": put("inputs", 0, "dtype", value="torch.int32"),
    "two inputs": lambda d: d["inputs"].append(d["inputs"][0]),
    "other arguments": put("arguments", value=GAP),
    "two results": put("returns", value={"kind": "tuple", "parts": [GAP, GAP]}),
    "few keys": put("returns", "keys", value=[]),
    "no kind": put("returns", "kind", value="set"),
    "no float": put("returns", value={"kind": "float", "value": "one"}),
    "labels": put("labels", value={"a": "b"}),
    "kernels": put("kernels", value={"a": ["b"]}),
    "threads": put("threads", value=0),
    "not a number": lambda d: json.dumps(d).replace("[2, 4]", "[NaN, 4]"),
}


@pytest.mark.parametrize("name", BAD)
def test_metadata_that_is_not_as_it_should_be_is_refused(name, altered):
    with pytest.raises(InputError) as caught:
        aiq.load(altered(BAD[name]))
    assert "\n" not in str(caught.value)
    assert "altered.onnx" in str(caught.value)


@pytest.mark.parametrize("location", ["/etc/passwd", "../x", "weights.bin", "/dev/zero"])
def test_weights_in_other_files_are_refused(location, good, tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(good)
    tensor = model.graph.initializer.add(name="leak", data_type=1, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = tmp_path / "leak.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="keeps weights in other files"):
        aiq.load(path)


def test_damaged_models_are_refused(good, tmp_path):
    content, path = good.SerializeToString(), tmp_path / "damaged.onnx"
    for length in range(0, len(content), len(content) // 12):
        path.write_bytes(content[:length])
        with pytest.raises(AiqError):
            aiq.load(path)
    other = onnx.ModelProto()
    other.CopyFrom(good)
    other.graph.node[0].op_type = "NoSuchOperator"
    path.write_bytes(other.SerializeToString())
    with pytest.raises(InputError, match="ONNX Runtime cannot read"):
        aiq.load(path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_huge_files_are_refused_by_their_size(suffix, tmp_path):
    path = tmp_path / f"huge{suffix}"
    with path.open("wb") as stream:
        stream.truncate(2**40)  # sparse
    with pytest.raises(InputError, match=r"larger than an ONNX model|has more than"):
        aiq.load(path)


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_packages_that_unpack_to_more_than_they_are_or_elsewhere_are_refused(tmp_path):
    path, name = tmp_path / "bad.pt2", "model/extra/aiq.json"
    zipped(path, {name: "{}", "model/data": b"1"})
    assert package.metadata(path) == b"{}"
    bomb = {name: "{}", "model/data": b"\0" * 10_000_000}
    zipped(path, bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    refused(path)
    for member in ("model/../../out", "/etc/passwd", "model\\..\\..\\out"):
        refused(zipped(path, {name: "{}", member: b"1"}))
    refused(zipped(path, {"model/data": b"1"}))
    refused(zipped(path, {name: "{}", "other/extra/aiq.json": "{}"}))


def test_damaged_packages_are_refused(tmp_path):
    path = zipped(tmp_path / "bad.pt2", {"model/extra/aiq.json": "{}" * 100})
    content = path.read_bytes()
    entry = content.find(b"PK\x01\x02")
    for place, byte in ((entry + 8, 1), (entry + 10, 99), (60, 7), (len(content) - 6, 255)):
        path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
        refused(path)
    for length in (0, 30, len(content) - 5):
        path.write_bytes(content[:length])
        refused(path)


def refused(path):
    with pytest.raises(InputError, match="is no package that aiq wrote, or is damaged"):
        aiq.load(path)
