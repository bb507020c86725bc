"""Shares of training time that go into data: how batches and steps are timed, what is made of it, the page."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import data_loading, pages
from nbflows import data, recipes
from nbflows.training import steps

RECIPE = replace(recipes.get("digits-simple"), batch_size=256, accumulate=2)


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when it is told to."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(data_loading, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def _steps(clock, fixed, an_image, taken):
    """Steps that take so many seconds, the first of each number of images much longer."""

    def prepare(count):
        def run():
            clock.now += fixed + an_image * count + (0 if count in taken else 1000)
            taken.append(count)

        return run

    return lambda recipe, images, device: prepare


@pytest.mark.parametrize(("an_image", "counts"), [(0.25, {4, 8}), (1 / 32, {8, 16, 32})])
def test_a_long_step_is_on_the_line_and_what_no_image_takes_is_counted_once(an_image, counts, clock, monkeypatch):
    taken = []
    monkeypatch.setattr(data_loading, "training_step", _steps(clock, 0.5, an_image, taken))
    # A batch of 256 in two parts.
    assert data_loading.seconds_per_step(RECIPE, None, 8) == (pytest.approx(0.5 + an_image * 128), True)
    assert set(taken) == counts


@pytest.mark.parametrize(("batch_size", "counts"), [(8, {8}), (200, {8, 16, 32, 64, 100})])
def test_the_recipe_s_own_batch_is_timed_where_no_smaller_one_takes_long(batch_size, counts, clock, monkeypatch):
    taken, recipe = [], replace(RECIPE, batch_size=batch_size, accumulate=max(1, batch_size // 100))
    monkeypatch.setattr(data_loading, "training_step", _steps(clock, 0.5, 1 / 512, taken))
    expected = 0.5 + max(counts) / 512
    assert data_loading.seconds_per_step(recipe, None, 8) == (pytest.approx(expected), False)
    assert set(taken) == counts


def test_a_batch_takes_no_less_than_fewer_images_took():
    assert data_loading.on_the_line((4, 1.5), (8, 2.0), 128) == 2 + 120 / 8
    assert data_loading.on_the_line((4, 2.0), (8, 1.5), 128) == 1.5


def test_batches_are_timed_over_whole_epochs_and_the_order_of_each_counts(clock, monkeypatch):
    class Batches:
        def __init__(self, images, batch_size, *_, **__):
            assert (len(images), batch_size) == (1437, 128)

        def __iter__(self):
            clock.now += 6
            for _ in range(3):
                clock.now += 0.5
                yield

    monkeypatch.setattr(data, "Batches", Batches)
    monkeypatch.setattr(data_loading, "NUM_BATCHES", 7)
    assert data_loading.seconds_per_batch(RECIPE, data.load("digits")) == 6 / 3 + 0.5


@pytest.mark.parametrize("name", ["digits-simple", "digits-joint", "digits-caflow-super-resolution"])
def test_a_step_trains_on_as_many_images_as_it_is_told(name, monkeypatch):
    recipe, flows, seen = recipes.get(name), [], []
    build, augment = recipes.Recipe.build, steps.FlowModule.augment
    monkeypatch.setattr(recipes.Recipe, "build", lambda *given: flows.append(build(*given)) or flows[-1])
    monkeypatch.setattr(steps.FlowModule, "augment", lambda *given: seen.append(len(given[1])) or augment(*given))
    images = data_loading.training_data(recipe, {})
    run = data_loading.training_step(recipe, images)(5)
    run()
    before = [parameter.detach().clone() for parameter in flows[0].parameters()]
    run()
    assert seen == [5, 5]
    assert any(not torch.equal(a, b) for a, b in zip(before, flows[0].parameters(), strict=True))


def test_recipes_whose_data_are_not_here_are_skipped_by_name(monkeypatch, capsys):
    def missing(name):
        raise FileNotFoundError(name)

    monkeypatch.setattr(data, "load", missing)
    data_loading.main(["celeba-hq-residual", "edges2shoes-caflow", "--threads", str(torch.get_num_threads())])
    printed = capsys.readouterr().out
    assert "celeba-hq-residual: skipped" in printed and "edges2shoes-caflow: skipped" in printed


def test_shares_are_of_batch_and_step_together(monkeypatch):
    monkeypatch.setattr(data_loading, "seconds_per_batch", lambda *_: 0.001)
    monkeypatch.setattr(data_loading, "seconds_per_step", lambda *_: (1.999, True))
    found = data_loading.row("a name", RECIPE, data.load("digits"), 8, "cpu")
    assert found == ["a name", "digits", "128", "1.000", "≈ 1,999", "0.05%"]
    assert len(found) == len(data_loading.TITLES)
    monkeypatch.setattr(data_loading, "seconds_per_step", lambda *_: (20.0, False))
    assert data_loading.row("a name", RECIPE, data.load("digits"), 8, "cpu")[4:6] == ["20,000", "< 0.01%"]


@pytest.mark.parametrize("options", [["--threads", "0"], ["--images", "1"], ["no-such-recipe"]])
def test_what_cannot_be_measured_is_refused(options, capsys):
    with pytest.raises(SystemExit) as caught:
        data_loading.main(options)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert "at least 1 thread and 2 images, got" in printed or "no recipe named 'no-such-recipe'" in printed


# The pages -----------------------------------------------------------------------------------------------------------


def test_rows_of_a_page_are_replaced_and_the_others_and_all_around_the_table_stay(tmp_path):
    page = tmp_path / "page.md"
    rows = "| name | n |\n|---|---|\n| b | 1 |\n| old | 2 |"
    tables = [f"<!-- {mark}: command -->\n{rows}\n<!-- end -->" for mark in "xy"]
    page.write_text("before\n" + "\nbetween\n".join(tables) + "\nafter\n")
    pages.write(page, "y: command", [("c", "5"), ("b", "4")], ["name", "n"], ["a", "b", "c"])
    assert list(pages.read(page, "y: command").values()) == [["b", "4"], ["c", "5"]]
    assert page.read_text().startswith(f"before\n{tables[0]}\nbetween\n<!-- y: command -->\n| name")
    assert page.read_text().endswith("<!-- end -->\nafter\n")


def test_on_the_page_no_recipe_spends_two_percent_of_its_time_on_data():
    table = pages.read(data_loading.PAGE, data_loading.MARK)
    assert len(table) > 5 and set(table) <= set(recipes.RECIPES)
    for name, cells in table.items():
        assert float(cells[5].strip("<% ")) < 2, name
