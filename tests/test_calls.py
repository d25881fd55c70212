"""A program called with any layout, from any thread, returns what the model does, or refuses."""

import collections
import threading
from typing import Any, NamedTuple

import pytest
import torch
from compared import FLOAT
from torch import nn

import aiq
from aiq import runtimes
from aiq.errors import InputError, RuntimeUnavailableError
from aiq.runtimes.arguments import TensorSpec

RUNTIMES = ["eager", "inductor", "onnxruntime", "openvino"]
SUFFIXES = [".onnx", ".xml", ".pt2"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def x():
    torch.manual_seed(1)
    return torch.randn(4, 3, 6, 6)


@pytest.fixture(scope="module")
def program_of(net, x, tmp_path_factory):
    """Return the program of a runtime, or of a file with a suffix; each is compiled once."""
    made = {}

    def program(kind):
        if kind not in made and kind in RUNTIMES:
            made[kind] = runtimes.get(kind).compile(net, x, {})
        elif kind not in made:
            path = tmp_path_factory.mktemp("files") / f"net{kind}"
            aiq.export(FLOAT, net, path, example_inputs=x)
            made[kind] = aiq.load(path)
        return made[kind]

    return program


def layouts(x):
    """Return tensors equal to `x`, or as large, that lie in memory in other ways."""
    odd = torch.empty(x.numel() + 1)[1:].view(x.shape).copy_(x)  # not aligned
    return {
        "contiguous": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "permuted": x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        "sliced": torch.cat([x, -x], 3)[..., :6],
        "every second": x.repeat_interleave(2, 2)[:, :, ::2],
        "transposed": x.transpose(2, 3),
        "flipped": x.flip(3),
        "expanded": x[:1].expand(4, 3, 6, 6),
        "one number": torch.tensor(0.5).expand(4, 3, 6, 6),
        "offset": odd,
        "negated": torch.complex(torch.zeros_like(x), x).conj().imag,
        "parameter": nn.Parameter(x.clone()),
        "with a gradient": x.clone().requires_grad_() * 1.0,
    }


@pytest.mark.parametrize("kind", [*RUNTIMES, *SUFFIXES])
def test_a_program_reads_any_layout(kind, net, x, program_of):
    program = program_of(kind)
    for name, given in layouts(x).items():
        before = given.detach().clone()
        result = program(given)
        with torch.no_grad():
            torch.testing.assert_close(result, net(given), rtol=1e-5, atol=1e-5, msg=name)
        assert torch.equal(given, before)
        assert not result.requires_grad


def test_only_what_lies_in_memory_otherwise_is_copied(x):
    last = x.contiguous(memory_format=torch.channels_last)
    for example in (x, last):
        spec = TensorSpec.of(example, keep_layout=True)
        assert spec.stride == example.stride()
        assert spec.holds(example)
        assert spec.fit(example).data_ptr() == example.data_ptr()
        assert all(spec.fit(y).stride() == spec.stride for y in layouts(x).values())
    assert TensorSpec.of(last, keep_layout=False).stride == x.stride()
    assert TensorSpec.of(x[:1].expand(4, 3, 6, 6), keep_layout=True).stride == x.stride()
    one = torch.randn(1, 3, 6, 6)  # the stride of a dimension of size 1 says nothing
    strange = one.as_strided(one.shape, (7, *one.stride()[1:]))
    fitted = TensorSpec.of(one, keep_layout=False).fit(strange)
    assert fitted.data_ptr() == one.data_ptr()


@pytest.mark.parametrize("layout", ["channels last", "expanded"])
def test_a_program_compiled_for_another_layout(layout, net, x):
    program = runtimes.get("inductor").compile(net, layouts(x)[layout], {})
    with torch.no_grad():
        for given in (x, layouts(x)["channels last"], layouts(x)["expanded"]):
            torch.testing.assert_close(program(given), net(given), rtol=1e-5, atol=1e-5)


def refused(x):
    nested = torch.nested.nested_tensor([x[0], x[1]])
    return {
        "was given 3x6x6": (x[0],),
        "was given 2x3x6x6": (x[:2],),
        "was given 4x6x6x3": (x.permute(0, 2, 3, 1),),
        "compiled for torch.float32 and was given torch.float64": (x.double(),),
        "given torch.complex64": (torch.complex(x, x),),
        "given torch.quint8": (torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),),
        "given a tensor on meta": (x.to("meta"),),
        "given a tensor of torch.sparse_coo": (x.to_sparse(),),
        "given a nested tensor": (nested,),
        "given a ndarray; pass torch.as_tensor": (x.numpy(),),
        "given a NoneType": (None,),
        "given a list": ([x],),
        "1 positional arguments and was given 2": (x, x),
        "1 positional arguments and was given 0": (),
    }


@pytest.mark.parametrize("kind", ["eager", "onnxruntime", ".xml", ".pt2"])
def test_what_a_program_cannot_read_is_refused_with_one_sentence(kind, x, program_of):
    for words, given in refused(x).items():
        with pytest.raises(InputError, match=words) as caught:
            program_of(kind)(*given)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"keywords \(\) and was given \(input\)"):
        program_of(kind)(input=x)


def test_subclasses_are_read_if_their_values_are_in_their_memory(net, x, program_of):
    class Image(torch.Tensor):
        pass

    class Fake(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            raise AssertionError("nobody may compute with this")

    result = program_of("inductor")(x.as_subclass(Image))
    assert type(result) is torch.Tensor
    torch.testing.assert_close(result, net(x).detach(), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"given a Fake, .* pass an ordinary tensor"):
        program_of("inductor")(x.as_subclass(Fake))


@pytest.mark.parametrize("kind", [*RUNTIMES, *SUFFIXES])
def test_threads_may_call_one_program_at_once(kind, x, program_of):
    program = program_of(kind)
    inputs = [x + number for number in range(4)]
    expected = [program(given).clone() for given in inputs]
    wrong = []
    start = threading.Barrier(len(inputs))

    def call(number):
        start.wait()
        for _ in range(60):
            result = program(inputs[number])
            if not torch.equal(result, expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("kind", [*RUNTIMES, *SUFFIXES])
def test_a_later_call_leaves_earlier_results_alone(kind, x, program_of):
    program = program_of(kind)
    first = program(x)
    kept = first.clone()
    program(x * 2 + 1)
    assert torch.equal(first, kept)
    first.zero_()
    assert torch.equal(program(x), kept)


@pytest.mark.parametrize("kind", [*RUNTIMES, *SUFFIXES])
def test_inputs_are_read_anew_wherever_they_lie_in_memory(kind, net, x, program_of):
    program, changed = program_of(kind), x.clone()
    for number in range(5):
        changed += number  # the same memory with other values
        fresh = x * number  # perhaps the memory of an earlier input
        for given in (changed, fresh):
            with torch.no_grad():
                torch.testing.assert_close(program(given), net(given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [*RUNTIMES, *SUFFIXES])
def test_outputs_that_are_used_again_belong_to_one_thread(kind, x, program_of):
    program = program_of(kind)
    reusing = program.reusing_outputs()
    expected = [program(x + number).clone() for number in range(4)]
    start, wrong = threading.Barrier(4), []

    def call(number):
        start.wait()
        for _ in range(60):
            result = reusing(x + number)
            if not torch.equal(result, expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    first, second = reusing(x), reusing(x + 1)
    is_shared = kind in {"openvino", ".xml"}
    assert (first.data_ptr() == second.data_ptr()) is is_shared
    assert torch.equal(second, expected[1])


class Pair(NamedTuple):
    logits: torch.Tensor
    count: int


class Returns(nn.Module):
    """Returns what `wrap` makes of a tensor of the shape of the input."""

    def __init__(self, wrap):
        super().__init__()
        self.linear, self.wrap = nn.Linear(4, 4), wrap

    def forward(self, x):
        return self.wrap(self.linear(x), x)


WRAPS: dict[str, Any] = {
    "none": lambda y, x: (y, None),
    "values": lambda y, x: {"y": y, "n": 3, "f": 2.5, "b": True, "s": "text"},
    "named": lambda y, x: Pair(y, 7),
    "sizes": lambda y, x: [y, x.shape[0], x.shape[0] * 2 + 1],
    "empty": lambda y, x: (y, (), {}, []),
    "twice": lambda y, x: (y, y, x),
    "ordered": lambda y, x: collections.OrderedDict(b=y, a=y + 1),
    "numbers as keys": lambda y, x: {0: y, "nested": [{"deep": (y - 1,)}]},
}


def leaves(value):
    """Return what is in nested containers, in order."""
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in (key, *leaves(part))]
    if isinstance(value, (list, tuple)):
        return [type(value) is list, *(leaf for part in value for leaf in leaves(part))]
    return [value]


def assert_same(result, expected):
    pairs = list(zip(leaves(result), leaves(expected), strict=True))
    for got, wanted in pairs:
        assert type(got) is type(wanted)
        if isinstance(got, torch.Tensor):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        else:
            assert got == wanted


@pytest.mark.parametrize("name", WRAPS)
def test_results_have_the_structure_of_the_models(name, tmp_path):
    torch.manual_seed(0)
    model, x = Returns(WRAPS[name]).eval(), torch.randn(3, 4)
    with torch.no_grad():
        expected = model(x)
    result = runtimes.get("onnxruntime").compile(model, x, {})(x)
    assert_same(result, expected)
    assert type(result) is type(expected)
    aiq.export(FLOAT, model, tmp_path / "model.onnx", example_inputs=x)
    assert_same(aiq.load(tmp_path / "model.onnx")(x), expected)


@pytest.mark.parametrize("kind", ["eager", "inductor", "openvino"])
def test_plain_values_among_the_results_in_every_runtime(kind):
    torch.manual_seed(0)
    model, x = Returns(lambda y, x: Pair(y, (None, x.shape[1], "s", x))).eval(), torch.randn(3, 4)
    result = runtimes.get(kind).compile(model, x, {})(x)
    with torch.no_grad():
        expected = model(x)
    assert isinstance(result, Pair)
    assert_same(result, expected)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, pair, more):
        return self.linear(pair[0] - 2 * pair[1]) + 3 * more["a"] - more["b"]


@pytest.mark.parametrize("loaded", [False, True])
def test_nested_arguments_are_told_apart_by_name_not_by_order(loaded, tmp_path):
    torch.manual_seed(0)
    model = Nested().eval()
    a, b, c, d = torch.randn(4, 2, 4)
    inputs = ((a, b), {"a": c, "b": d})
    program = runtimes.get("onnxruntime").compile(model, inputs, {})
    if loaded:
        aiq.export(FLOAT, model, tmp_path / "nested.onnx", example_inputs=inputs)
        program = aiq.load(tmp_path / "nested.onnx")
    with torch.no_grad():
        expected = model(*inputs)
    torch.testing.assert_close(program((a, b), {"b": d, "a": c}), expected)
    for wrong in (((a, b), {"a": c}), ((a, b, c), {"a": d}), ([a, b], {"a": c, "b": d})):
        with pytest.raises(InputError, match="not nested like the example inputs"):
            program(*wrong)
    with pytest.raises(InputError, match="2 positional arguments and was given 4"):
        program(a, b, c, d)


def test_a_number_that_depends_on_values_is_refused(x):
    model = Returns(lambda y, x: (y, x.sum().item())).eval()
    with pytest.raises(aiq.errors.GraphError, match=r"return the tensor instead of its .item\(\)"):
        runtimes.get("eager").compile(model, torch.randn(2, 4), {})


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_what_a_runtime_raises_on_values_is_one_sentence(runtime):
    net, x = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4)).eval(), torch.ones(2, 3).long()
    program = runtimes.get(runtime).compile(net, x, {})
    program(x)
    told = f"^Runtime {runtime} cannot run on these inputs .*; pass values that the model accepts, "
    with pytest.raises(RuntimeUnavailableError, match=told) as caught:
        program(99 * x)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value.__cause__, RuntimeUnavailableError)


def test_what_a_runtime_raises_on_a_file_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    engine = runtimes.get("onnxruntime")

    def fails(self, path):
        raise RuntimeError("\x1b[31mbroken\nat line 7")

    monkeypatch.setattr(type(engine), "_read", fails)
    told = r"cannot read .*net.onnx \(RuntimeError: broken\); give a file that aiq.export wrote"
    with pytest.raises(RuntimeUnavailableError, match=told):
        aiq.load(path)
