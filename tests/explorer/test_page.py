"""The explorer's page in a browser without a network: every control by mouse and by keyboard, wide and narrow."""

import json
import re

import pytest

from nbflows import cli, explorer

# Half a minute for all controls: only a browser shows that they work.
pytestmark = pytest.mark.slow
MODELS = ("digits-multiscale", "digits-glow")
IDLE = "() => explorer.idle() && document.getElementById('bits').textContent.length > 1"


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    """The page of two small models, as the command writes it."""
    file = tmp_path_factory.mktemp("explorer") / "explorer.html"
    assert cli.main(["explore", *MODELS, str(file)]) == 0
    return file


@pytest.fixture
def opened(file, page):
    """The page, open and at rest; on leaving it, it has asked nobody for anything and its console has no errors."""
    page.goto(file.as_uri())
    _rest(page)
    yield page
    assert not page.faults
    assert page.inner_text("#status") == ""


def _rest(page):
    page.wait_for_function(IDLE)


def _state(page, name):
    return page.evaluate(
        f"JSON.parse(JSON.stringify(explorer.state.{name}, (_, v) => v?.BYTES_PER_ELEMENT ? [...v] : v))"
    )


def _changes(page, act, *names):
    """Whether these parts of the state differ after an action."""
    before = [_state(page, name) for name in names]
    act()
    _rest(page)
    return [_state(page, name) != old for name, old in zip(names, before, strict=True)]


def _slide(page, selector, value):
    page.locator(selector).fill(str(value))


def test_latents_move_the_picture_and_its_bits(opened):
    page = opened
    assert _state(page, "bits") == pytest.approx(float(page.inner_text("#bits")), abs=5e-4)
    for act in (
        lambda: page.click("#sample"),
        lambda: page.click("#noise-0"),
        lambda: page.click("#noise-1"),
        lambda: _slide(page, "#temperature-1", 0.3),
        lambda: _slide(page, "#shift-1", 1.5),
        lambda: _slide(page, "#value", 4),
    ):
        assert _changes(page, act, "z", "pixels", "bits") == [True, True, True]
    page.check("[name=reach][value=channel]")
    assert _changes(page, lambda: _slide(page, "#value", -3), "z", "pixels") == [True, True]
    page.click("#reset")
    _rest(page)
    assert _state(page, "edit") == [[0] * 32, [0] * 32] and _state(page, "temperature") == [1, 1]
    assert _changes(page, lambda: page.click("#starts button:nth-child(7)"), "z", "pixels", "bits") == [True] * 3
    # The latents of a picture give the picture back.
    pixels = _state(page, "pixels")
    page.click("#reset")
    _rest(page)
    assert _state(page, "pixels") == pixels


def test_a_cell_is_dragged_with_the_mouse_and_moved_with_the_keyboard(opened):
    page = opened
    page.locator("#level-1").scroll_into_view_if_needed()
    box = page.locator("#level-1").bounding_box()

    def drag():
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + 5, box["y"] - 85, steps=6)
        page.mouse.up()

    before = _state(page, "z")[1]
    assert _changes(page, drag, "pixels") == [True]
    after = _state(page, "z")[1]
    assert after[0] == pytest.approx(before[0] + 3, abs=0.1) and after[1:] == before[1:]
    page.focus("#level-1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert _state(page, "cell") == {"level": 1, "index": 3}
    for _ in range(3):
        page.keyboard.press("+")
    _rest(page)
    assert _state(page, "z")[1][3] == pytest.approx(before[3] + 0.75)
    assert "channel 1, row 2, column 2" in page.get_attribute("#level-1", "aria-label")


def test_a_walk_begins_and_ends_at_the_two_pictures(opened):
    page = opened
    page.click("#tab-walk")
    _rest(page)
    page.click("#walk-a button:nth-of-type(3)")
    page.click("#walk-b button:nth-of-type(15)")
    _rest(page)
    ends = page.evaluate("[2, 14].map((i) => [...explorer.models[explorer.state.key].pictures[i]])")
    walked = []
    for position in (0, 0.5, 1):
        _slide(page, "#walk", position)
        _rest(page)
        values = _state(page, "pixels")
        walked.append(values)
    assert walked[0] == ends[0] and walked[2] == ends[1] and walked[1] not in ends
    page.check("[name=walk][value=classes]")
    page.select_option("#class-a", "1")
    page.select_option("#class-b", "7")
    _rest(page)
    assert _changes(page, lambda: _slide(page, "#walk", 0.2), "pixels", "z") == [True, True]
    page.click("#walk-play")
    page.wait_for_timeout(400)
    assert 0 < float(page.input_value("#walk")) < 1
    page.click("#walk-play")


def test_a_stroke_of_the_pen_changes_latents_and_bits(opened):
    page = opened
    page.click("#tab-draw")
    page.click("#clear")
    _rest(page)
    assert set(_state(page, "pixels")) == {0}
    page.locator("#picture").scroll_into_view_if_needed()
    box = page.locator("#picture").bounding_box()

    def stroke():
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 30, steps=8)
        page.mouse.up()

    assert _changes(page, stroke, "pixels", "z", "bits") == [True, True, True]
    page.focus("#picture")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert _changes(page, lambda: page.keyboard.press("Space"), "pixels", "z") == [True, True]
    assert _changes(page, lambda: page.keyboard.press("Shift+ArrowLeft"), "pixels") == [True]
    page.check("[name=pen][value=erase]")
    page.focus("#picture")
    assert _changes(page, lambda: page.keyboard.press("Space"), "pixels") == [True]
    page.click("#average")
    _rest(page)
    assert re.match(r"Mean of 8 draws: \d\.\d+ ± 0\.\d+ bits/dim", page.inner_text("#average-note"))


def test_every_layer_has_its_picture(opened):
    page = opened
    page.click("#tab-layers")
    _rest(page)
    read = "[...document.getElementById('picture').getContext('2d').getImageData(0, 0, 8, 8).data].join()"
    seen, last = [], int(page.get_attribute("#step", "max"))
    for step in (0, 5, last):
        _slide(page, "#step", step)
        seen.append(page.evaluate(read))
    assert len(set(seen)) == 3
    assert page.inner_text("#step-out") == f"{last}/{last}" and "level 1" in page.inner_text("#step-name")
    page.click("#film", position={"x": 5, "y": 5})
    assert page.input_value("#step") == "0"
    page.click("#step-play")
    page.wait_for_timeout(700)
    assert int(page.input_value("#step")) > 0
    page.click("#step-play")


def test_what_the_flow_never_saw_is_scored(opened):
    page = opened
    page.click("#tab-break")
    seen = {}
    for button in page.locator("#breakers button").all():
        button.click()
        _rest(page)
        seen[button.inner_text()] = _state(page, "bits")
    # A flow of grey levels cannot know of random ones.
    assert seen["Random values"] > 4 > seen["All black"]
    assert _changes(page, lambda: page.click("#strangers button"), "pixels", "bits") == [True, True]
    assert _changes(page, lambda: _slide(page, "#mix", 0.6), "pixels", "bits") == [True, True]


def test_the_tour_runs_by_keyboard_alone_and_each_stop_moves_something(opened):
    page = opened
    page.focus("#tour-start")
    page.keyboard.press("Enter")
    titles = []
    for _ in range(10):
        titles.append(page.inner_text("#tour-title"))
        page.wait_for_timeout(150)
        page.focus("#tour-next")
        page.keyboard.press("Enter")
    assert len(set(titles)) == 10
    assert page.locator("#tour").is_hidden()
    page.click("#tour-start")
    page.keyboard.press("Escape")
    assert page.locator("#tour").is_hidden()
    _rest(page)


def test_keys_reach_tabs_models_theme_and_full_screen(opened):
    page = opened
    page.focus("#tab-latents")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-walk", "aria-selected") == "true" and page.locator("#panel-walk").is_visible()
    page.focus("#models input:checked")
    page.keyboard.press("ArrowRight")
    _rest(page)
    assert _state(page, "key") == 1 and "digits-glow" in page.inner_text("#about")
    before = page.evaluate("document.documentElement.dataset.theme")
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") != before
    page.focus("#full")
    page.keyboard.press("Enter")
    page.wait_for_function("document.fullscreenElement !== null")
    page.keyboard.press("Enter")
    page.wait_for_function("document.fullscreenElement === null")
    _rest(page)


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_and_axe_finds_no_violation(width, theme, file, page, violations):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    page.goto(file.as_uri())
    _rest(page)
    for tab in ("latents", "walk", "draw", "layers", "break"):
        page.click(f"#tab-{tab}")
        _rest(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert not violations(page)


def test_the_first_picture_and_its_bits_are_there_within_a_second(file, page):
    page.goto(file.as_uri())
    page.wait_for_function(IDLE)
    assert page.evaluate("performance.getEntriesByType('paint').at(-1).startTime") < 1000


def test_a_page_whose_weights_were_changed_says_so_and_shows_nothing(file, page, tmp_path):
    text = file.read_text()
    start = text.index('"weights":"') + 5000
    other = "A" if text[start] != "A" else "B"
    changed = tmp_path / "changed.html"
    changed.write_text(text[:start] + other + text[start + 1 :])
    page.goto(changed.as_uri())
    page.wait_for_selector("#refused:not([hidden])")
    assert "digits-multiscale is refused: the weights do not match" in page.inner_text("#refused")
    assert page.locator(".stage").is_hidden()


def test_the_page_names_the_published_file_and_stays_small(file):
    assert file.stat().st_size < 5_000_000
    text = file.read_text()
    models = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert [model["name"] for model in models] == list(MODELS)
    assert all(re.fullmatch(r"[0-9a-f]{64}", model["published"]) for model in models)
    assert len(models[0]["pictures"]) == 20 and sorted(set(models[0]["labels"])) == list(range(10))


def test_kernels_of_the_largest_model_are_in_float16_where_24_bits_do_not_fit(file, tmp_path, monkeypatch):
    monkeypatch.setattr(explorer.page, "MAX_BYTES", file.stat().st_size - 1)
    smaller = explorer.write_page(MODELS, tmp_path / "smaller.html").read_text()
    assert re.findall(r"kernels\W+(float16|24 bits)", smaller) == ["float16", "24 bits"]


def test_a_page_that_is_too_large_and_a_model_that_it_cannot_compute_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(explorer.page, "MAX_BYTES", 100_000)
    with pytest.raises(ValueError, match="more than 5: name fewer"):
        explorer.write_page(["digits-glow"], tmp_path / "a.html")
    assert cli.main(["explore", "digits-residual", str(tmp_path / "b.html")]) == 2
    assert "does not know the layer ResidualBlock" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
