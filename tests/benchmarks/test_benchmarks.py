"""The benchmarks measure what they say: fresh processes, peak memory, turns, revisions; and cover every model."""

import ast
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nbflows.training.compiling
from benchmarks import __main__ as command_line
from benchmarks import compare, depth, figure, harness, mar_scf, peers, table, worker
from benchmarks.configuration import PACKAGES, Configuration, UsageError, parse
from benchmarks.harness import Measurement, Task, TaskError
from benchmarks.revisions import checked_out

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks").glob("*.py"))
# Their tasks are models of the papers' sizes: half a minute each to prepare and run.
PAPER_SIZES = ("tutorial", "mar_scf", "residual")
# What the fresh process runs: a module of tasks that is nowhere but in the test's folder.
FAKE_TASKS = '''
import time
from pathlib import Path

import torch

import nbflows
from benchmarks.harness import Task, Workload

calls = []


def holds_memory():
    """200 MiB; the first two calls take a fifth of a second, the others a hundredth."""
    held = torch.ones(50 * 2**20)

    def run():
        calls.append(held)
        time.sleep(0.2 if len(calls) <= 2 else 0.01)

    return Workload(run)


def tells_its_settings():
    settings = torch.get_num_threads(), torch.is_autocast_enabled("cpu"), Path(nbflows.__file__).parent.parent
    if settings != (1, True, Path.cwd()):
        raise RuntimeError(f"other settings: {settings}")
    return Workload(lambda: None)


def remembers_its_memory():
    flow = nbflows.models.digits_glow()
    return Workload(lambda: None if flow.bijection[-1].memory == "invertible" else 1 / 0, flow)


TASKS = {"holds": Task(holds_memory), "settings": Task(tells_its_settings), "flow": Task(remembers_its_memory)}
FURTHER = {"fails": Task(lambda: {}["a key"])}
'''
SOME = Measurement(first=0.9, seconds=[0.4, 0.2, 0.3], peak_mib=900.0, imports_mib=600.0)


@pytest.fixture
def fake_tasks(tmp_path, monkeypatch):
    (tmp_path / "fake_tasks.py").write_text(FAKE_TASKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "fake_tasks"


@pytest.mark.slow  # Starts fresh processes, which is what a benchmark does.
def test_memory_and_time_are_those_of_the_fresh_process_after_warming_up(fake_tasks):
    # Were the peak inherited from this process, 200 MiB more would not show.
    ballast = torch.ones(200 * 2**20)
    measured = harness.measure(fake_tasks, "holds", Configuration(), repeats=3)
    assert ballast.sum() > 0
    assert measured.own_mib == pytest.approx(200, rel=0.05)
    assert measured.peak_mib == pytest.approx(measured.imports_mib + measured.own_mib)
    assert len(measured.seconds) == 3
    # The fastest: a busy machine may hold up the others.
    assert min(measured.seconds) < 0.2 <= measured.first


@pytest.mark.slow  # Starts fresh processes, which is what a benchmark does.
def test_a_task_runs_with_the_threads_the_precision_and_the_package_it_is_told(fake_tasks, tmp_path):
    shutil.copytree(ROOT / "nbflows", tmp_path / "nbflows", symlinks=True)
    settings = Configuration(threads=1, precision="bf16-mixed")
    assert harness.measure(fake_tasks, "settings", settings, 1, source=tmp_path.resolve()).median < 1
    with pytest.raises(TaskError, match="other settings"):
        harness.measure(fake_tasks, "settings", replace(settings, threads=2), 1, source=tmp_path.resolve())


@pytest.mark.slow  # Starts fresh processes, which is what a benchmark does.
def test_a_task_runs_in_the_memory_mode_it_is_told(fake_tasks):
    harness.measure(fake_tasks, "flow", Configuration(memory="invertible"), 1)
    with pytest.raises(TaskError, match="'flow' does not run with default: ZeroDivisionError"):
        harness.measure(fake_tasks, "flow", Configuration(), 1)


@pytest.mark.slow  # Starts fresh processes, which is what a benchmark does.
def test_a_task_that_does_not_run_says_why(fake_tasks, monkeypatch, tmp_path):
    with pytest.raises(TaskError, match="'fails' does not run with precision=bf16-mixed: KeyError: 'a key'"):
        harness.measure(fake_tasks, "fails", Configuration(precision="bf16-mixed"), 1)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="fake_tasks has no task 'other': holds, settings, flow, fails"):
        worker.measure(fake_tasks, "other", Configuration(), 1)
    for changes, message in (
        ({"package": "zuko"}, "zuko has nothing to compare: only nbflows"),
        ({"memory": "checkpoint"}, "there is no flow in this task"),
        ({"compile": "on"}, "there is no flow in this task"),
    ):
        with pytest.raises(ValueError, match=message):
            worker._prepare(Task(lambda: harness.Workload(lambda: None)), Configuration(**changes))


def test_a_flow_is_compiled_as_training_compiles_it_while_it_is_timed(monkeypatch):
    flow = nbflows.models.digits_glow(num_steps=1)
    flow.log_prob(torch.randint(17, (8, 1, 8, 8)).byte())
    asked = []
    monkeypatch.setattr(nbflows.training.compiling, "require_compiler", asked.append)
    workload = harness.Workload(lambda: None, flow)

    def compiled():
        return {type(part).__name__ for part in flow.modules() if part._compiled_call_impl is not None}

    with worker._compiled(workload, Configuration(compile="on")):
        assert "AffineCoupling" in compiled()
    assert asked == [torch.device("cpu")]
    with worker._compiled(workload, Configuration()):
        assert not compiled()


def test_a_row_has_the_median_the_spread_and_the_speedup(monkeypatch):
    task = Task(lambda: None, seconds=0.6, gib=2.0)
    row = table.row("a task", task, Configuration(memory="invertible"), SOME)
    assert (row.seconds, row.fastest, row.slowest) == (0.3, 0.2, 0.4)
    assert (row.peak_mib, row.own_mib, row.original_mib) == (900, 300, 2048)
    assert (row.original_seconds, row.speedup) == (0.6, 2.0)
    assert (row.threads, row.memory, row.configuration) == (2, "invertible", "32-true, invertible")
    # The original's seconds are of 2 threads.
    alone = table.row("a task", task, Configuration(threads=1), SOME)
    assert (alone.original_seconds, alone.speedup) == (None, None)
    assert row.processor and row.torch == torch.__version__.split("+")[0]
    # In the row of another package: its seconds by ours.
    monkeypatch.setattr(table, "version", lambda package: "1.2")
    other = table.row("a task", task, Configuration(package="zuko"), SOME, ours=0.2)
    assert (other.package, other.speedup, other.original_seconds, other.original_mib) == ("zuko 1.2", 1.5, None, None)


def test_rows_survive_being_written(tmp_path):
    rows = [
        table.row("one, with a comma", Task(lambda: None, 0.5, 1.5), Configuration(), SOME),
        table.row("other", Task(lambda: None), Configuration(precision="bf16-mixed", threads=3), SOME),
    ]
    assert rows[1].speedup is None
    table.write(rows, tmp_path / "new" / "rows.csv")
    assert table.read(tmp_path / "new" / "rows.csv") == rows


def test_the_figure_has_a_dot_for_every_row_and_a_line_for_every_task(tmp_path):
    one, other = Task(lambda: None, 0.5, 1.5), Task(lambda: None)
    rows = [table.row("one, train", one, configuration, SOME) for configuration in harness.TRAINING_CONFIGURATIONS]
    rows.append(table.row("other, sample", other, Configuration(), SOME))
    drawn = figure.draw(rows)
    time, memory = drawn.axes
    assert [label.get_text() for label in time.get_yticklabels()] == ["one, train", "other, sample"]
    # Of every row its dot and its spread; of the original a diamond.
    assert len(time.lines) == 2 * len(rows) + 1
    assert len(memory.lines) == 3 + 1
    figure.save(rows[:1], tmp_path / "rows.png")
    assert (tmp_path / "rows.png").stat().st_size > 5_000


def test_a_comparison_takes_turns_and_compares_neighbours():
    turns, seconds = [], iter([1.0, 2.0, 6.0, 3.0, 8.0, 2.0])

    def measuring(name, mib):
        def measure():
            turns.append(name)
            return Measurement(5.0, [next(seconds)], 100 + mib, 100)

        return measure

    comparison = compare.in_turn(measuring("A", 30), measuring("B", 10), 3)
    assert turns == ["A", "B"] * 3
    assert comparison.ratios == [0.5, 2.0, 4.0]
    assert comparison.medians(lambda m: m.median) == (6.0, 2.0)
    assert comparison.memory_ratio == 3.0
    printed = compare.text({"a task": comparison}).splitlines()[-1].split()
    assert printed[2:6] == ["6.0000", "2.0000", "2.00", "0.50..4.00"]


@pytest.mark.parametrize(
    "text", ["default", "precision=bf16-mixed", "threads=7,rev=HEAD~2", "compile=on,memory=checkpoint", "package=zuko"]
)
def test_a_configuration_is_read_as_it_is_written(text):
    configuration = parse(text)
    assert parse(str(configuration)) == configuration
    assert set(str(configuration).split(",")) == set(text.split(","))


def test_what_a_configuration_does_not_name_is_as_in_the_base():
    base = Configuration(threads=1, precision="bf16-mixed")
    assert parse("memory=checkpoint", base) == replace(base, memory="checkpoint")
    assert parse("default", base) == base


@pytest.mark.parametrize(
    "text, message",
    [
        ("precision=half", "precision is one of 32-true, bf16-mixed, got 'half'"),
        ("memory=none", "memory is one of plain, checkpoint, invertible, got 'none'"),
        ("compile=yes", "compile is one of on, off, got 'yes'"),
        ("package=pyro", "package is one of nbflows, normflows, nflows, zuko, got 'pyro'"),
        ("threads=0", "threads is at least 1, got 0"),
        ("threads=two", "threads is a number, got 'two'"),
        ("speed=3", "settings like precision=bf16-mixed,threads=1, of precision, compile, memory"),
        ("precision", "got 'precision'"),
        ("package=zuko,precision=bf16-mixed", "zuko runs as it is"),
    ],
)
def test_a_bad_configuration_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text)


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    (folder / "nbflows").mkdir(parents=True)

    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True)

    git("init", "--initial-branch=main")
    git("commit", "--allow-empty", "--message", "empty")
    for value in (1, 2):
        (folder / "nbflows" / "__init__.py").write_text(f"value = {value}\n")
        git("add", ".")
        git("commit", "--message", f"{value}")
    return folder


def test_a_revision_is_the_package_as_it_was(repository):
    (repository / "nbflows" / "__init__.py").write_text("value = 3\n")
    for revision, value in (("HEAD~1", 1), ("main", 2), (".", 3)):
        with checked_out(revision, repository) as folder:
            assert (folder / "nbflows" / "__init__.py").read_text() == f"value = {value}\n"
        assert folder.exists() == (revision == ".")


@pytest.mark.parametrize(
    "revision, message",
    [
        ("no-such-branch", "git knows no revision 'no-such-branch' of repository"),
        ("--help", "git knows no revision '--help'"),
        ("HEAD~2", "there was no package nbflows at revision 'HEAD~2'"),
    ],
)
def test_a_revision_that_cannot_be_compared_is_refused(repository, revision, message):
    with pytest.raises(UsageError, match=message), checked_out(revision, repository):
        pass


@pytest.fixture
def measured(monkeypatch):
    """What the command line has measured, without the measuring."""
    requests = []

    def measure(module, name, configuration, repeats, source=ROOT):
        requests.append((module, name, configuration, repeats, source))
        if "likelihood" in name:
            raise TaskError(f"{name} does not run")
        return SOME

    monkeypatch.setattr(harness, "measure", measure)
    return requests


def test_one_command_writes_the_table_and_tells_what_is_missing(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "installed", lambda: [])
    with pytest.raises(SystemExit, match="not measured:\nCAFLOW, likelihood does not run"):
        command_line.main(
            ["caflow", "peers", "--repeats", "3", "--threads", "1", "--more", "--out", str(tmp_path / "out")]
        )
    rows = table.read(tmp_path / "out.csv")
    assert {(row.task, row.configuration) for row in rows if "CAFLOW, train" in row.task} == {
        ("CAFLOW, train", "32-true"),
        ("CAFLOW, train", "bf16-mixed"),
        ("CAFLOW, train", "32-true, invertible"),
    }
    assert {request[3] for request in measured} == {3}
    assert {request[2].threads for request in measured} == {1}
    assert (tmp_path / "out.png").exists()
    printed = capsys.readouterr().out
    assert "threads: 1, processor: " in printed and "medians of 3 repetitions" in printed
    assert "train on 64x64, n = 5, unshared" in printed
    assert "not installed, and so not in the table: normflows, nflows, zuko; `make bench-peers`" in printed


def test_packages_that_are_installed_have_rows_beside_ours(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "installed", lambda: ["zuko"])
    monkeypatch.setattr(table, "version", lambda package: "1.2")
    command_line.main(["peers", "--out", str(tmp_path / "out")])
    rows = table.read(tmp_path / "out.csv")
    assert [(row.task, row.package, row.speedup) for row in rows] == [
        ("coupling on vectors, train", "nbflows", None),
        ("coupling on vectors, train", "zuko 1.2", 1.0),
        ("coupling on vectors, inverse", "nbflows", None),
        ("coupling on vectors, inverse", "zuko 1.2", 1.0),
    ]


def test_comparing_on_the_command_line_takes_turns(measured, capsys):
    arguments = ["--only", "CAFLOW, train", "--rounds", "2", "--threads", "1"]
    command_line.main(["--compare", "default", "memory=checkpoint,threads=2", *arguments])
    a, b = Configuration(threads=1), Configuration(memory="checkpoint")
    assert [request[2] for request in measured] == [a, b, a, b]
    assert "2 pairs in turn" in capsys.readouterr().out


def test_depth_is_measured_in_every_memory_mode(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(depth, "weights_mib", lambda num_steps: 10.0 * num_steps)
    depth.main(["--repeats", "2", "--threads", "1", "--out", str(tmp_path / "depth")])
    assert [(name, configuration.memory) for _, name, configuration, *_ in measured[:4]] == [
        ("Glow of 4 steps a level, train", "plain"),
        ("Glow of 4 steps a level, train", "checkpoint"),
        ("Glow of 4 steps a level, train", "invertible"),
        ("Glow of 8 steps a level, train", "plain"),
    ]
    rows = table.read(tmp_path / "depth.csv")
    assert len(rows) == 12
    assert capsys.readouterr().out.count("300 MiB, 0.30 s") == 12
    memory, time = depth.draw(rows, [1.0, 2.0, 4.0, 8.0]).axes
    assert (len(memory.lines), len(time.lines)) == (4, 3)
    assert (tmp_path / "depth.png").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nice"], "no system is named 'nice': tutorial, glow, mar_scf, residual, caflow, peers"),
        (["--only", "nice"], "no task's name contains 'nice': simple, train; "),
        (["--compare", "default", "precision=32-true"], "A and B are both default: there is nothing to compare"),
        (["--compare", "speed=1", "default"], "a configuration is 'default' or settings like"),
        (["--compare", "rev=no-such-branch", "rev=."], "git"),
        (["--compare", "package=zuko", "default", "--only", "Glow"], "no task that was chosen has both zuko and"),
        (["--repeats", "0"], "at least 1, got 0"),
    ],
)
def test_a_command_that_cannot_run_says_why(measured, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        command_line.main(arguments)
    assert message in capsys.readouterr().err
    assert not measured


def test_every_model_of_images_is_trained_scored_and_sampled():
    tasks = command_line.select([], "")
    for model in (
        "simple",
        "variational",
        "multiscale",
        "Glow",
        "mAR-SCF affine",
        "mAR-SCF mixture",
        "residual",
        "CAFLOW",
    ):
        for action in ("train", "likelihood", "sample"):
            assert any(name.startswith(f"{model}, {action}") for name in tasks), (model, action)
    for name, (_, task) in tasks.items():
        if name.endswith("train") and not task.peers:
            assert any(c.memory == "invertible" for c in task.configurations), name
    # A new file of models wants a place in the table; flows in the plane and autoregressive ones have none.
    families = {file.stem for file in (ROOT / "nbflows" / "models").glob("*.py")}
    assert families == {"__init__", "builder", "tutorial", "glow", "mar_scf", "residual_flow", "caflow"} | {
        "realnvp_2d",
        "autoregressive",
        "pixelflow",
        "tarflow",
    }


@pytest.mark.parametrize(
    "system",
    [
        pytest.param(s, marks=pytest.mark.full_size if s in PAPER_SIZES else pytest.mark.slow)
        for s in command_line.SYSTEMS
    ],
)
def test_every_task_runs_once(system):
    for name, task in harness.tasks_of(f"benchmarks.{system}").items():
        # The same at other sizes, and minutes of it.
        if "64x64" not in name and "terms" not in name:
            workload = task.prepare()
            # Two larger models of the same layers.
            if not name.startswith(("simple", "variational")):
                workload.run()


# Others' use of torch, where they are installed.
@pytest.mark.filterwarnings("ignore:.*deprecated in favor of:UserWarning")
@pytest.mark.parametrize("layer", peers.LAYERS)
def test_layers_that_are_compared_are_invertible_and_of_one_size(layer):
    builders, shape = peers.LAYERS[layer]
    sizes = {}
    for package in ["nbflows", *peers.installed()]:
        if package in builders:
            built, x = peers._build(builders[package], shape)
            z, log_det = built.forward(x)
            assert z[0].numel() == x[0].numel() and log_det.numel() in (1, len(x))
            torch.testing.assert_close(built.inverse(z.detach()), x, rtol=0, atol=1e-4)
            sizes[package] = sum(p.numel() for p in built.module.parameters())
    # nflows keeps triangles where others keep squares; normflows counts two constants of a block as parameters.
    assert max(sizes.values()) - min(sizes.values()) <= {"1x1 convolution": 144, "Glow level": 576}.get(layer, 2)


def test_the_package_never_imports_what_it_is_compared_with():
    for file in [*(ROOT / "nbflows").rglob("*.py"), *FILES]:
        tree = ast.parse(file.read_text())
        # In benchmarks inside of functions only: without the extra they must import.
        nodes = ast.walk(tree) if "nbflows" in file.parts else iter(tree.body)
        for node in nodes:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & set(PACKAGES[1:]), file


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_says_its_purpose_in_its_first_line(file):
    purpose = ast.get_docstring(ast.parse(file.read_text())).splitlines()[0]
    assert len(purpose) > 30 and purpose[-1] in ".:;"


def test_the_cost_of_a_pretrained_model_goes_into_the_manifest(tmp_path, monkeypatch):
    from benchmarks import pretrained
    from nbflows import pretrained as models

    shutil.copy(ROOT / "saved_models" / "manifest.json", tmp_path)
    monkeypatch.setattr(models, "saved_models", lambda: tmp_path)
    known = models.find_manifest()
    name = next(iter(known.models))
    pretrained.record(name, {"batch": 16, "evaluate_seconds": 12.5})
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["models"][name]["cost"] == {"batch": 16, "evaluate_seconds": 12.5}


def test_the_prior_is_timed_on_the_latents_of_its_model():
    flow, _ = mar_scf.build(mar_scf.AFFINE)
    assert tuple(flow.bijection[-1].latent_shapes) == mar_scf.LATENTS
    drawn = mar_scf.prepare_prior(level=1, num_samples=2).run()
    assert drawn.shape == (2, *mar_scf.LATENTS[1])


def test_the_cost_of_a_prior_is_reported_for_each_channel(capsys):
    mar_scf.report(lambda name: Measurement(1.0, [0.012], 0.0, 0.0))
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()[-3:]] == [
        ["6x16x16", "2.00", "2.00", "2.00"],
        ["12x8x8", "1.00", "1.00", "1.00"],
        ["48x4x4", "0.25", "0.25", "0.25"],
    ]
