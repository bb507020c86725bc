"""What there is to train and to load, as a table: each thing once, in 100 columns, with where its file is."""

import re
import subprocess
import sys

import pytest

from nbflows import list_pretrained, listing, models, pretrained, upstream
from nbflows.cli import main
from nbflows.recipes import RECIPES
from nbflows.storage import weights
from nbflows.storage.manifest import Manifest, sha256


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory with an empty cache and no address, whose manifest has the model "tiny"."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBFLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NBFLOWS_PRETRAINED_URL", raising=False)
    announce(tmp_path)
    return tmp_path


CONTENT = weights.to_bytes(models.digits_simple())


def announce(place, base_url=None):
    """Writes the manifest; its model "tiny" has the weights ``CONTENT``."""
    flow = models.digits_simple()
    known = {"sha256": sha256(CONTENT), "bytes": len(CONTENT), "purpose": "a test", "licence": "MIT"}
    entry = {**known, "builder": flow.built_by[0], "arguments": flow.built_by[1], "recipe": {"data": "digits"}}
    (place / "saved_models").mkdir(exist_ok=True)
    Manifest({"tiny": entry}, base_url).write(place / "saved_models" / "manifest.json")


# --- where a file is --------------------------------------------------------------------------------------------------


def test_a_model_without_a_file_and_without_an_address_has_no_address(place):
    assert pretrained.status("tiny") == "no address"


def test_a_model_in_the_folder_is_here(place):
    (place / "saved_models" / "tiny.safetensors").write_bytes(CONTENT)
    assert pretrained.status("tiny") == "here"
    pretrained.load_pretrained("tiny", progress=False)


def test_a_model_in_the_cache_is_here_if_it_is_the_published_one(place):
    (place / "cache").mkdir()
    (place / "cache" / f"tiny-{'0' * 12}.safetensors").write_bytes(b"an earlier version")
    assert pretrained.status("tiny") == "no address"
    (place / "cache" / f"tiny-{sha256(CONTENT)[:12]}.safetensors").write_bytes(CONTENT)
    assert pretrained.status("tiny") == "here"
    pretrained.load_pretrained("tiny", progress=False)


def test_a_model_with_an_address_can_be_downloaded(place, monkeypatch):
    announce(place, base_url="https://example.org/models")
    assert pretrained.status("tiny") == "download"
    announce(place)
    monkeypatch.setenv("NBFLOWS_PRETRAINED_URL", "https://example.org/models")
    assert pretrained.status("tiny") == "download"


def test_the_authors_weights_are_downloaded_or_here(place):
    name = "upstream/uva-mnist-simple"
    assert pretrained.status(name) == "download"
    by_hand = place / upstream.published.BY_HAND / upstream.find_published(name).file
    by_hand.parent.mkdir(parents=True)
    by_hand.touch()
    assert pretrained.status(name) == "here"
    by_hand.unlink()
    (place / "cache").mkdir()
    (place / "cache" / "upstream-uva-mnist-simple.safetensors").touch()
    assert pretrained.status(name) == "here"


def test_an_unknown_model_has_no_status(place):
    with pytest.raises(ValueError, match=r"no pretrained model named 'nope'; .*available: tiny"):
        pretrained.status("nope")
    with pytest.raises(ValueError, match="no published weights named 'upstream/nope'"):
        pretrained.status("upstream/nope")


# --- the table --------------------------------------------------------------------------------------------------------


def shown(monkeypatch, capsys, columns=100):
    """What ``nbflows list`` prints in a terminal of so many columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["list"]) == 0
    return capsys.readouterr().out


@pytest.fixture
def without_files(monkeypatch):
    """As where the package alone is installed: the status with the longest text."""
    monkeypatch.setattr(pretrained, "status", lambda name, known=None: "no address")


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_lines_fit_the_terminal_and_never_exceed_100_columns(columns, without_files, monkeypatch, capsys):
    lines = [*shown(monkeypatch, capsys, columns).splitlines(), *repr(list_pretrained()).splitlines()]
    assert len(lines) > len(RECIPES) + 2 * len(list_pretrained())
    assert max(map(len, lines)) <= min(columns, 100)


@pytest.mark.parametrize("columns", [100, 200])
def test_at_100_columns_each_recipe_and_each_model_is_one_line_with_its_text(
    columns, without_files, monkeypatch, capsys
):
    for_training, trained = shown(monkeypatch, capsys, columns).split("Trained models")
    for name, recipe in RECIPES.items():
        assert re.findall(rf"^{name}  +(\S.*)$", for_training, re.M) == [recipe.description]
    for table in (trained, repr(list_pretrained())):
        for name, entry in list_pretrained().items():
            assert re.findall(rf"^{name}  +no address  (\S.*)$", table, re.M) == [entry["purpose"]]


def test_a_narrow_terminal_shows_each_name_once_and_its_text_below(without_files, monkeypatch, capsys):
    for_training, trained = shown(monkeypatch, capsys, 60).split("Trained models")
    for name in RECIPES:
        assert len(re.findall(rf"^{name}(?: |$)", for_training, re.M)) == 1
    for name in list_pretrained():
        assert len(re.findall(rf"^{name}(?: |$)", trained, re.M)) == 1
    below = "\n".join(["tiny-imagenet-32-caflow-inpainting               no address", "    CAFLOW, inpainting"])
    assert f"\n{below}\n" in trained


def test_the_table_shows_the_status_of_each_model(place, monkeypatch, capsys):
    for status in ("no address", "download", "here"):
        if status == "download":
            monkeypatch.setenv("NBFLOWS_PRETRAINED_URL", "https://example.org/models")
        if status == "here":
            (place / "saved_models" / "tiny.safetensors").write_bytes(CONTENT)
        assert re.search(rf"^tiny  {status}  a test$", shown(monkeypatch, capsys), re.M)
        assert re.search(rf"<td>tiny *</td><td>{status} *</td>", list_pretrained()._repr_html_())


def test_every_text_stands_alone_and_differs_from_the_others_of_its_group(without_files):
    for table, cells in ((listing.recipes(RECIPES, 100), 2), (listing.models(list_pretrained(), 100), 3)):
        for group in table.split("\n\n"):
            texts = [re.split(r"  +", row, maxsplit=cells - 1)[-1] for row in group.splitlines()[1:]]
            assert len(set(texts)) == len(texts) > 0
            for text in texts:
                assert not re.search(r"\bthe same\b|learned noise|\babove\b", text), text


def test_data_of_an_unknown_name_has_a_group_of_its_own_behind_the_others():
    entry = {"purpose": "a test", "status": "here"}
    table = listing.models(
        {"b": {**entry, "recipe": {"data": "moths"}}, "a": entry, "c": {**entry, "task": {"name": "t"}}}
    )
    titles = re.findall(r"^-- (.*?) -+$", table, re.M)
    assert titles == [
        "images of your own, given with --data",
        "images of your own, given with --data; image to image",
        "moths",
    ]


def test_a_long_text_is_wrapped_beside_its_name():
    table = listing.facts({"data": "super-resolution " * 6, "nothing": ""}, width=60)
    assert table.splitlines() == [
        "data  " + "super-resolution " * 2 + "super-resolution",
        "      " + "super-resolution " * 2 + "super-resolution",
    ]


def test_importing_and_listing_need_neither_lightning_nor_drawing_nor_tables():
    heavy = "lightning", "torchvision", "matplotlib", "seaborn", "sklearn", "skimage", "tabulate", "IPython", "PIL"
    # To list needs pooch, which knows where downloads are kept; to import does not.
    code = f"""if True:
        import sys, nbflows
        print([name for name in {(*heavy, "pooch", "torchmetrics")} if name in sys.modules])
        from nbflows.cli import main
        main(["list"])
        print([name for name in {heavy} if name in sys.modules])
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after_import, *_, after_list = run.stdout.splitlines()
    assert after_import == after_list == "[]"
