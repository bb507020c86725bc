"""Several processes train as one would: gradients, first batches, scores, files; what a kill leaves."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nbflows import data, hardware, metrics, models, recipes, set_memory
from nbflows.data import Batches, ImageData
from nbflows.layers import RussianRoulette, SeriesLogDet
from nbflows.training.steps import FlowModule
from tests import ranks
from tests.interrupt import killed_after

RECIPE = replace(recipes.get("digits-glow"), batch_size=16, accumulate=2, warmup_steps=2, validate_every=1)
MODELS = {
    "digits-residual": {"memory": "checkpoint"},
    "digits-joint": {},
    "digits-caflow-super-resolution": {},
    "digits-marscf-mixlogcdf": {},
    "digits-variational": {"precision": "bf16-mixed"},
}


def digits():
    """Few, in numbers that no two ranks can share equally: the second batch of validation is a single image."""
    full = data.load("digits")
    sizes = {"train": 60, "validation": 129, "test": 41}
    labels = {split: full.labels[split][:size] for split, size in sizes.items()}
    parts = {split: getattr(full, split)[:size] for split, size in sizes.items()}
    return ImageData("digits", "230 digits", **parts, num_grey_levels=17, labels=labels)


def flow_without_chance():
    """Glow whose dequantization noise is a function of the image, whoever looks at it."""
    torch.manual_seed(1)
    flow = models.digits_glow(num_steps=2, hidden_channels=8)
    dequantize = flow.bijection.layers[0]

    def noise(x):
        places = torch.arange(x[0].numel())
        key = (x.flatten(1).long() * places).sum(1, keepdim=True)
        u = ((((key + 1) * 7919 + places * 104729) % 10007 + 0.5) / 10007).view(x.shape).to(dequantize._like.dtype)
        return u, 1 - u, torch.zeros(len(x), dtype=u.dtype)

    dequantize.noise = noise
    return flow


# --- the gradient -----------------------------------------------------------------------------------------------------


class _Loss(torch.nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, images):
        return self.flow.bits_per_dim(images).mean()


def gradients():
    """After the first batch, which initialises, and some noise on the weights: of the second batch, by memory mode."""
    ddp, rank, world_size = "RANK" in os.environ, int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if ddp:
        torch.distributed.init_process_group("gloo")
    first, second = Batches(digits().train, 30, shuffle=True, rank=rank, world_size=world_size)
    found = {}
    for memory in ("plain", "checkpoint", "invertible"):
        loss = _Loss(flow_without_chance().double())
        set_memory(loss, memory)
        loss(first)
        initialized = {name: tensor.clone() for name, tensor in loss.flow.state_dict().items()}
        torch.manual_seed(2)
        for parameter in loss.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        wrapped = torch.nn.parallel.DistributedDataParallel(loss) if ddp else loss
        wrapped(second).backward()
        found[memory] = initialized, {name: p.grad for name, p in loss.flow.named_parameters()}
    return found


@pytest.mark.slow  # Several processes that import everything anew.
def test_gradients_and_first_batches_are_those_of_one_process(tmp_path):
    (one,) = ranks.run(gradients, tmp_path / "one", world_size=1)
    two = ranks.run(gradients, tmp_path / "two")
    whole_start, whole = one["plain"]
    assert all(gradient.abs().max() > 1e-6 for gradient in whole.values())
    scales = [name for name in whole_start if name.endswith("norm.log_scale") or name.endswith(".1.log_scale")]
    assert len(scales) > 8 and all(whole_start[name].abs().min() > 1e-3 for name in scales)
    for found in two:
        for start, gradient in found.values():
            # ActNorm is initialised on the batch of both.
            torch.testing.assert_close(start, whole_start, atol=1e-12, rtol=0)
            torch.testing.assert_close(gradient, whole, atol=1e-10, rtol=0)
    for name, gradient in two[0]["plain"][1].items():
        assert torch.equal(gradient, two[1]["plain"][1][name])


# --- training ---------------------------------------------------------------------------------------------------------


def train_in_part(out):
    with killed_after(2):
        train_without_chance(out, checkpoint_seconds=0)


def train_without_chance(out, memory="plain", resume=False, checkpoint_seconds=30):
    from nbflows import training

    result = training.train(
        RECIPE,
        digits(),
        out=out,
        resume=resume,
        max_steps=5,
        checkpoint_seconds=checkpoint_seconds,
        precision="64-true",
        device="cpu",
        devices=int(os.environ.get("WORLD_SIZE", 1)),
        progress=False,
        flow=flow_without_chance(),
        memory=memory,
    )
    last, best = (torch.load(out / f"{name}.ckpt", weights_only=True) for name in ("last", "best"))
    return {
        "weights": last["current_model_state"],
        "moments": last["optimizer_states"][0]["state"],
        "averages": best["state_dict"],
        "validation": [
            [row[key] for key in ("validation_bits_per_dim", "validation_standard_error")]
            for row in result.history
            if "validation_bits_per_dim" in row
        ],
        "test": [result.test.mean, result.test.standard_error, result.test.num_images],
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one process ends with. A batch comes in two parts of 8 images, 7 parts an epoch: a step crosses its end."""
    folder = tmp_path_factory.mktemp("whole")
    (result,) = ranks.run(train_without_chance, folder / "results", folder / "run", world_size=1)
    return result


@pytest.mark.parametrize("memory", ["plain", "invertible"])
def test_training_ends_with_the_weights_and_scores_of_one_process(memory, whole, tmp_path):
    for two in ranks.run(train_without_chance, tmp_path / "results", tmp_path / "run", memory):
        for key in ("weights", "moments", "averages"):
            torch.testing.assert_close(two[key], whole[key], atol=1e-10, rtol=1e-8)
        # Logged in float32.
        torch.testing.assert_close(two["validation"], whole["validation"], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(two["test"], whole["test"], atol=1e-12, rtol=0)
    assert len(whole["validation"]) == 2 and whole["test"][2] == 41


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_training_goes_on_with_another_number_of_ranks(before, after, whole, tmp_path):
    out = tmp_path / "run"
    ranks.run(train_in_part, tmp_path / "first", out, world_size=before)
    for resumed in ranks.run(train_without_chance, tmp_path / "second", out, resume=True, world_size=after):
        torch.testing.assert_close(resumed["weights"], whole["weights"], atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(resumed["averages"], whole["averages"], atol=1e-10, rtol=1e-8)


def train_with_chance(out):
    """What happens at every step of short trainings of all kinds of models, and what this rank wrote below ``out``."""
    from nbflows import training

    found, steps, written = {}, [], []
    step, draw, draw_probe = FlowModule.optimizer_step, RussianRoulette.draw, SeriesLogDet._draw_probe

    def observed_step(module, *args, **kwargs):
        step(module, *args, **kwargs)
        state = torch.cat([tensor.detach().double().flatten() for tensor in module.flow.state_dict().values()])
        steps.append({"weights": state, "random": torch.get_rng_state(), "terms": [*terms], "probes": [*probes]})
        terms.clear()
        probes.clear()

    def observed_draw(roulette):
        weights = draw(roulette)
        if not torch.is_inference_mode_enabled():
            terms.append(len(weights))
        return weights

    def observed_probe(series, x):
        probe = draw_probe(series, x)
        if not torch.is_inference_mode_enabled():
            probes.append(probe.flatten()[:64].clone())
        return probe

    def note_written_files(event, arguments):
        if event in ("open", "os.mkdir", "os.rename") and str(arguments[0]).startswith(str(out)):
            reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
            written.extend([] if reads else [(event, str(arguments[0]))])

    terms, probes = [], []
    FlowModule.optimizer_step = observed_step
    RussianRoulette.draw, SeriesLogDet._draw_probe = observed_draw, observed_probe
    sys.addaudithook(note_written_files)
    for name, options in MODELS.items():
        recipe = replace(recipes.get(name), batch_size=12, warmup_steps=1, validate_every=1)
        options = {"precision": "32-true", "max_steps": 3, "device": "cpu", "devices": 2, "progress": False, **options}
        result = training.train(recipe, digits(), out=out / name, **options)
        found[name] = {"steps": [*steps], "test": result.test, "accuracy": result.accuracy}
        found[name]["threads"] = torch.get_num_threads()
        # Scoring the test images draws too.
        for kept in (steps, terms, probes):
            kept.clear()
    return found, written


@pytest.mark.slow  # Several processes that import everything anew.
def test_ranks_share_weights_and_numbers_of_terms_and_nothing_else_that_is_random(tmp_path):
    results = ranks.run(train_with_chance, tmp_path / "results", tmp_path / "runs")
    (first, written_by_first), (second, written_by_second) = results
    for name in MODELS:
        for a, b in zip(first[name]["steps"], second[name]["steps"], strict=True):
            assert torch.equal(a["weights"], b["weights"]), name
            # Noise, probes and dropout masks come from here.
            assert not torch.equal(a["random"], b["random"]), name
            assert a["terms"] == b["terms"]
            assert all(not torch.equal(p, q) for p, q in zip(a["probes"], b["probes"], strict=True))
        assert len(first[name]["steps"]) == 3
        assert not torch.equal(first[name]["steps"][0]["weights"], first[name]["steps"][2]["weights"])
        assert (first[name]["test"], first[name]["accuracy"]) == (second[name]["test"], second[name]["accuracy"])
        assert first[name]["test"].num_images == 41
        files = {file.name for file in (tmp_path / "runs" / name).iterdir()}
        assert {"last.ckpt", "best.ckpt", "model.json", "model.safetensors", "log", "samples"} <= files
        details = json.loads((tmp_path / "runs" / name / "model.json").read_text())
        assert details["hardware"] == f"{2 * first[name]['threads']} CPU cores"
    assert first["digits-joint"]["accuracy"].num_images == 41
    # 10 blocks, each computed twice; the numbers differ from block to block and from step to step.
    drawn = [step["terms"] for step in first["digits-residual"]["steps"]]
    assert all(terms[:10] == terms[:9:-1] for terms in drawn)
    assert len({tuple(terms) for terms in drawn}) == 3 and all(len(set(terms)) > 1 for terms in drawn)
    assert written_by_first and not written_by_second


# --- a kill, and what follows -----------------------------------------------------------------------------------------

COMMAND = ["train", "digits-variational", "--device", "cpu", "--devices", "2", "--precision", "32-true"]
COMMAND += ["--batch-size", "12", "--checkpoint-seconds", "0", "--no-progress"]


def children_of(process):
    # Those that each of its threads has started; Linux alone has such files, and not every system has pgrep.
    files = list(Path(f"/proc/{process.pid}/task").glob("*/children"))
    listed = " ".join(file.read_text() for file in files)
    if not files:
        listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout
    return [int(pid) for pid in listed.split()]


def wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run_command(arguments):
    from nbflows import cli

    assert cli.main(arguments) == 0
    return torch.load(os.path.join(arguments[-1], "last.ckpt"), weights_only=True)


@pytest.fixture
def started():
    """Starts commands in groups of their own; afterwards nothing of them is left."""
    processes = []

    def start(*command, **options):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen([sys.executable, *command], env=environment, **pipes, **options))
        return processes[-1]

    yield start
    for process in processes:
        # torchrun's workers are in groups of their own: it ends them itself, given the time.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.full_size  # Whole trainings in fresh processes, one of which is killed.
def test_a_training_goes_on_where_a_killed_rank_left_it(started, tmp_path):
    out = tmp_path / "run"
    process = started("-m", "nbflows", *COMMAND, "--out", str(out))
    wait_for(lambda: (out / "last.ckpt").exists(), process)
    (second,) = children_of(process)
    os.kill(second, signal.SIGKILL)
    # Lightning looks after its other processes every 5 seconds; the gradients may notice before.
    process.communicate(timeout=300)
    assert process.returncode != 0
    step = torch.load(out / "last.ckpt", weights_only=True)["global_step"]
    finish = [*COMMAND, "--max-steps", str(step + 3)]
    resumed = started(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nbflows"),
        *(*finish, "--resume", "--out", str(out)),
    )
    printed, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert printed.count("test:") == 1
    parts = torch.load(out / "last.ckpt", weights_only=True)
    whole, _ = ranks.run(run_command, tmp_path / "results", [*finish, "--out", str(tmp_path / "whole")])
    assert parts["global_step"] == whole["global_step"] == step + 3
    torch.testing.assert_close(parts["current_model_state"], whole["current_model_state"], atol=1e-6, rtol=0)
    for mine, theirs in zip(parts["random_state"], whole["random_state"], strict=True):
        assert torch.equal(mine["cpu"], theirs["cpu"])
    assert not torch.equal(whole["random_state"][0]["cpu"], whole["random_state"][1]["cpu"])


def train_until_the_first_is_killed(out):
    from nbflows import training

    step = FlowModule.optimizer_step

    def mortal_step(module, *args, **kwargs):
        step(module, *args, **kwargs)
        if os.environ["RANK"] == "0" and module.trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    FlowModule.optimizer_step = mortal_step
    options = {"precision": "32-true", "device": "cpu", "devices": 2, "progress": False, "flow": flow_without_chance()}
    training.train(RECIPE, digits(), out=out, **options)


def test_the_others_end_with_an_error_when_the_first_rank_is_killed(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        ranks.run(train_until_the_first_is_killed, tmp_path / "results", tmp_path / "run")
    assert "rank 1 of 2 lost the others: one of them has ended" in str(caught.value)
    assert "was not done" not in str(caught.value)


# --- who starts the processes -----------------------------------------------------------------------------------------

TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "tests"}
# Of the last of four processes, two on each of two machines; as srun sets them.
SLURM = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_PROCID": "3"}
SLURM |= {"SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "1234567", "SLURM_NODELIST": "node[07-08]"}
SLURM |= {"SLURM_JOB_NAME": "nbflows"}


def trainings_that_are_not_started(out):
    """What ``train`` makes of the environment: the trainer that it would fit, or the message of its error."""
    import lightning

    from nbflows import training

    def fit(trainer, *_, **__):
        launcher = trainer.strategy.cluster_environment
        found = type(launcher).__name__, launcher.main_address, launcher.main_port
        raise ValueError(repr((*found, trainer.world_size, trainer.global_rank, trainer.is_global_zero)))

    lightning.Trainer.fit = fit
    options = {"precision": "32-true", "device": "cpu", "progress": False, "flow": flow_without_chance()}
    found = []
    for environment, devices, num_nodes, recipe in (
        (SLURM, 2, 2, RECIPE),
        (SLURM, 2, 1, RECIPE),
        (TORCHRUN, 1, 1, RECIPE),
        ({}, 2, 1, replace(RECIPE, batch_size=18)),
    ):
        os.environ.update(environment)
        with pytest.raises(ValueError) as caught:
            training.train(recipe, digits(), out=out, devices=devices, num_nodes=num_nodes, **options)
        found.append(str(caught.value))
        for name in environment:
            del os.environ[name]
    return found


def test_processes_that_do_not_fit_together_are_refused_before_they_start(tmp_path):
    (found,) = ranks.run(trainings_that_are_not_started, tmp_path / "results", tmp_path / "run", world_size=1)
    slurm, slurm_misfit, torchrun_misfit, odd_batch = found
    # The port is 15000 and the last four digits of the job.
    assert slurm == repr(("SLURMEnvironment", "node07", 19567, 4, 3, False))
    assert "SLURM has started 4 processes, and the training needs 2: --devices N and --num-nodes M" in slurm_misfit
    assert "torchrun has started 2 processes, and the training needs 1" in torchrun_misfit
    assert "a batch of 9 images does not divide into 2 equal parts" in odd_batch


def test_several_processes_do_not_each_measure_which_precision_is_faster(monkeypatch):
    def measured(*_, **__):
        raise AssertionError("measured")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(hardware.nn, "Conv2d", measured)
    assert hardware.faster_precision("cpu", num_processes=2) == hardware.faster_precision("auto", 2) == "32-true"
    with pytest.raises(AssertionError, match="measured"):
        hardware.faster_precision("cpu")


# --- shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "world_size"), [(41, 2), (7, 3), (2, 3)])
def test_a_shared_evaluation_takes_every_image_once(count, world_size, monkeypatch):
    flow, images = flow_without_chance().double().train(), digits().test[:count]
    flow.log_prob(digits().train)
    whole = metrics.evaluate(flow, images, chunk_size=4)
    reduced = []
    for rank in range(world_size):
        monkeypatch.setattr(metrics.ranks, "rank_and_world_size", lambda rank=rank: (rank, world_size))
        monkeypatch.setattr(metrics.ranks, "sum_over_ranks", lambda value: reduced.append(value.clone()) or value)
        one = metrics.evaluate(flow, images, chunk_size=4, shared=True)
    if count < world_size:
        assert one == whole and not reduced
        return
    assert all((share != 0).sum() <= -(-count // world_size) for share in reduced)
    assert ((torch.stack(reduced) != 0).sum(0) == 1).all()
    assert metrics.summarize(torch.stack(reduced).sum(0), 1).mean == pytest.approx(whole.mean, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if name.startswith("digits-")])
def test_no_parameter_is_left_without_a_gradient(name):
    """DistributedDataParallel waits for every gradient; one that never comes is an error in the second step."""

    recipe = recipes.get(name)
    pairs = recipe.objective.prepare(digits())
    module = FlowModule(recipe.build(pairs), recipe, 1)
    paired = recipe.objective.paired(pairs)
    batch = [pairs.train[:32], *([] if paired is None else [paired["train"][:32]])]
    module.measure(*batch)[module.objective.minimised].mean().backward()
    assert not [parameter for parameter, p in module.flow.named_parameters() if p.grad is None]
