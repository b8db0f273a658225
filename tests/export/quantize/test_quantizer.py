"""Int8 files read back with onnx: what is quantised, by which scales, for which engine; and what is left in float."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from support import Array, disc

from m2l_export.graph.deploy import deploy
from m2l_export.graph.onnx_writer import input_specs, to_onnx
from m2l_export.parity.metrics import Fidelity, ParityLimits, fidelity
from m2l_export.quantize.quantizer import Layer, Quantizer, Target
from m2l_export.quantize.sensitivity import Sensitivity, cheapest, choose_float_layers, measure_layers
from m2l_train.models.networks import UnetGenerator, UnetSpec

SIDE = 64
LEVELS = 5
WIDTHS = (4, 8, 16, 32, 32)
NAMES = [*(f"downs.{level}" for level in range(LEVELS)), *(f"ups.{level}" for level in reversed(range(LEVELS)))]
TARGETS: tuple[Target, ...] = ("onnxruntime", "openvino")
MASKS = np.stack([disc(SIDE, 6 + 5 * i, 30 + i, 26 + 2 * i) for i in range(6)])


@pytest.fixture(scope="module")
def content() -> bytes:
    """An fp32 file of random weights, whose output channels have ranges that differ by up to ten."""
    torch.manual_seed(0)
    made = UnetGenerator(UnetSpec(LEVELS, WIDTHS[0], 3, 3, "instance")).eval()
    for tensor in made.state_dict().values():
        spread = 10 ** torch.rand(len(tensor)).view(-1, *[1] * (tensor.dim() - 1))
        tensor.copy_(torch.randn_like(tensor) * 0.1 * spread)
    return to_onnx(deploy(made).graph, input_specs(made.spec, (SIDE, SIDE)))


@pytest.fixture(scope="module")
def quantizers(content: bytes) -> dict[Target, Quantizer]:
    return {target: Quantizer(content, {"mask": MASKS}, target) for target in TARGETS}


class Graph:
    """An ONNX file with its nodes by what they give and take."""

    def __init__(self, content: bytes) -> None:
        self.model = onnx.load_from_string(content)
        self.arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        self.maker = {name: node for node in self.model.graph.node for name in node.output}
        self.convolutions = [node for node in self.model.graph.node if node.op_type == "Conv"]

    def takers(self, name: str) -> list[str]:
        return [node.op_type for node in self.model.graph.node if name in node.input]

    def weight(self, node: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, npt.NDArray[Any] | None]:
        """(weights as stored, scales, zero points) of a convolution; the latter None where it is in float."""
        if node.input[1] in self.arrays:
            return self.arrays[node.input[1]], None, None
        dequantize = self.maker[node.input[1]]
        assert dequantize.op_type == "DequantizeLinear"
        stored, scale, zero = (self.arrays[name] for name in dequantize.input)
        assert [a.i for a in dequantize.attribute if a.name == "axis"] == [0]
        return stored, scale, zero

    def activation(self, node: Any) -> tuple[float, int] | None:
        """(scale, zero point) of what a convolution takes; None where that is a float."""
        dequantize = self.maker[node.input[0]]
        if dequantize.op_type != "DequantizeLinear":
            return None
        quantize = self.maker[dequantize.input[0]]
        assert quantize.op_type == "QuantizeLinear"
        assert list(quantize.input[1:]) == list(dequantize.input[1:])
        scale, zero = (self.arrays[name] for name in quantize.input[1:])
        assert zero.dtype == np.uint8
        return float(scale), int(zero)


def run(content: bytes, inputs: Mapping[str, npt.NDArray[Any]]) -> Array:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images: Array = session.run(None, dict(inputs))[0]
    return images


def test_quantizer__layers_in_the_order_in_which_they_run(quantizers: Mapping[Target, Quantizer]) -> None:
    for quantizer in quantizers.values():
        assert [layer.name for layer in quantizer.layers] == NAMES
        expected = []
        for level in range(LEVELS):
            side, taken = SIDE >> level + 1, 1 if level == 0 else WIDTHS[level - 1]
            expected.append(side**2 * 16 * taken * WIDTHS[level])
        for level in reversed(range(LEVELS)):  # a 2x2 convolution over one more row and column, to four times as many
            side, taken = (SIDE >> level + 1) + 1, WIDTHS[level] * (1 if level == LEVELS - 1 else 2)
            expected.append(side**2 * 4 * taken * 4 * (3 if level == 0 else WIDTHS[level - 1]))
        assert [layer.multiplications for layer in quantizer.layers] == expected


@pytest.mark.parametrize("target", TARGETS)
def test_quantizer__weights_have_a_scale_for_each_output_channel(
    content: bytes, quantizers: Mapping[Target, Quantizer], target: Target
) -> None:
    exact, graph = Graph(content), Graph(quantizers[target].quantize())
    most = {"onnxruntime": 127, "openvino": 64}[target]
    assert most == 127 or 2 * 255 * most < 1 << 15  # two products of a byte and a weight, added at 16 bits
    for node, wanted in zip(graph.convolutions, exact.convolutions, strict=True):
        stored, scale, zero = graph.weight(node)
        weight = exact.arrays[wanted.input[1]]
        assert stored.dtype == np.int8
        assert scale is not None
        assert zero is not None
        assert not zero.any()
        np.testing.assert_allclose(scale, np.abs(weight).max((1, 2, 3)) / most, rtol=1e-6)
        np.testing.assert_allclose(stored, weight / scale[:, None, None, None], atol=0.5 + 1e-4, rtol=0)
        assert np.abs(stored).max() == most


def convolved(content: bytes) -> list[npt.NDArray[np.float32]]:
    """What each convolution is given."""
    model = onnx.load_from_string(content)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    names = [node.input[0] for node in convolutions]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    values: list[npt.NDArray[np.float32]] = onnxruntime.InferenceSession(model.SerializeToString()).run(
        None, {"mask": MASKS}
    )
    return values


def test_quantizer__activations_have_the_range_that_was_seen(
    content: bytes, quantizers: Mapping[Target, Quantizer]
) -> None:
    values = convolved(content)
    for target in TARGETS:
        graph = Graph(quantizers[target].quantize())
        for node, seen in zip(graph.convolutions, values, strict=True):
            found = graph.activation(node)
            assert found is not None
            low, high = min(0.0, float(seen.min())), max(0.0, float(seen.max()))
            assert found[0] == pytest.approx((high - low) / 255, rel=1e-5)
            assert abs(found[1] + low / found[0]) <= 0.5 + 1e-3
        first = graph.activation(graph.convolutions[0])
        assert first is not None
        assert first[0] == pytest.approx(2 / 255)  # masks are from -1 to 1


@pytest.mark.parametrize("percentile", [99.0, 90.0])
def test_quantizer__activations_have_the_range_that_holds_a_share_of_what_was_seen(
    content: bytes, quantizers: Mapping[Target, Quantizer], percentile: float
) -> None:
    values = convolved(content)
    graph = Graph(quantizers["openvino"].quantize((), percentile))
    cut = (100 - percentile) / 200
    for node, seen in zip(graph.convolutions[1:], values[1:], strict=True):  # the first is given masks, in two levels
        found = graph.activation(node)
        assert found is not None
        ranked = np.sort(seen.ravel())
        low = min(0.0, float(ranked[math.floor(cut * seen.size)]))
        high = max(0.0, float(ranked[math.ceil((1 - cut) * seen.size) - 1]))
        bin_width = 2 * float(np.abs(seen).max()) / 2048
        assert found[0] * 255 == pytest.approx(high - low, abs=3 * bin_width)
        assert found[0] * 255 < 0.99 * float(seen.max() - min(0, seen.min()))
    whole = Graph(quantizers["openvino"].quantize())
    assert graph.activation(graph.convolutions[0]) == whole.activation(whole.convolutions[0])


def test_quantizer__onnxruntime_is_given_quantised_results_and_openvino_floats(
    quantizers: Mapping[Target, Quantizer],
) -> None:
    for target in TARGETS:
        graph = Graph(quantizers[target].quantize())
        takers = [graph.takers(node.output[0]) for node in graph.convolutions]
        assert len(takers) == len(NAMES)
        for found in takers:
            assert (found == ["QuantizeLinear"]) == (target == "onnxruntime")
            assert ("QuantizeLinear" in found) == (target == "onnxruntime")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("left", [("downs.0",), ("ups.0", "downs.3"), tuple(NAMES)])
def test_quantizer__layers_left_in_float(
    content: bytes, quantizers: Mapping[Target, Quantizer], target: Target, left: tuple[str, ...]
) -> None:
    exact, made = Graph(content), quantizers[target].quantize(left)
    graph = Graph(made)
    for name, node, wanted in zip(NAMES, graph.convolutions, exact.convolutions, strict=True):
        stored, scale, _ = graph.weight(node)
        assert (scale is None) == (name in left)
        assert (graph.activation(node) is None) == (name in left)
        if name in left:
            np.testing.assert_array_equal(stored, exact.arrays[wanted.input[1]])
            assert "QuantizeLinear" not in graph.takers(node.output[0])
    if left == tuple(NAMES):
        np.testing.assert_array_equal(run(made, {"mask": MASKS}), run(content, {"mask": MASKS}))


def test_quantizer__a_layer_that_is_not_there(quantizers: Mapping[Target, Quantizer]) -> None:
    with pytest.raises(ValueError, match="there is no layer downs.5, ups.9"):
        quantizers["openvino"].quantize(("ups.9", "downs.0", "downs.5"))


@pytest.mark.parametrize("target", TARGETS)
def test_quantizer__the_same_bytes_every_time(
    content: bytes, quantizers: Mapping[Target, Quantizer], target: Target
) -> None:
    first = quantizers[target].quantize(("ups.1",))
    quantizers[target].quantize()
    assert quantizers[target].quantize(("ups.1",)) == first
    assert Quantizer(content, {"mask": MASKS}, target).quantize(("ups.1",)) == first


def test_quantizer__the_file_tells_nothing_of_where_it_was_made(quantizers: Mapping[Target, Quantizer]) -> None:
    model = Graph(quantizers["onnxruntime"].quantize()).model
    assert model.producer_name == "m2l"
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]
    parts = (model, model.graph, *model.graph.node, *model.graph.initializer)
    assert not any(part.doc_string or list(part.metadata_props) for part in parts)


@pytest.mark.parametrize("seed", range(30))
def test_quantizer__the_cheapest_choice_against_all_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, criteria = int(rng.integers(1, 10)), int(rng.integers(1, 4))
    costs, errors = list(rng.random(count)), 10 ** rng.uniform(-6, -3, (count, criteria))
    budgets = rng.uniform(0, 1.1, criteria) * errors.sum(0)
    if seed % 3 == 0:
        budgets[0] = np.inf

    def is_within(left: Sequence[int]) -> bool:
        rest = [place for place in range(count) if place not in left]
        return all(sum(errors[place, k] for place in rest) <= budgets[k] * (1 + 1e-12) for k in range(criteria))

    choices = [left for size in range(count + 1) for left in itertools.combinations(range(count), size)]
    best = min(sum(costs[place] for place in left) for left in choices if is_within(left))
    found = cheapest(costs, errors, budgets)
    assert is_within(found)
    assert sum(costs[place] for place in found) == pytest.approx(best)
    assert found == sorted(set(found))


@pytest.mark.parametrize("seed", range(10))
def test_quantizer__of_many_layers_a_cheap_choice_within_the_budgets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs, errors = list(rng.random(24)), 10 ** rng.uniform(-6, -3, (24, 3))
    for share in (0.0, 0.3, 0.9, 1.1):
        budgets = share * errors.sum(0) * np.array([1, 2, 1])
        budgets[2] = np.inf
        found = cheapest(costs, errors, budgets)
        rest = [place for place in range(24) if place not in found]
        assert (errors[rest].sum(0) <= budgets * (1 + 1e-12)).all()
        assert found == sorted(set(found))
        assert (share > 1) == (not found)
        assert (share == 0) == (not rest)
    half = np.array([0.5 * errors[:, 0].sum(), np.inf, np.inf])
    found = cheapest(costs, errors, half)
    by_ratio = sorted(range(24), key=lambda place: costs[place] / errors[place, 0])
    greedy = next(by_ratio[:k] for k in range(24) if errors[by_ratio[k:], 0].sum() <= half[0])
    assert set(found) <= set(greedy), "some are taken back, none is added"
    rest = [place for place in range(24) if place not in found]
    for place in found:
        assert errors[[*rest, place], 0].sum() > half[0], "none more can be taken back"


class Fake:
    """Ten layers, each of which is off by so much in pixels of its own: their squared errors add up exactly.

    The last of the images has another layer that is off by most.
    """

    levels = (60, 9, 30, 5, 44, 2, 14, 3, 21, 70)
    costs = (5, 8, 1, 20, 9, 6, 14, 2, 30, 5)
    of_the_last = (0, 0, 0, 90, 0, 0, 8, 0, 0, 0)
    count = 4

    def __init__(self, floor: int = 0) -> None:
        self.layers = tuple(Layer(f"layer{k}", "", cost) for k, cost in enumerate(self.costs))
        self.reference = np.full((self.count, 11, 10, 3), 100, np.uint8)
        self.asked: list[tuple[str, ...]] = []
        self.floor = floor

    def images(self, float_layers: Any) -> Array:
        self.asked.append(tuple(float_layers))
        images = self.reference.copy()
        images[:, 10] += np.uint8(self.floor)
        for k, name in enumerate(layer.name for layer in self.layers):
            if name not in float_layers:
                images[:-1, k] += np.uint8(self.levels[k])
                images[-1, k] += np.uint8(self.of_the_last[k])
        return images

    def evaluate(self, float_layers: Any) -> Fidelity:
        return fidelity(self.reference, self.images(float_layers))

    def psnrs(self, left: Sequence[int]) -> list[float]:
        """By hand: of the first images and of the last."""
        found = []
        for levels in (self.levels, self.of_the_last):
            square = (self.floor**2 + sum(level**2 for k, level in enumerate(levels) if k not in left)) / 11
            found.append(99.0 if square == 0 else float(20 * np.log10(255) - 10 * np.log10(square)))
        return found

    def mean(self, left: Sequence[int]) -> float:
        first, last = self.psnrs(left)
        return (3 * first + last) / 4

    def cheapest_cost(self, is_good: Callable[[Sequence[int]], bool]) -> int:
        choices = [left for size in range(11) for left in itertools.combinations(range(10), size)]
        return min(sum(self.costs[k] for k in left) for left in choices if is_good(left))


def chosen_of(found: Sensitivity) -> tuple[int, ...]:
    return tuple(int(name.removeprefix("layer")) for name in found.float_layers)


@pytest.mark.parametrize("floor", [0, 6])
def test_quantizer__what_is_measured_of_each_layer(floor: int) -> None:
    fake = Fake(floor)
    errors = measure_layers(fake.layers, fake.images, fake.reference)
    assert len(fake.asked) == 12
    for k in range(10):
        first, last = fake.psnrs([other for other in range(10) if other != k])
        assert errors.alone[k].mean_psnr_db == pytest.approx((3 * first + last) / 4)
        assert errors.alone[k].worst_psnr_db == pytest.approx(min(first, last))
        wanted = [fake.levels[k] ** 2 / 11] * 3 + [fake.of_the_last[k] ** 2 / 11]
        assert errors.squared[k] == pytest.approx(wanted, abs=1e-9)
    assert errors.floor == pytest.approx([floor**2 / 11] * 4)
    assert errors.all_int8.mean_psnr_db == pytest.approx(fake.mean(()))


@pytest.mark.parametrize("wanted", [15.0, 19.0, 24.0, 30.0, 37.0])
@pytest.mark.parametrize("floor", [2, 5])
def test_quantizer__float_layers_are_those_that_bring_the_mean_within_the_limits(wanted: float, floor: int) -> None:
    fake = Fake(floor)
    errors = measure_layers(fake.layers, fake.images, fake.reference)
    found = choose_float_layers(
        errors, fake.evaluate, ParityLimits(wanted, 0, mean_levels=255, colour_shift_levels=255)
    )
    chosen = chosen_of(found)
    assert fake.mean(chosen) >= wanted
    assert found.chosen.mean_psnr_db == pytest.approx(fake.mean(chosen))
    assert found.all_int8 == errors.all_int8
    cost = sum(fake.costs[k] for k in chosen)
    assert found.float_share == pytest.approx(cost / 100)
    for k, row in enumerate(found.layers):
        assert (row.layer, row.multiplications_share) == (f"layer{k}", fake.costs[k] / 100)
        assert (row.alone_psnr_db, row.alone_worst_psnr_db) == (
            errors.alone[k].mean_psnr_db,
            errors.alone[k].worst_psnr_db,
        )
    # Not quite the cheapest, as the mean of logarithms is followed along its slope: within a third.
    assert cost <= 1.35 * fake.cheapest_cost(lambda left: fake.mean(left) >= wanted + 0.5)


@pytest.mark.parametrize("wanted", [15.0, 19.0, 24.0, 30.0, 37.0, 39.5])
@pytest.mark.parametrize("floor", [0, 8])
def test_quantizer__float_layers_are_those_that_bring_the_worst_within_the_limits(wanted: float, floor: int) -> None:
    """Exactly the cheapest, by trying all choices."""
    fake = Fake(floor)
    errors = measure_layers(fake.layers, fake.images, fake.reference)
    found = choose_float_layers(
        errors, fake.evaluate, ParityLimits(0, wanted, mean_levels=255, colour_shift_levels=255)
    )
    chosen = chosen_of(found)
    assert min(fake.psnrs(chosen)) >= wanted
    assert sum(fake.costs[k] for k in chosen) == fake.cheapest_cost(lambda left: min(fake.psnrs(left)) >= wanted)


@pytest.mark.parametrize("wanted", [17.0, 21.0, 26.0, 33.0])
def test_quantizer__errors_that_cancel_leave_no_more_in_float_than_need_be(wanted: float) -> None:
    """Where all layers together are half as far off as the sum of what each is alone, in squared levels."""

    class Cancelling(Fake):
        def images(self, float_layers: Any) -> Array:
            images = super().images(float_layers)
            return images if len(float_layers) >= 9 else _halved(images)

    def _halved(images: Array) -> Array:
        halved: Array = (100 + np.round((images - 100.0) / np.sqrt(2))).astype(np.uint8)
        return halved

    fake = Cancelling()
    errors = measure_layers(fake.layers, fake.images, fake.reference)
    assert errors.shares().sum(0) == pytest.approx(0.5 * errors.squared.sum(0), rel=0.02)
    found = choose_float_layers(errors, fake.evaluate, ParityLimits(0, wanted, 255, 255))
    cost = fake.cheapest_cost(lambda left: min(fake.psnrs(left)) >= wanted - 20 * np.log10(np.sqrt(2)) + 0.2)
    assert found.chosen.worst_psnr_db >= wanted
    assert sum(fake.costs[k] for k in chosen_of(found)) <= cost


def test_quantizer__a_single_image_that_is_far_off_has_its_own_layer_left_in_float() -> None:
    fake = Fake()
    fake.levels = (1,) * 10
    errors = measure_layers(fake.layers, fake.images, fake.reference)
    found = choose_float_layers(errors, fake.evaluate, ParityLimits(30, 25, mean_levels=255, colour_shift_levels=255))
    assert found.float_layers == ("layer3",)


def test_quantizer__levels_have_to_be_within_their_limits_too() -> None:
    fake = Fake()
    errors = measure_layers(fake.layers, fake.images, fake.reference)
    found = choose_float_layers(errors, fake.evaluate, ParityLimits(0, 0, mean_levels=3.0, colour_shift_levels=255))
    assert found.chosen.mean_levels <= 3.0
    assert 0 < len(found.float_layers) < 10


def test_quantizer__nothing_is_left_in_float_where_all_in_int8_is_good_enough() -> None:
    fake = Fake()
    errors = measure_layers(fake.layers, fake.images, fake.reference)
    fake.asked.clear()
    found = choose_float_layers(errors, fake.evaluate, ParityLimits(10, 0, 255, 255))
    assert found.float_layers == ()
    assert fake.asked == []


def test_quantizer__where_nothing_is_good_enough_all_is_left_in_float() -> None:
    fake = Fake(floor=100)
    errors = measure_layers(fake.layers, fake.images, fake.reference)
    for aim in (ParityLimits(50, 0, 255, 255), ParityLimits(0, 40, 255, 255), ParityLimits(0, 0, 255, 0)):
        found = choose_float_layers(errors, fake.evaluate, aim)
        assert len(found.float_layers) == 10
        assert found.float_share == pytest.approx(1)
