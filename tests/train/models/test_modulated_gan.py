"""The training of a modulated generator, on drawn pairs of 64 pixels and features of an untrained network."""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2l_runtime.conditioning.numbers import measure_numbers
from m2l_runtime.errors import Diverged
from m2l_runtime.types import KNOWN_NAMES
from m2l_train.models.efficientnet_lite import EfficientNetLite, fold_norms
from m2l_train.models.modulated_gan import GanConfig, GanLosses, ModulatedGan, _View

NAMES, SIDE, BATCH = KNOWN_NAMES[:12], 64, 4
HALF = GanConfig(batch_size=BATCH, half_images=1 << 30)
FULL = dataclasses.replace(HALF, half_images=0)
ALL = dataclasses.replace(
    FULL, lambda_common=10.0, lambda_grids=0.05, lambda_focus=1.0, lambda_places=20.0, lambda_hair=1.0
)
"""Losses that are left out, too."""


def pairs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Discs in brown on pink, and the colors as appearances: masks, images, appearances."""
    random = np.random.default_rng(seed)
    y, x = np.ogrid[:SIDE, :SIDE]
    masks, images, rows = [], [], []
    for _ in range(BATCH):
        inside = np.hypot(y - random.uniform(24, 40), x - random.uniform(24, 40)) < random.uniform(8, 20)
        skin, lesion = random.normal((200, 150, 140), 12), random.normal((110, 70, 60), 12)
        noise = random.normal(0, 4, (SIDE, SIDE, 1))
        images.append((np.where(inside[..., None], lesion, skin) + noise).clip(0, 255).astype(np.uint8))
        masks.append(inside.astype(np.uint8) * 255)
        rows.append([*lesion, 4, 4, 4, *skin, 4, 4, 4])
    return torch.from_numpy(np.stack(masks)), torch.from_numpy(np.stack(images)), torch.tensor(rows).float()


@pytest.fixture(scope="module")
def features() -> EfficientNetLite:
    torch.manual_seed(0)
    return fold_norms(EfficientNetLite(0).eval())


def gan(features: EfficientNetLite, config: GanConfig = HALF) -> ModulatedGan:
    torch.manual_seed(1)
    return ModulatedGan(pairs()[2], NAMES, config, features, torch.device("cpu"))


def run(training: ModulatedGan, steps: int, random: np.random.Generator | None = None) -> list[GanLosses]:
    random = random or np.random.default_rng(0)
    return [training.step(*pairs(), random) for _ in range(steps)]


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def moved(before: dict[str, Tensor], network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if not torch.equal(before[name], parameter)}


@pytest.mark.slow
@pytest.mark.parametrize("config", [HALF, FULL, ALL])
def test_modulated_gan__a_few_steps_lower_the_l1(features: EfficientNetLite, config: GanConfig) -> None:
    alone = dataclasses.replace(
        config, lambda_l1=20.0, lambda_asked=0.0, lambda_marks=0.0, lambda_common=0.0, lambda_grids=0.0
    )
    losses = run(gan(features, alone), 7)
    assert np.mean([one.l1_levels for one in losses[-3:]]) < 0.6 * losses[0].l1_levels
    assert all(np.isfinite(dataclasses.astuple(one)).all() for one in losses)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    found: dict[str, Any] = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    return found


def test_modulated_gan__goes_on_bit_for_bit(features: EfficientNetLite) -> None:
    """From half the side to the full one, with other global random numbers in between."""
    config = dataclasses.replace(HALF, half_images=3 * BATCH)
    straight, random = gan(features, config), np.random.default_rng(7)
    run(straight, 2, random)
    state, state_of_random = through_a_file(straight.state()), copy.deepcopy(random)
    expected = run(straight, 2, random)
    torch.manual_seed(99)
    again = ModulatedGan(pairs(3)[2], NAMES, config, features, torch.device("cpu"))
    again.load_state(state)
    assert (again.step_count, again.images_seen) == (2, 2 * BATCH)
    assert run(again, 2, state_of_random) == expected
    flat, other = (
        {
            f"{part}.{name}": value
            for part, one in training.state().items()
            if part in ("G", "E", "PD", "HD", "MD")
            for name, value in one.items()
        }
        for training in (straight, again)
    )
    assert all(torch.equal(value, other[name]) for name, value in flat.items())


def test_modulated_gan__states_without_deviations_and_other_rates(features: EfficientNetLite) -> None:
    first = gan(features)
    run(first, 1)
    state = first.state()
    del state["deviations"], state["MD"], state["oM"]
    again = gan(features, dataclasses.replace(HALF, learning_rate_g=1e-5, learning_rate_d=2e-5))
    again.load_state(through_a_file(state))
    run(again, 1)
    rates = [group["lr"] for one in (again.optimizer_g, again.optimizer_d) for group in one.param_groups]
    assert rates == [1e-5, 2e-5]


def test_modulated_gan__each_step_moves_its_own_networks(
    features: EfficientNetLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = gan(features)
    judges = nn.ModuleList([training.patches, training.heads])
    seen: dict[str, tuple[set[str], set[str], set[str]]] = {}
    gradients: dict[str, Tensor] = {}
    for name in ("optimizer_d", "optimizer_g"):
        optimizer = getattr(training, name)

        def step(name: str = name, real: Any = optimizer.step) -> None:
            before = weights(training.generator), weights(judges), weights(features)
            if name == "optimizer_d":
                assert all(p.grad is None for p in training.generator.parameters())
                gradients.update({n: p.grad.clone() for n, p in judges.named_parameters() if p.grad is not None})
            real()
            seen[name] = (
                moved(before[0], training.generator),
                moved(before[1], judges),
                moved(before[2], features),
            )

        monkeypatch.setattr(optimizer, "step", step)
    run(training, 1)
    assert seen["optimizer_d"][0] == seen["optimizer_g"][1] == set()
    assert seen["optimizer_d"][2] == seen["optimizer_g"][2] == set()
    names = {name for name, parameter in judges.named_parameters() if ".mix." not in name}
    assert names == gradients.keys()
    biases = {name for name in names if ".out." in name and name.endswith("bias")}
    assert seen["optimizer_d"][1] | biases == names, "a hinge loss moves no bias as long as it counts all of both sides"
    for name, parameter in judges.named_parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, gradients[name]), "the generator's adds nothing"
    assert len(seen["optimizer_g"][0]) > 0.9 * len(list(training.generator.parameters()))


def test_modulated_gan__discriminators_alone_learn_and_the_generator_stays(features: EfficientNetLite) -> None:
    training = gan(features, FULL)
    parts = {name: getattr(training, name) for name in ("generator", "average", "patches", "heads", "finder")}
    before = {name: weights(part) for name, part in parts.items()}
    random = np.random.default_rng(0)
    losses = [training.step_discriminators(*pairs(), random) for _ in range(6)]
    assert {name for name, part in parts.items() if moved(before[name], part)} == {"patches", "heads", "finder"}
    assert (training.step_count, training.images_seen) == (0, 0)
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    with pytest.raises(ValueError, match="two masks at least"):
        training.step_discriminators(pairs()[0][:1], pairs()[1][:1], pairs()[2][:1], random)


def test_modulated_gan__losses_of_no_weight_are_not_computed(
    features: EfficientNetLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ("common", "places", "grids", "focus", "hair")
    table = torch.cat([pairs()[2], torch.rand(BATCH, 1)], 1)
    training = ModulatedGan(table, (*NAMES, "hair"), ALL, features, torch.device("cpu"))
    masks, images, _ = pairs()
    found = training.step(masks, images, table, np.random.default_rng(0))
    assert all(getattr(found, name) for name in named if name != "hair"), found  # there may be none to make
    for name in ("grid_power", "_focus_difference", "hair_difference"):
        monkeypatch.delattr(f"m2l_train.models.modulated_gan.{name}")
    training = ModulatedGan(table, (*NAMES, "hair"), FULL, features, torch.device("cpu"))
    monkeypatch.setattr(training, "_shared", {"marks": training._shared["marks"]})
    found = training.step(masks, images, table, np.random.default_rng(0))
    assert not any(getattr(found, name) for name in named)


def test_modulated_gan__the_mask_is_learned_from_real_images_alone(
    features: EfficientNetLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head's gradients are those of the cross-entropy on real features, computed anew, and nothing is added."""
    training = gan(features)
    before = weights(training.finder)
    first = copy.deepcopy(training.finder)
    seen: list[tuple[list[Tensor], Tensor]] = []
    real = training._find

    def find(maps: list[Tensor], mask: Tensor) -> Tensor:
        seen.append((maps, mask))
        return real(maps, mask)

    monkeypatch.setattr(training, "_find", find)
    run(training, 1)
    assert moved(before, training.finder) == set(before)
    (of_real, mask), (of_fake, same) = seen
    assert torch.equal(mask, same)
    assert [one[0].requires_grad for one in (of_real, of_fake)] == [False, True]
    with training._autocast():
        logits = first(of_real)
    count, _, height, width = mask.shape
    share = ((mask + 1) / 2).reshape(count, 1, height // 4, 4, width // 4, 4).mean((3, 5))  # a feature to 4 pixels
    probability = logits.double().sigmoid()
    expected = -(share * probability.log() + (1 - share) * (1 - probability).log()).mean()
    expected.backward()
    for own, other in zip(training.finder.parameters(), first.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(own.grad, other.grad, rtol=0.02, atol=1e-4)


def test_modulated_gan__lesions_cost_where_they_are_harder_to_find(features: EfficientNetLite) -> None:
    def gradient(weight: float, share: float = 0.5) -> Tensor:
        training = gan(features, dataclasses.replace(HALF, lambda_mask=weight, mask_share=share))
        run(training, 1)
        return torch.cat([one.grad.flatten() for one in training.generator.parameters() if one.grad is not None])

    nothing = gradient(0.0)
    assert torch.equal(gradient(5.0, 1e6), nothing), "all are easier to find than that"
    assert not torch.allclose(gradient(5.0, 0.0), nothing, rtol=0.1)


def test_modulated_gan__numbers_asked_for_are_compared_in_deviations(features: EfficientNetLite) -> None:
    """With names in another order, and one that cannot be followed."""
    masks, images, _ = pairs()
    names = ("hair", "sharpness", "skin_L", "lesion_spread_a")
    table = torch.from_numpy(
        np.stack([measure_numbers(a.numpy(), b.numpy(), names) for a, b in zip(images, masks, strict=True)])
    )
    training = ModulatedGan(table, names, FULL, features, torch.device("cpu"))
    x, is_lesion = images.permute(0, 3, 1, 2).float() / 127.5 - 1, (masks > 0)[:, None]
    assert training._asked_difference(x, is_lesion, table) < 1e-4
    further = table.clone()
    further[:, 2] += 3 * training.generator.std[2]
    further[:, 0] += 9  # of hair
    assert float(training._asked_difference(x, is_lesion, further)) == pytest.approx((3 - 0.5) / 3, rel=1e-2)


def test_modulated_gan__an_average_follows(features: EfficientNetLite) -> None:
    training = gan(features)
    before = weights(training.average)
    run(training, 1)
    for name, parameter in training.average.named_parameters():
        expected = before[name] + (1 - 2 / 11) * (weights(training.generator)[name] - before[name])
        torch.testing.assert_close(parameter, expected)
    assert not any(parameter.requires_grad for parameter in training.average.parameters())


def test_modulated_gan__half_of_the_batch_has_another_ones_appearance(
    features: EfficientNetLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, given = gan(features), list[Tensor]()
    real = training.generator.draw

    def draw(mask: Tensor, appearance: Tensor, noise: Tensor) -> Any:
        given.append(appearance)
        assert abs(float(noise.mean())) < 0.05
        assert float(noise.std()) == pytest.approx(1, abs=0.05)
        return real(mask, appearance, noise)

    monkeypatch.setattr(training.generator, "draw", draw)
    run(training, 1)
    assert torch.equal(given[0], pairs()[2][[0, 1, 3, 2]])


def test_modulated_gan__tells_that_it_diverged(features: EfficientNetLite) -> None:
    training = gan(features)
    with torch.no_grad():
        training.generator.head.weight[0, 0] = torch.nan
    with pytest.raises(Diverged, match="a loss is nan at step 1"):
        run(training, 1)


def test_modulated_gan__a_pale_lesion_may_be_as_hard_to_find_as_the_real_one(
    features: EfficientNetLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found is compared with the real image whose appearance was given."""
    training = gan(features, dataclasses.replace(HALF, mask_share=1.0))
    real, fake = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.1, 0.2, 0.4, 0.3])  # given: 0, 1, 3, 2
    terms = {}
    monkeypatch.setattr(training, "_train_finder", lambda batch: real)
    monkeypatch.setattr(training, "_find", lambda maps, mask: fake + 0.0 * maps[0].mean())
    own = training._generator_terms

    def keep(*args: Any) -> Any:
        found = own(*args)
        terms.update(found[0])
        return found

    monkeypatch.setattr(training, "_generator_terms", keep)
    run(training, 1)
    assert float(terms["mask"][1].detach()) == pytest.approx(0.0, abs=1e-6)
    fake += torch.tensor([0.0, 0.0, 0.0, 0.4])
    run(training, 1)
    assert float(terms["mask"][1].detach()) == pytest.approx(0.1)


def test_modulated_gan__processes_train_one_network_by_the_mean_of_their_gradients(features: EfficientNetLite) -> None:
    """Two that meet at a barrier, each with pairs of its own."""
    meeting, given = threading.Barrier(2), dict[int, list[Tensor]]()

    def share(rank: int, tensors: Sequence[Tensor]) -> None:
        given[rank] = [one.clone() for one in tensors]
        meeting.wait(60)
        for one, a, b in zip(tensors, given[0], given[1], strict=True):
            one.copy_((a + b) / 2)
        meeting.wait(60)

    torch.manual_seed(1)
    first = ModulatedGan(pairs()[2], NAMES, ALL, features, torch.device("cpu"), functools.partial(share, 0), 2)
    second = copy.deepcopy(first)
    second._share = functools.partial(share, 1)
    for shared in second._shared.values():
        shared._share = second._share

    def train(rank: int) -> None:
        for seed in range(2):
            (first, second)[rank].step(*pairs(2 * seed + rank), np.random.default_rng((rank, seed)))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, range(2)))
    assert first.images_seen == second.images_seen == 4 * BATCH
    for name in ("G", "E", "PD", "HD", "MD"):
        mine, other = first.state()[name], second.state()[name]
        assert all(torch.equal(value, other[key]) for key, value in mine.items())
    alone = gan(features, ALL)
    alone.step(*pairs(0), np.random.default_rng((0, 0)))
    assert not torch.equal(alone.generator.head.weight, first.generator.head.weight)


@pytest.mark.parametrize(("count", "side"), [(1, 64), (4, 32), (4, 80)])
def test_modulated_gan__batches_that_are_too_small(features: EfficientNetLite, count: int, side: int) -> None:
    masks, images = torch.zeros(count, side, side, dtype=torch.uint8), torch.zeros(count, side, side, 3)
    with pytest.raises(ValueError, match="two masks at least, of a side from 64 on"):
        gan(features).step(masks, images, torch.zeros(count, 12), np.random.default_rng(0))


def test_statistics__compare_each_region_in_deviations_of_the_real_features(features: EfficientNetLite) -> None:
    training = gan(features)
    torch.manual_seed(0)
    real = [torch.randn(2, 5, 16, 16) * 3] * 3
    mask = torch.full((2, 1, 32, 32), -1.0)
    mask[:, :, :16] = 1
    assert training._statistics(real, real, mask, mask).item() == 0
    inside = F.adaptive_avg_pool2d((mask + 1) / 2, 16)
    for where in (inside, 1 - inside):
        found = training._statistics([one + 6 * where for one in real], real, mask, mask)
        assert found.item() == pytest.approx(6 / 3.05 / 4, rel=0.1)  # of one mean of two means and two deviations
    black = torch.full_like(mask, -1)
    assert training._statistics([one + 6 * inside for one in real], real, black, mask).isfinite()
    assert training._statistics(real, [one.flip(2) for one in real], black, black).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("is_odd", [False, True])
def test_view__real_and_synthesized_are_seen_alike(is_odd: bool) -> None:
    image = torch.arange(SIDE * SIDE).reshape(1, 1, SIDE, SIDE).float()
    for seed in range(5):
        view = _View(image, True, is_odd, np.random.default_rng(seed))
        cut = view.pixels(image)
        assert cut.shape == (1, 1, 32, 32)
        corner = int(cut[0, 0, 0, 0])
        assert (corner // SIDE % 16, corner % SIDE % 16) == (0, 0)
        seen = view.features(image)
        assert seen.shape == (1, 1, 32, 32)
        assert torch.equal(seen, view.features(image.clone()))
        if is_odd:
            corner = int(seen[0, 0, 0, 0])
            top, left = divmod(corner, SIDE)
            assert torch.equal(seen, image[:, :, top : top + 32, left : left + 32])
            assert (top % 16, left % 16) == (0, 0)
        else:
            small = F.avg_pool2d(image, 2)
            middle = seen[0, 0, 16, 16]
            ((row, column),) = torch.nonzero(small[0, 0] == middle).tolist()
            assert max(abs(row - 16), abs(column - 16)) <= 8
        half = _View(image, False, is_odd, np.random.default_rng(seed))
        assert half.pixels(image).shape == half.features(image).shape == (1, 1, 32, 32)
        assert torch.equal(half.pixels(small_of(image)), half.pixels(image)), "whatever is at half the side already"


def test_view__corners_are_seen_in_one_view_of_twelve() -> None:
    image = torch.arange(256 * 256).reshape(1, 1, 256, 256).float()
    counts = torch.zeros(256, 256)
    views = 600
    for seed in range(views):
        view = _View(image, True, True, np.random.default_rng(seed))
        for seen in (view.pixels(image), view.features(image)):
            counts.view(-1)[seen.long().flatten()] += 1
    share = counts / (2 * views)
    corners = [float(share[y, x]) for y in (0, 255) for x in (0, 255)]
    borders = [float(share[128, 0]), float(share[128, 255]), float(share[0, 128]), float(share[255, 128])]
    assert all(0.05 < one < 0.15 for one in corners), "one in 81 if all parts were as likely"
    assert all(0.1 < one < 0.35 for one in borders)


def small_of(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, 2)
