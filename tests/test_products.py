"""Matrix products with few rows: what packed weights of linear layers cost."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import aiq
from aiq import cost, runtimes
from aiq.calibrate import products as timed_products
from aiq.calibrate import programs
from aiq.cost import products
from aiq.errors import HardwareError
from aiq.formats import parse, parse_all
from aiq.graph import Op
from aiq.hardware import Hardware, library, profile
from aiq.hardware.products import Product
from aiq.runtimes import Support

ONE = [{"rows": 1, "start_us": 1, "rates": [{"elements": 1, "read_gbps": 1}]}]
CALIBRATED = [name for name in library.profile_files() if Hardware.load(name).runtimes]
MEASURED = (
    Product(1, 2.0, ((10_000, 4.0), (1_000_000, 8.0))),
    Product(16, 4.0, ((10_000, 2.0), (1_000_000, 2.0))),
)


class Block(nn.Module):
    """The matrices of one block of a decoder, and a convolution."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(576, 1536, bias=False), nn.Linear(1536, 576, bias=False)
        self.conv = nn.Conv1d(1, 1, 3)

    def forward(self, x):
        return self.conv(self.down(torch.relu(self.up(x)))[:, None])


@pytest.fixture(scope="module")
def step():
    return aiq.extract(Block().eval(), torch.randn(1, 576))


@pytest.mark.parametrize("name", CALIBRATED)
def test_no_calibrated_profile_prices_packed_weights_as_float32(step, name):
    hardware, formats = Hardware.load(name), parse_all("fp32,w8,w4,w4g64")
    for runtime in set(runtimes.names()) & {*hardware.runtimes}:
        table = cost.time_table(step, formats, hardware, runtime)
        fp32, w8, w4, w4g64 = (table.total(dict.fromkeys(table.layers, f)) for f in formats)
        # In a cache, unpacking decides: 4 bits may take longer than 8, and groups longer than none.
        assert max(w4, w4g64) < fp32, runtime
        assert (w8 == fp32) if runtime == "onnxruntime" else (w8 < fp32)
        conv = table.cost[table.layers.index("conv")]
        assert len(set(conv.tolist())) == 1  # no runtime packs the weights of a convolution


def test_a_decode_step_is_not_planned_in_float32(step):
    plan = aiq.search(
        Block().eval(),
        "xeon_2vcpu",
        example_inputs=torch.randn(1, 576),
        formats="fp32,w8,w4g64",
        runtime="openvino",
        max_drop=1.0,
    )
    assert {layer.format for layer in plan.layers if layer.op == "linear"} == {"w4g64"}


def test_runtimes_are_asked_about_linear_layers_for_formats_of_weights():
    class Engine:
        def support(self, op, fmt):
            asked[fmt.name] = op
            return Support.DEQUANT if fmt.name == "w4" else Support.NATIVE

    asked = {}
    found = programs.realisations(Engine())
    assert asked["w4"] is Op.LINEAR
    assert asked["w4a4"] is asked["w8a8"] is asked["fp32"] is Op.CONV
    assert found["wN"].support == "dequant"


def test_time_of_a_product_is_its_start_and_its_bytes_at_the_measured_rate(step):
    layer = step.quantizable[0]
    small = replace(layer, weight_shape=(100, 100), output_elements=100)
    w4 = parse("w4g32")
    assert products.seconds(MEASURED, w4.stored_bits, small) == pytest.approx(2e-6 + 5625 / 4e9)
    middle = replace(layer, weight_shape=(1000, 100), output_elements=1000)
    between = 56250 * (1 / 4e9 + 1 / 8e9) / 2
    assert products.seconds(MEASURED, w4.stored_bits, middle) == pytest.approx(2e-6 + between)
    eight = replace(small, output_elements=800)
    one, sixteen = 2e-6 + 5625 / 4e9, 4e-6 + 5625 / 2e9
    expected = one + (sixteen - one) * 7 / 15
    assert products.seconds(MEASURED, w4.stored_bits, eight) == pytest.approx(expected)
    many = replace(small, output_elements=6400)
    assert products.seconds(MEASURED, w4.stored_bits, many) == pytest.approx(4 * sixteen)
    assert products.seconds((), w4.stored_bits, small) is None
    assert products.seconds(MEASURED, w4.stored_bits, step.quantizable[-1]) is None


def test_a_format_that_was_not_measured_takes_the_rate_of_its_neighbour():
    measured = {"w4g32": MEASURED[:1], "w4": MEASURED[1:], "w8": MEASURED}
    assert products.nearest(measured, parse("w4g32")) == MEASURED[:1]
    assert products.nearest(measured, parse("w4g128")) == MEASURED[1:]
    assert products.nearest(measured, parse("w8g64")) == MEASURED
    assert products.nearest(measured, parse("w5g32")) == ()
    assert products.nearest(measured, parse("w4a8")) == ()


def test_products_are_kept_in_profiles_and_priced(step, tmp_path):
    hardware = Hardware.load("xeon_2vcpu")
    slow = {"fp32": MEASURED, "w4g64": (Product(1, 50.0, ((1000, 0.01),)),)}
    runtimes = dict(hardware.runtimes)
    runtimes["openvino"] = replace(runtimes["openvino"], products=slow)
    path = tmp_path / f"{hardware.name}.yaml"
    replace(hardware, runtimes=runtimes).save(path)
    again = Hardware.load(path)
    assert again.runtimes["openvino"].products == slow
    assert again.runtimes["onnxruntime"].products == {}
    table = cost.time_table(step, parse_all("fp32,w4g64"), again, "openvino")
    assert table.cost[0, 1] >= 50_000_000 + 576 * 1536 * 4.25 / 8 / 0.01e9 * 1e12
    assert table.cost[0, 0] < table.cost[0, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"w4g64": []}, "products.w4g64"),
        (
            {"w4g63": [{"rows": 1, "start_us": 1, "rates": [{"elements": 1, "read_gbps": 1}]}]},
            "w4g63",
        ),
        ({"w4": [{"rows": 0, "start_us": 1, "rates": [{"elements": 1, "read_gbps": 1}]}]}, "rows"),
        ({"w4": [{"rows": 1, "start_us": 1, "rates": []}]}, "rates"),
        ({"w4": [{"rows": 1, "start_us": 1, "rates": [{"elements": 1, "read_gbps": 0}]}]}, "gbps"),
        ({"w4": [{"rows": 1, "start_us": 1}]}, "rates is missing"),
    ],
)
def test_products_that_cannot_be_are_refused(change, words):
    document = profile.to_document(Hardware.load("xeon_2vcpu"))
    document["runtimes"]["openvino"]["products"] = change
    with pytest.raises(HardwareError, match=words):
        profile.schema.check_document(document, "file.yaml")


def test_calibration_finds_start_and_rates_of_products():
    rates = {576 * 192: 4e9, 576 * 576: 5e9, 576 * 24576: 6e9}
    rows = [
        {
            "format": "w4g32",
            "rows": 1,
            "outputs": outputs,
            "inputs": 576,
            "seconds": 3e-6 + outputs * 576 * 4.5 / 8 / rates[outputs * 576],
        }
        for outputs in (192, 576, 24576)
    ]
    (found,) = timed_products.fit_products(rows)["w4g32"]
    layer = aiq.extract(nn.Linear(576, 576, bias=False).eval(), torch.randn(1, 576)).quantizable[0]
    for row in rows:
        shape = (row["outputs"], 576)
        again = replace(layer, weight_shape=shape, output_elements=row["outputs"])
        predicted = products.seconds((found,), 4.5, again)
        assert predicted == pytest.approx(row["seconds"], rel=1e-3)


def test_a_runtime_without_packed_weights_has_no_products():
    found = timed_products.time_products(runtimes.get("eager"), lambda *_: None)
    assert found == []
    assert timed_products.fit_products(found) == {}
