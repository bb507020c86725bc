"""Flows given labels: what labels change, what they must be, and trainings, commands and files with them."""

from dataclasses import replace

import pytest
import torch

from nbflows import LabelledFlow, data, load_flow, load_pretrained, metrics, models, recipes, save_flow, training
from nbflows.cli import main
from nbflows.data import ImageData, by_name
from nbflows.objectives import Density, GivenLabels
from nbflows.storage import weights
from nbflows.storage.manifest import Manifest
from tools import cards, publish

ATTRIBUTES = {"shade": ("dark", "bright"), "size": ("small", "middle", "large")}


def _flow(num_classes=(2, 3), **changes):
    torch.manual_seed(0)
    return models.digits_glow(num_steps=2, hidden_channels=16, num_classes=num_classes, **changes)


def _labels(count):
    return torch.stack([torch.randint(2, (count,)), torch.randint(3, (count,))], 1)


@pytest.fixture(scope="module")
def shades():
    """Dark or bright images, whose second attribute changes nothing."""
    torch.manual_seed(0)
    labels = {split: _labels(count) for split, count in {"train": 400, "validation": 40, "test": 40}.items()}
    images = {
        split: (torch.randint(5, (len(rows), 1, 8, 8)) + 12 * rows[:, :1, None, None]).byte()
        for split, rows in labels.items()
    }
    return ImageData(
        "shades", "dark and bright", **images, num_grey_levels=17, attributes=labels, attribute_values=ATTRIBUTES
    )


@pytest.mark.parametrize("num_classes", [10, (2, 3)])
def test_images_come_back_given_the_same_labels_and_not_given_others(num_classes):
    flow = _flow(num_classes)
    images, labels = torch.randint(17, (6, 1, 8, 8)).byte(), flow.counted_labels(6)
    assert isinstance(flow, LabelledFlow) and labels.shape == ((6,) if num_classes == 10 else (6, 2))
    flow.log_prob(images, labels)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    flow = flow.double().eval()
    with torch.no_grad():
        z, _ = flow.encode(images, labels)
        assert torch.equal(flow.decode(z, labels), images)
        assert not torch.equal(flow.decode(z, labels.roll(1, 0)), images)


def test_layers_see_the_sum_of_one_vector_for_each_attribute():
    flow = _flow()
    each = flow.embedding.weight
    found = flow.encode_context(torch.tensor([[1, 2], [0, 0]]))
    torch.testing.assert_close(found[:, :, 0, 0], torch.stack([each[1] + each[4], each[0] + each[2]]))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, ValueError, r"needs a context of \(2,\)"),
        (torch.tensor([1, 1]), ValueError, r"expected a context of \(2, 2\)"),
        (torch.tensor([[1, 3], [0, 0]]), ValueError, r"less than \[2, 3\], not \[\[1, 3\]"),
        (torch.tensor([[-1, 0], [0, 0]]), ValueError, "labels are 0 or more"),
        (torch.ones(2, 2), TypeError, r"give labels.long\(\)"),
    ],
)
def test_labels_are_whole_numbers_in_their_range(labels, error, message):
    with pytest.raises(error, match=message):
        _flow().log_prob(torch.zeros(2, 1, 8, 8).byte(), labels)
    with pytest.raises(ValueError, match="num_classes is a number of 1 or more"):
        LabelledFlow(_flow().bijection, (1, 8, 8), (2, 0), 4)


def test_training_leaves_labels_out_as_often_as_it_says():
    base = _flow()
    flow = LabelledFlow(base.bijection, base.shape, (2, 3), 4, label_dropout=0.25)
    labels = torch.tensor([[1, 2]]).expand(4000, 2)
    given = flow.encode_context(labels).flatten(1)
    left_out = (given == 0).all(1)
    assert abs(left_out.double().mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    each = flow.embedding.weight
    torch.testing.assert_close(given[~left_out], (each[1] + each[4]).expand(int((~left_out).sum()), 4))
    flow.eval()
    assert not (flow.encode_context(labels).flatten(1) == 0).all(1).any()
    torch.testing.assert_close(flow.encode_context(torch.tensor([[-1, 2]])).flatten(1), each[4:5])
    assert (flow.encode_context(torch.full((3, 2), -1)) == 0).all()
    with pytest.raises(ValueError, match="labels are -1 or more"):
        flow.log_prob(torch.zeros(1, 1, 8, 8).byte(), torch.tensor([[-2, 0]]))


TINY = {"num_steps": 2, "hidden_channels": 16}
SHADES = replace(
    recipes.get("digits-glow"),
    arguments=TINY,
    objective=GivenLabels(),
    batch_size=40,
    learning_rate=5e-3,
    warmup_steps=5,
)


def test_samples_have_the_labels_that_were_asked_for(shades, tmp_path):
    recipe = replace(SHADES, ema_decay=0.5)
    flow = training.train(recipe, shades, tmp_path / "run", max_steps=40, device="cpu", progress=False).flow
    asked = torch.tensor([[0, 0]] * 40 + [[1, 0]] * 40)
    shade = flow.sample(80, asked).float().mean((1, 2, 3))
    # The means of dark and bright images are 2 and 14.
    assert (shade[:40] < 8).all() and (shade[40:] > 8).all()
    one = flow.sample(8, torch.tensor([[1, 2]]), generator=torch.Generator().manual_seed(0))
    assert torch.equal(one, flow.sample(8, torch.tensor([[1, 2]] * 8), generator=torch.Generator().manual_seed(0)))
    again = load_flow(tmp_path / "run")
    scores = [metrics.evaluate(model, shades.test, shades.attributes["test"]) for model in (flow, again)]
    assert scores[0] == scores[1]
    # 5 equally likely values a pixel, and no less.
    assert scores[0].mean > torch.tensor(5.0).log2() - 4 * scores[0].standard_error


def test_labels_need_their_objective_and_stay_the_same_in_a_run(shades, tmp_path):
    def train(recipe, images, name, **options):
        return training.train(recipe, images, tmp_path / name, max_steps=2, device="cpu", progress=False, **options)

    with pytest.raises(ValueError, match="the objective Density trains a Flow, the model is a LabelledFlow"):
        train(replace(SHADES, objective=Density(), arguments={**TINY, "num_classes": (2, 3)}), shades, "a")
    with pytest.raises(ValueError, match="the objective GivenLabels trains a LabelledFlow, the model is a Flow"):
        train(replace(SHADES, arguments={**TINY, "num_classes": 0}), shades, "b")
    with pytest.raises(ValueError, match="the model is given labels, and shades has none"):
        train(SHADES, replace(shades, attributes=None), "c")
    train(SHADES, shades, "d")
    other = {split: rows.flip(0) for split, rows in shades.attributes.items()}
    with pytest.raises(ValueError, match="against the same images with other labels"):
        train(SHADES, replace(shades, attributes=other), "d", resume=True)


@pytest.mark.parametrize(
    ("attributes", "label", "wrong", "message"),
    [
        (True, "shade=bright", "shade=grey", "values of shade: dark, bright"),
        (False, "class=3", "digit=3", "names: class"),
    ],
)
def test_the_commands_know_labels_by_their_names(
    shades, tmp_path, monkeypatch, capsys, attributes, label, wrong, message
):
    monkeypatch.chdir(tmp_path)
    if attributes:
        monkeypatch.setitem(by_name._LOADERS, "digits", lambda root: shades)
    monkeypatch.setitem(recipes.RECIPES, "tiny", SHADES)
    (tmp_path / "saved_models").mkdir()
    Manifest({}).write(tmp_path / "saved_models" / "manifest.json")
    assert main(["train", "tiny", "--out", "run", "--max-steps", "2", "--device", "cpu", "--no-progress"]) == 0
    assert main(["evaluate", "run", "--png", "test.png"]) == 0
    assert "test images:" in capsys.readouterr().out
    entry = publish.publish("run", "tiny", "a test")
    examples = data.load("digits").attributes if attributes else data.load("digits").labels
    assert entry["labels"]["examples"] == examples["test"][:16].tolist()
    flow = load_pretrained("tiny")
    assert entry["check"]["mean"] == metrics.evaluate(flow, *cards.fixed_images(flow)).mean
    assert cards.draw_sample("tiny", "saved_models").exists()
    for model in ("run", "tiny"):
        assert main(["sample", model, "few.png", "--num-samples", "20", "--labels", label]) == 0
    assert main(["sample", "run", "few.png", "--labels", wrong]) == 2
    assert message in capsys.readouterr().err
    save_flow(models.digits_simple(), "plain")
    assert main(["sample", "plain.safetensors", "few.png", "--labels", label]) == 2
    assert "--labels is for models that are given labels" in capsys.readouterr().err
    weights.update_description("run", labels={"values": 3})
    assert main(["sample", "run", "few.png"]) == 2
    assert "does not say which labels there are" in capsys.readouterr().err
