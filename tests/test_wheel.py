"""The package without a clone: a wheel is built and installed where nothing else of nbflows is, and used offline."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nbflows import recipes

# A wheel is built and installed: a minute that a change of the package's contents needs, and others do not.
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
MISSING_MODEL = "tiny-imagenet-32-per-level-inpainting"
LESSONS = sorted(file.name for file in (ROOT / "notebooks").glob("*.ipynb"))


def _run(*command, folder, **environment):
    # A proxy that does not exist: whatever asks the network fails.
    offline = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("NBFLOWS", "PYTHON", "COV"))}
    home = {"HOME": str(folder / "home"), "MPLBACKEND": "Agg"}
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=variables | offline | home | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    built = _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment of its own with the wheel; all other packages are those of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv")
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    places = [sysconfig.get_path(kind, vars={"base": str(folder / "venv")}) for kind in ("purelib", "scripts")]
    install = _run(
        *(sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-deps", "--no-index", wheel),
        folder=folder,
    )
    assert install.returncode == 0, install.stdout + install.stderr
    # Files of this kind are not read in the folders that one of them names: nbflows itself is not borrowed.
    (Path(places[0]) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # What is said of a model whose file is not here.
    (Path(places[0]) / "nbflows" / "saved_models" / f"{MISSING_MODEL}.safetensors").unlink()
    work = folder / "work"
    work.mkdir()

    def nbflows(*arguments, **environment):
        return _run(scripts / "nbflows", *arguments, folder=work, **environment)

    def python(code, **environment):
        return _run(
            scripts / "python", "-W", "error::DeprecationWarning:nbflows", "-c", code, folder=work, **environment
        )

    return SimpleNamespace(nbflows=nbflows, python=python, work=work)


def test_the_wheel_holds_the_lessons_and_every_published_model(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    pages = ["symbols.md", "teaching.md"]
    assert sorted(Path(name).name for name in names if "/notebooks/" in name) == sorted([*LESSONS, *pages])
    published = {file.name for file in (ROOT / "saved_models").glob("*.safetensors")}
    assert len(published) > 20
    assert {Path(name).name for name in names if name.endswith(".safetensors")} == published
    assert {"nbflows/saved_models/manifest.json", "nbflows/py.typed"} < set(names)
    explorer = {file.name for file in (ROOT / "nbflows" / "explorer").glob("*.*")}
    assert {name.split("/")[2] for name in names if name.startswith("nbflows/explorer/")} == explorer
    assert not [name for name in names if name.startswith(("tests", "tools", "benchmarks"))]
    # An index takes files of 100 MB at most.
    assert wheel.stat().st_size < 90_000_000


def test_the_readme_on_an_index_page_has_no_dead_links_or_pictures(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    text = message_from_bytes(archive.read(metadata)).get_payload()
    assert "make demo" in text and len(text) > 0.8 * len((ROOT / "README.md").read_text(encoding="utf-8")) - 5000
    targets = re.findall(r"\]\(([^)]*)\)", text) + re.findall(r'(?:src|href)="([^"]*)"', text)
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_twine_accepts_the_wheel(wheel):
    checked = _run(sys.executable, "-m", "twine", "check", "--strict", wheel, folder=wheel.parent)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_list_says_which_models_are_here_and_fits_100_columns(installed):
    listed = installed.nbflows("list")
    assert listed.returncode == 0, listed.stderr
    assert max(map(len, listed.stdout.splitlines())) <= 100
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert ["digits-multiscale", "here"] in [line[:2] for line in lines]
    assert [MISSING_MODEL, "no", "address"] in [line[:3] for line in lines]
    assert ["upstream/uva-mnist-simple", "download"] in [line[:2] for line in lines]


def test_models_of_the_wheel_load_sample_and_translate(installed):
    loaded = installed.python(
        "import sys, nbflows; from nbflows.cli import main;"
        "print(nbflows.__file__, tuple(nbflows.load_pretrained('digits-multiscale').sample(3).shape), sep='\\n');"
        "main(['sample', 'digits-multiscale', 'digits.png', '--num-samples', '4']);"
        "print(sorted({'lightning', 'matplotlib', 'seaborn', 'sklearn', 'skimage', 'IPython'} & set(sys.modules)))"
    )
    assert loaded.returncode == 0, loaded.stderr
    where, shape, *_, not_needed = loaded.stdout.splitlines()
    assert str(ROOT) not in where and "site-packages" in where
    assert shape == "(3, 1, 8, 8)" and not_needed == "[]"
    with Image.open(installed.work / "digits.png") as picture:
        assert np.asarray(picture).std() > 10
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).resize((4, 4)).save(installed.work / "in.png")
    model = "digits-caflow-super-resolution"
    translated = installed.nbflows("translate", "--model", model, "in.png", "out.png", "--num-samples", "2", "--best")
    assert translated.returncode == 0, translated.stderr
    with Image.open(installed.work / "out.png") as picture:
        assert picture.size == (8, 8)


def test_a_model_that_is_not_here_is_an_error_that_names_the_ways(installed):
    failed = installed.nbflows("sample", MISSING_MODEL, "out.png")
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    for way in (
        "Run in the folder of a clone",
        f"copy saved_models/{MISSING_MODEL}.safetensors",
        f"nbflows train {MISSING_MODEL}",
    ):
        assert way in failed.stderr
    assert MISSING_MODEL in recipes.RECIPES


MISSING = {
    "lightning": ("train digits-simple --max-steps 1", "train"),
    "sklearn": ("evaluate digits-simple", "data"),
    "skimage": ("evaluate tiny-imagenet-32-marscf-affine --data photo-patches", "data"),
    "torchmetrics": ("evaluate digits-caflow-super-resolution --limit 2 --num-samples 2", "train"),
}


@pytest.mark.parametrize("package", MISSING)
def test_a_missing_extra_is_one_line_that_installs_it(installed, package):
    command, extra = MISSING[package]
    code = (
        f"import sys; sys.modules['{package}'] = None;from nbflows.cli import main; sys.exit(main({command.split()}))"
    )
    failed = installed.python(code)
    assert failed.returncode == 2, failed.stderr
    assert failed.stderr.splitlines()[-1] == f'nbflows: {package} is not installed: pip install "nbflows[{extra}]"'
    assert "Traceback" not in failed.stderr


# The quickstart runs up to its first figure: it trains for a minute, and `make test` runs all of it in the clone.
@pytest.mark.parametrize("num_cells", [5, pytest.param(None, marks=pytest.mark.full_size)])
def test_lessons_are_copied_once_and_run_from_there(installed, num_cells):
    course = f"course-{num_cells}"
    copied = installed.nbflows("lessons", course)
    assert copied.returncode == 0, copied.stderr
    assert f"jupyter lab {course}" in copied.stdout
    assert sorted(file.name for file in (installed.work / course).iterdir()) == sorted([*LESSONS, "symbols.md"])
    again = installed.nbflows("lessons", course)
    assert again.returncode == 2 and f"15 of 15 lessons are in {course} already" in again.stderr
    code = (
        f"import nbformat; from nbclient import NotebookClient; n = nbformat.read('{course}/00_quickstart.ipynb', 4);"
        f"n.cells = n.cells[:{num_cells}]; assert n.cells[-1].source;"
        f"NotebookClient(n, kernel_name='python3', resources={{'metadata': {{'path': '{course}'}}}}).execute()"
    )
    ran = installed.python(code)
    assert ran.returncode == 0, ran.stderr
