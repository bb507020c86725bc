"""Estimates on paper: what is counted of a training step, and what is made of the counts."""

import math

import pytest
import torch
from torch.nn import functional as F

from benchmarks import pages, precision, scaling
from benchmarks.sizes import SIZES
from nbflows import models, pretrained, recipes
from nbflows.nets import ConvLSTM

SMALL = {"num_couplings": 2, "hidden_channels": 4, "num_blocks": 1}
# 4 products and 2 bytes each second.
GPU = scaling.GPU(half=4.0, single=1.0, bandwidth=2.0, memory=1e9, link=8.0)


def test_products_are_counted_forward_and_backward_and_views_are_not():
    x, weight = torch.randn(2, 3, 5, 6), torch.randn(7, 3, 3, 3, requires_grad=True)
    with scaling.Counter() as counter:
        y = F.conv2d(x, weight, padding=1)
        y.transpose(0, 1).flatten(2)[1:].sum().backward()
    products = [operation for operation in counter.operations if operation.flops]
    # x needs no gradient: one product forward, one backward.
    assert [operation.flops for operation in products] == [2 * 2 * 30 * 7 * 3 * 9] * 2
    assert products[0].moved == 4 * (x.numel() + weight.numel() + y.numel()) and not products[0].half
    assert not any("transpose" in operation.name or operation.name == "slice" for operation in counter.operations)


def test_the_bytes_that_are_alive_are_those_of_tensors_not_freed_yet():
    x = torch.zeros(1000)
    with scaling.Counter() as counter:
        y = x + 1
        z = y.view(10, 100) * 2
        del y
        w = z + 1
    assert [operation.alive for operation in counter.operations] == [4000, 8000, 8000]
    assert [operation.moved for operation in counter.operations] == [8000] * 3
    assert counter.operations[0].flops == 0 and len(w) == 10


def test_functions_with_gradients_of_their_own_are_counted():
    net, sequence = ConvLSTM(1, 4, 2, num_layers=1, kernel_size=3), torch.randn(2, 3, 1, 5, 5)
    with scaling.Counter() as forward:
        y = net(sequence)
    with scaling.Counter() as backward:
        y.sum().backward()
    pixels = 2 * 2 * 25 * 9
    embed, within, between, last = 3 * pixels * 4, 3 * pixels * 4 * 16, 2 * pixels * 4 * 16, 3 * pixels * 4 * 2
    assert sum(operation.flops for operation in forward.operations) == embed + within + between + last
    # The sequence itself needs no gradient.
    assert sum(operation.flops for operation in backward.operations) == embed + 2 * (within + between + last)


@pytest.mark.parametrize("memory", ["plain", "invertible"])
def test_a_step_is_linear_in_the_number_of_images(memory, monkeypatch):
    step = scaling.count_step("mnist-simple", memory, **SMALL)
    assert step.parameters == sum(p.numel() for p in models.simple(**SMALL).parameters())
    # Counted with five images and with six instead.
    monkeypatch.setattr(scaling, "BATCHES", (5, 6))
    measured = scaling.count_step("mnist-simple", memory, **SMALL)
    for a, b in zip(step.operations(5), measured.two, strict=True):
        assert a[:2] == b[:2] and a.flops == b.flops and a.moved == b.moved
        assert a.alive == pytest.approx(b.alive, rel=0.01)


def test_invertible_steps_multiply_more_and_keep_less():
    plain, invertible = (scaling.count_step("mnist-simple", m, **SMALL) for m in ("plain", "invertible"))
    costs = [scaling.cost(step, 64, GPU, 1.0) for step in (plain, invertible)]
    # A third more: forward once more, of forward and twice that backward.
    assert costs[1].flops / costs[0].flops == pytest.approx(4 / 3, rel=0.05)
    assert costs[1].peak < 0.8 * costs[0].peak


@pytest.mark.slow  # Three models: the page on scaling rests on it.
def test_a_residual_flow_of_three_blocks_a_level_costs_what_one_and_two_say():
    steps = [
        scaling.count_step("mnist-residual", num_blocks=(count,) * 3, hidden_channels=4, end_features=8)
        for count in (1, 2, 3)
    ]
    expected = scaling.Model([(-1.0, steps[0]), (2.0, steps[1])]).cost(64, GPU)
    assert expected.flops > 5e8
    assert scaling.cost(steps[2], 64, GPU, 1.0) == pytest.approx(expected, rel=1e-9)


def test_the_depth_of_a_paper_is_reached_from_shallow_models(monkeypatch):
    def on_paper(name, memory, **changes):
        recipe = recipes.get(name)
        with torch.device("meta"):
            flow = getattr(models, recipe.builder)(SIZES[recipe.data].shape, **{**recipe.arguments, **changes})
        return scaling.Step([], [], sum(parameter.numel() for parameter in flow.parameters()))

    monkeypatch.setattr(scaling, "count_step", on_paper)
    monkeypatch.setattr(scaling, "cost", lambda step, *_: scaling.Cost(0, 0, 0, 0, 0, step.parameters))
    # As the builders say.
    parameters = {
        "cifar10-glow": 44_152_176,
        "cifar10-marscf-affine": 45_630_990,
        "mnist-residual": 16_608_589,
        "imagenet32-residual": 47_099_089,
        "imagenet64-residual": 53_294_275,
    }
    for name, number in parameters.items():
        assert scaling.count_model(name).cost(1, GPU).parameters == number


def test_a_step_takes_what_its_operations_wait_for_its_launches_or_both():
    def operation(flops, moved, half=True):
        return scaling.Operation("product", half, flops, moved, alive=100)

    # The first waits for arithmetic, 10 s, the second for memory, 15 s, the third is in float32, 8 s.
    step = [operation(40, 6), operation(4, 30), operation(8, 2, half=False)]
    model = scaling.Model([(1.0, scaling.Step(step, step, parameters=10))])
    assert model.cost(7, GPU) == scaling.Cost(52, 38, 3, 33, 100, 10)
    assert model.cost(7, GPU, efficiency=0.5).seconds == 66
    recipe = recipes.get("celeba-hq-residual")
    optimizer = 4 * 13 * 10 / 2
    one = scaling.estimate(model, recipe, GPU, 1, 1.0, launch=1e-6)
    assert one.seconds == 5 * 33 + optimizer and one.all_reduce == 0 and one.memory == 100 + 160
    assert one.share == pytest.approx(5 * 52 / 4 / one.seconds)
    eight = scaling.estimate(model, recipe, GPU, 8, 1.0, launch=1e-6)
    assert eight.all_reduce == 2 * 7 / 8 * 4 * 10 / 8 and eight.seconds == one.seconds + eight.all_reduce
    slow = scaling.estimate(model, recipe, GPU, 1, 1.0, launch=1000.0)
    assert slow.seconds == slow.launches == 5 * 3 * 1000


def test_steps_are_those_of_whole_batches():
    assert scaling.num_steps(recipes.get("mnist-simple")) == 200 * 390
    # Of 27,000 images a tenth is kept back; of ImageNet's 1,281,167 a hundredth.
    assert scaling.num_steps(recipes.get("celeba-hq-residual")) == 1000 * 607
    assert scaling.num_steps(recipes.get("imagenet64-residual")) == 1000 * 19_818
    assert scaling.num_steps(recipes.get("imagenet32-marscf-affine")) == 400 * 9_909
    assert scaling.num_steps(recipes.get("ffhq-caflow-super-resolution")) == 200_000


# The pages -----------------------------------------------------------------------------------------------------------


def test_the_page_on_scaling_has_all_recipes_and_today_s_counts():
    tables = {name: pages.read(scaling.PAGE, scaling.MARK.format(name)) for name in ("work", "hours", "memory")}
    assert all(list(table) == list(scaling.RECIPES) for table in tables.values())
    name = "mnist-simple"
    plain, invertible = (scaling.count_model(name, memory) for memory in ("plain", "invertible"))
    page, now = tables["work"][name], scaling.work_row(name, plain)
    assert page[:5] == now[:5]
    assert all(row[3] == f"{scaling.num_steps(recipes.get(name)):,}" for name, row in tables["work"].items())
    # Changes in the code that lies between products cost little.
    for old, new in ((page[5], now[5]), (tables["memory"][name][2], scaling.memory_row(name, plain, invertible)[2])):
        assert math.isclose(float(old), float(new), rel_tol=0.1)


def test_the_page_on_precision_has_all_pretrained_models_and_none_is_changed_by_a_thousandth():
    table = pages.read(precision.PAGE, precision.MARK)
    assert set(table) == set(pretrained.find_manifest().models)
    for row in table.values():
        mean, error = map(float, row[3].split(" ± "))
        assert abs(mean) + error < 0.001
