"""Training of flows from image to image: objective, pairs that stay pairs, resumed runs, shared blocks in files."""

import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbflows import data, load_flow, metrics, models, recipes, save_flow, tasks, training
from nbflows.data import SPLITS, ImageData, PairData
from nbflows.models.caflow import RELATIONS
from nbflows.objectives import Translation
from nbflows.storage import weights
from nbflows.training import callbacks, steps
from nbflows.translation import TranslationFlow
from tests.flows import TINY, random_caflow, random_images
from tests.interrupt import killed_after
from tests.reference_data import replayed_noise

RECIPE = replace(
    recipes.get("digits-caflow-super-resolution"),
    # With three levels a block is shared; the coarsest is 1x1.
    arguments={"relation": "shared", **TINY, "num_scales": 3},
    batch_size=32,
    epochs=4,
    learning_rate=3e-3,
    warmup_steps=5,
    validate_every=1,
    ema_decay=0.9,
    objective=Translation(tasks.SuperResolution(2), 0.1),
)
LADDER = {"dual-glow": "gaussian", "per-level": "per-level", "caflow-shared": "shared", "caflow": "unshared"}
TRANSLATIONS = [name for name, recipe in recipes.RECIPES.items() if recipe.objective.task is not None]


@pytest.fixture(scope="module")
def digits():
    """A few digits: enough to learn from, few enough for seconds."""
    full = data.load("digits")
    return ImageData("digits", "100 digits", full.train[:100], full.validation[:40], full.test[:40], 17)


@pytest.fixture(scope="module")
def pairs(digits):
    return RECIPE.objective.prepare(digits)


def _train(data, out, recipe=RECIPE, **options):
    options = {"precision": "32-true", "device": "cpu", "progress": False} | options
    return training.train(recipe, data, out=out, **options)


def _module(flow, **changes):
    module = steps.FlowModule(flow, replace(RECIPE, **changes), 10)
    module.log = lambda *_, **__: None
    return module


def _gradients(loss, flow):
    return torch.autograd.grad(loss, list(flow.parameters()), materialize_grads=True)


# The objective -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.01, 1.0])
def test_a_step_follows_the_gradient_of_minus_log_p_of_the_target_and_lambda_times_that_of_the_source(weight):
    # 48 dimensions of a target, 16 of a source.
    flow = random_caflow((3, 4, 4), source_channels=1)
    targets, sources = random_images(6, (3, 4, 4)), random_images(6, (1, 4, 4))
    with replayed_noise(0.2, 0.6):
        loss = _module(flow, objective=Translation(weight=weight)).training_step([targets, sources], 0)
        log_prob = flow.log_prob(targets, sources)
    with replayed_noise(0.2):
        source_log_prob = flow.source.log_prob(sources)
    expected = -(log_prob + weight * source_log_prob).mean() / (48 * math.log(2))
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(_gradients(loss, flow), _gradients(expected, flow), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_lambda_the_sources_flow_is_trained_by_what_the_relation_makes_of_it():
    flow = random_caflow((1, 8, 8), relation_channels=16, hidden_channels=16)
    targets, sources = random_images(8, (1, 8, 8)), random_images(8, (1, 8, 8))
    names = [name for name, _ in flow.named_parameters()]
    gradients = {}
    for weight in (0.0, 1.0):
        with replayed_noise(0.2, 0.6):
            gradients[weight] = _gradients(
                _module(flow, objective=Translation(weight=weight)).training_step([targets, sources], 0), flow
            )
    for name, without, with_it in zip(names, gradients[0.0], gradients[1.0], strict=True):
        assert (without != 0).any(), name
        assert torch.equal(without, with_it) != name.startswith("source."), name


def test_bits_per_dim_are_of_the_target_and_those_of_the_source_stand_beside():
    flow = random_caflow((3, 4, 4), source_channels=1)
    targets, sources = random_images(6, (3, 4, 4)), random_images(6, (1, 4, 4))
    with replayed_noise(0.2, 0.6):
        measured = _module(flow, objective=Translation(weight=0.5)).measure(targets, sources)
        bits = flow.bits_per_dim(targets, sources)
    with replayed_noise(0.2):
        source_bits = flow.source.bits_per_dim(sources)
    torch.testing.assert_close(measured["bits_per_dim"], bits)
    torch.testing.assert_close(measured["source_bits_per_dim"], source_bits)
    torch.testing.assert_close(measured["loss"], bits + 0.5 * source_bits * 16 / 48)
    assert measured.keys() == set(Translation.measured)


def test_the_learning_rate_drops_to_a_tenth_at_its_step():
    module = _module(random_caflow(), drop_at_step=15, decay_per_epoch=0.5, warmup_steps=5)
    factors = [module._learning_rate_factor(step) for step in range(30)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors[10:21] == pytest.approx([0.5] * 5 + [0.05] * 5 + [0.025])
    assert _module(random_caflow(), drop_at_step=None)._learning_rate_factor(10**6) > 0


@pytest.mark.parametrize(("optimizer", "fused"), [("Adam", True), ("AdamW", True), ("Adamax", None)])
def test_the_optimizer_is_one_kernel_where_there_is_one_and_does_what_it_does_otherwise(optimizer, fused):
    flow = random_caflow()
    module = _module(flow, optimizer=optimizer, warmup_steps=0, weight_decay=0.1 if optimizer == "AdamW" else 0.0)
    ours = module.configure_optimizers()["optimizer"]
    assert ours.defaults.get("fused") == fused
    start = [p.detach().clone() for p in flow.parameters()]
    for p in flow.parameters():
        p.grad = torch.randn_like(p)
    ours.step()
    after = [p.detach().clone() for p in flow.parameters()]
    # The same in torch's plain loop.
    plain = [torch.nn.Parameter(p.clone()) for p in start]
    for p, trained in zip(plain, flow.parameters(), strict=True):
        p.grad = trained.grad
    settings = {key: ours.defaults[key] for key in ("lr", "betas", "weight_decay")}
    getattr(torch.optim, optimizer)(plain, **settings).step()
    for a, b in zip(after, plain, strict=True):
        torch.testing.assert_close(a, b.detach())


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(pairs, tmp_path_factory):
    """Twelve steps, validated every three."""
    return _train(pairs, tmp_path_factory.mktemp("run") / "whole")


def _untrained(pairs, recipe=RECIPE):
    torch.manual_seed(recipe.seed)
    flow = recipe.build(pairs)
    with torch.no_grad():
        flow.log_probs(pairs.train, pairs.sources["train"])
    return flow


def test_training_learns_and_leaves_all_its_files(run, pairs):
    assert isinstance(run.flow, TranslationFlow) and not run.flow.training
    # The same images, before and after: their differences have a smaller error than either.
    untrained = _untrained(pairs).eval()
    test = pairs.test, pairs.sources["test"]
    with torch.no_grad():
        torch.manual_seed(0)
        before = untrained.bits_per_dim(*test)
        torch.manual_seed(0)
        gain = before - run.flow.bits_per_dim(*test)
    assert gain.mean() > 4 * gain.std() / 40**0.5
    for name in ("best.ckpt", "last.ckpt", "model.safetensors", "model.json", "training_curve.png"):
        assert (run.out / name).stat().st_size > 0
    validations = [row for row in run.history if "validation_loss" in row]
    assert [row["step"] for row in validations] == [2, 5, 8, 11]
    # lambda, and as many dimensions of a source as of a target.
    for row in validations:
        expected = row["validation_bits_per_dim"] + 0.1 * row["validation_source_bits_per_dim"]
        assert row["validation_loss"] == pytest.approx(expected, rel=1e-5)
    details = json.loads((run.out / "model.json").read_text())
    assert details["validation_loss"] == pytest.approx(min(row["validation_loss"] for row in validations), rel=1e-6)
    assert details["test_bits_per_dim"] == asdict(run.test)
    assert details["task"] == tasks.SuperResolution(2).describe()
    assert details["arguments"]["source_channels"] == 1 and details["builder"] == "digits_caflow"


def test_a_score_is_that_of_each_image_given_its_own_source(run, pairs):
    test, sources = pairs.test, pairs.sources["test"]
    assert metrics.evaluate(run.flow, test, sources) == run.test
    # One chunk or many are other noise of the same kind; a wrong source costs more.
    values = {}
    for name, given in (("own", sources), ("next", sources.roll(1, 0))):
        values[name] = metrics.evaluate(run.flow, test, given, num_draws=2, chunk_size=7)
        torch.manual_seed(0)
        with torch.no_grad():
            parts = [
                run.flow.bits_per_dim(x, y, num_draws=2, chunk_size=7)
                for x, y in zip(test.split(7), given.split(7), strict=True)
            ]
        assert values[name] == metrics.summarize(torch.cat(parts), 2)
    assert values["own"].num_images == 40 and values["own"].mean < values["next"].mean


def test_the_averaged_weights_are_validated_saved_and_loaded_again(run, pairs):
    checkpoint = torch.load(run.out / "best.ckpt", weights_only=True)
    named = dict(run.flow.named_parameters())
    assert all(torch.equal(checkpoint["state_dict"][f"flow.{name}"], p) for name, p in named.items())
    trained = [
        name for name in named if not torch.equal(checkpoint["current_model_state"][f"flow.{name}"], named[name])
    ]
    assert len(trained) > 0.9 * len(named)
    loaded = load_flow(run.out)
    assert metrics.evaluate(loaded, pairs.test, pairs.sources["test"]) == run.test


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(run, pairs, tmp_path):
    # In the middle of the second epoch, of three batches each.
    with killed_after(4):
        _train(pairs, tmp_path, checkpoint_seconds=0)
    resumed = _train(pairs, tmp_path, resume=True)
    for ours, theirs in zip(resumed.flow.parameters(), run.flow.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    final = [torch.load(out / "last.ckpt", weights_only=True) for out in (run.out, tmp_path)]
    for key, value in final[0]["current_model_state"].items():
        torch.testing.assert_close(value, final[1]["current_model_state"][key], atol=1e-6, rtol=0)
    assert final[0]["global_step"] == final[1]["global_step"] == 12


def test_every_batch_holds_pairs(pairs, tmp_path, monkeypatch):
    task, seen = tasks.SuperResolution(2), {True: [], False: []}
    measure = steps.FlowModule.measure

    def look(self, images, sources):
        seen[self.trainer.training].append((images, sources))
        return measure(self, images, sources)

    monkeypatch.setattr(steps.FlowModule, "measure", look)
    _train(pairs, tmp_path, max_steps=5)
    assert len(seen[True]) == 5 and len(seen[False]) >= 1
    for images, sources in [*seen[True], *seen[False]]:
        assert torch.equal(task.pair(images, 17)[0], sources)
    # Shuffled, and another order in another epoch.
    assert not torch.equal(seen[True][0][0], pairs.train[:32]) and not torch.equal(seen[True][0][0], seen[True][3][0])
    assert torch.equal(seen[False][0][0], pairs.validation)


def test_pictures_are_drawn_at_every_validation_and_training_does_not_notice(run, pairs, tmp_path):
    from PIL import Image

    files = sorted((run.out / "samples").glob("*.png"))
    assert [file.stem for file in files] == [f"step_{step:07d}" for step in (3, 6, 9, 12)]
    # 8 rows of a source, its target and 6 samples; 8x8 pixels four times as large, 2 pixels between them.
    pictures = [np.asarray(Image.open(file).convert("L")).astype(float) for file in files]
    assert pictures[0].shape == (2 + 8 * 34, 2 + 8 * 34)
    tiles = pictures[-1][2:, 2:].reshape(8, 34, 8, 34)[:, 3:32:4, :, 3:32:4].transpose(0, 2, 1, 3)
    wanted = torch.cat([pairs.sources["validation"][:8], pairs.validation[:8]], dim=1).double().numpy() * 255 / 16
    assert np.abs(tiles[:, :2] - wanted).max() <= 1
    # Samples differ from each other and get better; sources and targets stay.
    assert (tiles[:, 2] != tiles[:, 3]).any()
    before = pictures[0][2:, 2:].reshape(8, 34, 8, 34)[:, 3:32:4, :, 3:32:4].transpose(0, 2, 1, 3)
    assert (before[:, :2] == tiles[:, :2]).all() and (before[:, 2:] != tiles[:, 2:]).any()
    seldom = _train(pairs, tmp_path, recipe=replace(RECIPE, validate_every=4))
    steps = [{row["step"]: row["loss"] for row in result.history if "loss" in row} for result in (run, seldom)]
    assert steps[0] == pytest.approx(steps[1], abs=1e-6)


@pytest.mark.parametrize(("source_channels", "channels"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_pictures_have_the_same_noise_each_time_and_take_any_channels(source_channels, channels, tmp_path):
    parts = [random_images(3, (channels, 8, 8)) for _ in range(3)]
    sources = {split: random_images(3, (source_channels, 8, 8)) for split in SPLITS}
    pairs = PairData("noise", "", *parts, sources=sources)
    flow = random_caflow((channels, 8, 8), source_channels=source_channels, dtype=torch.float32)
    module = SimpleNamespace(flow=flow, objective=Translation())
    pictures = []
    for step in (1, 2):
        state = torch.get_rng_state()
        trainer = SimpleNamespace(is_global_zero=True, global_step=step)
        callbacks.DrawSamples(tmp_path, pairs).on_validation_epoch_end(trainer, module)
        assert torch.equal(state, torch.get_rng_state())
        pictures.append((tmp_path / f"step_{step:07d}.png").read_bytes())
        torch.rand(5)
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("relation", RELATIONS)
def test_colour_is_made_of_grey_by_every_relation(relation, tmp_path):
    torch.manual_seed(0)
    colours = ImageData("colours", "noise", *(random_images(n, (3, 8, 8)) for n in (32, 9, 8)))
    recipe = replace(
        recipes.get("photo-patches-caflow-colorization"),
        arguments={"relation": relation, **TINY, "num_scales": 2, "num_noise_steps": 1},
        batch_size=16,
        epochs=1,
        augment="mirror",
    )
    result = _train(colours, tmp_path / "run", recipe=recipe)
    assert result.flow.shape == (3, 8, 8) and result.flow.context_shape == (1, 8, 8)
    assert math.isfinite(result.test.mean) and list((tmp_path / "run" / "samples").glob("*.png"))
    loaded = load_flow(tmp_path / "run")
    prepared = recipe.objective.prepare(colours)
    assert metrics.evaluate(loaded, prepared.test, prepared.sources["test"]) == result.test


# Pairs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["mirror", "shift_and_flip"])
@pytest.mark.parametrize("source_channels", [1, 3, 4])
def test_source_and_target_are_moved_alike(augment, source_channels):
    module = _module(random_caflow(), augment=augment)
    targets = random_images(32, (3, 8, 8))
    sources = torch.cat([targets, 255 - targets], dim=1)[:, :source_channels]
    moved, moved_sources = module.augment(targets, sources)
    assert moved.shape == targets.shape and moved_sources.shape == sources.shape
    assert torch.equal(moved_sources, torch.cat([moved, 255 - moved], dim=1)[:, :source_channels])
    kept = (moved == targets).flatten(1).all(1)
    assert kept.any() if augment == "mirror" else True
    assert not kept.all()
    untouched = _module(random_caflow(), augment=None).augment(targets, sources)
    assert torch.equal(untouched[0], targets) and torch.equal(untouched[1], sources)


def test_a_recipe_makes_pairs_of_images_and_leaves_pairs_as_they_are(digits, pairs):
    assert isinstance(pairs, PairData) and RECIPE.objective.prepare(pairs) is pairs
    assert recipes.get("digits-glow").objective.prepare(digits) is digits
    assert torch.equal(pairs.train, digits.train) and set(pairs.sources) == set(SPLITS)
    assert RECIPE.model_arguments(pairs)["source_channels"] == 1
    with pytest.raises(ValueError, match=r"the weight of the sources is 0 or more, not -0\.1"):
        Translation(weight=-0.1)


def test_models_and_data_belong_together(digits, pairs, tmp_path):
    plain = replace(recipes.get("digits-glow"), batch_size=32)
    with pytest.raises(ValueError, match="trains a translation, and digits has no sources"):
        _train(
            digits,
            tmp_path / "a",
            recipe=replace(RECIPE, objective=Translation()),
            flow=random_caflow(num_grey_levels=17),
        )
    with pytest.raises(ValueError, match="digits has pairs of source and target: train them with"):
        _train(pairs, tmp_path / "b", recipe=plain, flow=models.digits_glow())
    with pytest.raises(ValueError, match="the objective Translation trains a TranslationFlow, the model is a Flow"):
        _train(pairs, tmp_path / "d", flow=models.digits_glow())
    with pytest.raises(ValueError, match=r"expected a context of \(32, 3, 8, 8\), one row per example, got \(32, 1, 8"):
        _train(pairs, tmp_path / "c", flow=random_caflow(num_grey_levels=17, source_channels=3))


# What is not a number ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (lambda f: f.source.bijection[1].levels[1], "source.bijection.layers.1.levels.1.layers.7"),
        (lambda f: f.bijection[1].levels[0], "bijection.layers.1.levels.0.layers.7"),
        (
            lambda f: f.bijection[2].priors[0].levels[1].bijection,
            "bijection.layers.2.priors.0.levels.1.bijection.layers.6",
        ),
    ],
)
def test_a_layer_that_returns_no_numbers_is_named(module, name, pairs, tmp_path):
    # Sources and targets of other shapes: a second pass, too, must not confuse them.
    pairs = replace(pairs, sources={split: images.repeat(1, 3, 1, 1) for split, images in pairs.sources.items()})
    flow = random_caflow(num_grey_levels=17, source_channels=3, dtype=torch.float32)
    torch.nn.init.constant_(module(flow)[-1].net.layers[2].bias, torch.nan)
    images = pairs.train[:4], pairs.sources["train"][:4]
    found = steps.first_non_finite(flow, *images)
    assert found == f"{name}.net.layers.2 (PointwiseConv; not finite in it: bias)"
    with pytest.raises(training.NonFiniteError) as error:
        _train(pairs, tmp_path, flow=flow)
    assert f"the loss is nan at step 0 (epoch 0, batch 0). First in forward order: {name}" in str(error.value)


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_saved_flow_is_the_same_flow_and_shared_weights_are_in_it_once(relation, tmp_path):
    from safetensors.torch import load_file

    flow = random_caflow((1, 16, 16), relation, num_scales=3, dtype=torch.float32)
    file = save_flow(flow, tmp_path / "model", task={})
    loaded = load_flow(file)
    images = random_images(4, (1, 16, 16))
    with torch.no_grad(), replayed_noise(0.3, 0.6):
        assert torch.equal(loaded.log_prob(images, images), flow.log_prob(images, images))
    saved = load_file(file)
    distinct = {id(p) for p in flow.parameters()}
    assert sum(p.numel() for p in flow.parameters()) == sum(
        tensor.numel() for name, tensor in saved.items() if not name.endswith("initialized")
    )
    assert len([name for name in saved if not name.endswith("initialized")]) == len(distinct)
    if relation == "shared":
        blocks = [level.bijection for prior in loaded.bijection[2].priors for level in prior.levels]
        assert len({id(block) for block in blocks}) == 5
        # Changed in one place, changed in all.
        assert loaded.bijection[2].priors[0].levels[2].bijection is loaded.bijection[2].priors[1].levels[1].bijection


def test_a_flow_saved_in_half_the_bytes_comes_back_in_single_precision_with_rounded_weights(tmp_path):
    flow = random_caflow((1, 16, 16), "shared", num_scales=3, dtype=torch.float32)
    whole, half = (save_flow(flow, tmp_path / str(h), half=h) for h in (False, True))
    loaded = load_flow(half)
    for ours, theirs in zip(loaded.parameters(), flow.parameters(), strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs.detach().half().float())
    num_bytes = sum(p.numel() for p in flow.parameters()) * 2
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(num_bytes, rel=0.02)
    assert weights.describe(half)["weights"] == "float16" and "weights" not in weights.describe(whole)


def test_files_of_another_relation_are_refused(tmp_path):
    flow = random_caflow((1, 16, 16), "shared", num_scales=3, dtype=torch.float32)
    file = save_flow(flow, tmp_path / "model")
    weights.update_description(file, arguments={**weights.describe(file)["arguments"], "relation": "unshared"})
    with pytest.raises(ValueError, match="the weights are not those of its builder"):
        load_flow(file)


# Recipes -------------------------------------------------------------------------------------------------------------


SMALL = "digits", "mnist"


@pytest.mark.parametrize(
    "name", [name if name.startswith(SMALL) else pytest.param(name, marks=pytest.mark.slow) for name in TRANSLATIONS]
)
def test_every_recipe_of_a_translation_builds_its_model_for_its_pairs(name):
    recipe = recipes.get(name)
    known = {"digits": ((1, 8, 8), 17), "mnist": ((1, 28, 28), 256), None: ((3, 64, 64), 256)}
    shape, levels = known.get(recipe.data, ((3, 32, 32), 256))
    assert recipe.data is None or recipe.data in data.names()
    # Beside its target.
    width = shape[2] * (2 if recipe.objective.task == tasks.SideBySide() else 1)
    parts = [random_images(1, (*shape[:2], width), levels) for _ in range(3)]
    pairs = recipe.objective.prepare(ImageData(str(recipe.data), "", *parts, num_grey_levels=levels))
    with torch.device("meta"):
        flow = recipe.build(pairs)
    assert isinstance(flow, TranslationFlow) and flow.shape == shape == pairs.shape
    assert flow.context_shape == tuple(pairs.sources["train"].shape[1:])
    assert flow.num_grey_levels == levels == flow.source.num_grey_levels
    assert recipe.objective.weight > 0
    json.dumps(recipe.model_arguments(pairs))


def test_the_recipes_of_the_paper_have_the_values_that_the_specification_knows():
    paper = [
        "ffhq-caflow-super-resolution",
        "lsun-caflow-colorization",
        "celeba-caflow-inpainting",
        "edges2shoes-caflow",
    ]
    for name in paper:
        recipe = recipes.get(name)
        assert recipe.data is None and recipe.builder == "caflow" and recipe.optimizer == "Adam"
        assert (recipe.batch_size, recipe.warmup_steps, recipe.clip_norm) == (8, 500, 1.0)
        assert (recipe.ema_decay, recipe.decay_per_epoch, recipe.drop_at_step) == (0.999, 0.999, 70_000)
        assert recipe.arguments["relation"] == "unshared"
        inpainting = recipe.objective.task == tasks.Inpainting()
        assert (recipe.objective.weight, recipe.learning_rate) == ((1e-2, 1e-4) if inpainting else (1e-3, 1e-3))
    assert recipes.get(paper[0]).arguments["num_noise_steps"] > 0
    assert recipes.get(paper[0]).objective.task == tasks.SuperResolution(4)
    assert all("num_noise_steps" not in recipes.get(name).arguments for name in paper[1:])


def test_the_models_of_a_ladder_differ_in_their_relation_alone():
    ladders = {}
    for name in TRANSLATIONS:
        for model, relation in LADDER.items():
            for suffix in ("super-resolution", "inpainting", "colorization"):
                if name.endswith(f"-{model}-{suffix}") and recipes.get(name).data is not None:
                    ladders.setdefault((recipes.get(name).data, suffix), {})[relation] = recipes.get(name)
    assert len(ladders) == 10
    for ladder in ladders.values():
        assert set(ladder) == set(RELATIONS)
        same = [replace(r, description="", arguments={**r.arguments, "relation": ""}) for r in ladder.values()]
        assert all(recipe == same[0] for recipe in same)
        assert all(recipe.arguments["relation"] == relation for relation, recipe in ladder.items())


def test_a_recipe_for_ones_own_images_asks_for_them(tmp_path):
    with pytest.raises(ValueError, match="for images of your own: give them as data"):
        training.train(recipes.get("edges2shoes-caflow"), out=tmp_path)


def test_a_run_of_an_earlier_version_resumes_though_it_left_out_default_arguments(digits, tmp_path):
    recipe = replace(RECIPE, objective=Translation(tasks.Inpainting(), 0.1))
    _train(digits, tmp_path, recipe=recipe, max_steps=1)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["run"]["recipe"]["task_arguments"] == {"mask": "square", "ratio": 0.15}
    checkpoint["run"]["recipe"]["task_arguments"] = {}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    assert _train(digits, tmp_path, recipe=recipe, max_steps=2, resume=True).history[-1]["step"] == 1
