"""A flow computed by explorer.js, in node and in a browser, equals the flow in PyTorch: pictures, latents, bits/dim."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from nbflows import Flow, Multiscale, Sequential, data, explorer, load
from nbflows.layers import (
    ActNorm,
    AffineCoupling,
    ArctanScale,
    Conv1x1,
    Dequantize,
    Flip,
    GaussianPrior,
    LearnedTanh,
    MixtureCoupling,
    Permute,
    ScaledTanh,
    SigmoidScale,
    Squeeze,
    VariationalDequantize,
    checkerboard,
)
from nbflows.nets import ActNormConvNet, ConvNet, GatedAttentionNet, GatedConvNet, ZeroConv
from tests.flows import random_images

ENGINE = Path(explorer.__file__).with_name("explorer.js")
MNIST = Path(__file__).parents[2] / "data/MNIST/raw"
# The code that both engines run: what goes in and comes out is JSON.
SCRIPT = """
const asked = QUESTION, flow = await Flow.open(asked.description), spent = [];
const pictures = asked.latents.map((z) => {
  const began = CLOCK(), picture = Array.from(flow.decode(z));
  spent.push(CLOCK() - began);
  return picture;
});
const found = asked.images.map((image, i) => flow.encode(image, asked.noise[i]));
const total = (values) => values.reduce((a, b) => a + b, 0);
RETURN({
  pictures,
  latents: found.map(({ z }) => z.flatMap((level) => Array.from(level))),
  bits: found.map(({ bitsPerDim }) => bitsPerDim),
  parts: found.map(({ layers, latents }) => (total(layers) + total(latents)) / flow.size),
  map: found.map(({ map }) => total(map) / flow.size),
  spent: spent.sort((a, b) => a - b),
});
"""


def _node(question, folder):
    if shutil.which("node") is None:
        pytest.skip("explorer.js is compared in node, which is not installed")
    (folder / "question.json").write_text(json.dumps(question))
    # CPU time: another process on the machine does not count.
    script = SCRIPT.replace("QUESTION", "require('./question.json')").replace("RETURN", "write")
    clock = "const CLOCK = () => { const { user, system } = process.cpuUsage(); return (user + system) / 1000; };"
    write = "const write = (answer) => require('fs').writeFileSync('answer.json', JSON.stringify(answer));"
    (folder / "run.js").write_text(
        f"const {{ Flow }} = require({json.dumps(str(ENGINE))});{clock}{write}(async () => {{ {script} }})();"
    )
    subprocess.run(["node", "run.js"], cwd=folder, check=True, timeout=300)
    return json.loads((folder / "answer.json").read_text())


def _browser(question, page):
    script = SCRIPT.replace("QUESTION", "question").replace("RETURN", "return ").replace("CLOCK", "performance.now")
    page.goto("about:blank")
    return page.evaluate(f"async (question) => {{ {ENGINE.read_text()}; {script} }}", question)


# Node runs the same engine as the browser, and starts ten times as fast.
@pytest.fixture(params=["node", pytest.param("browser", marks=pytest.mark.slow)])
def engine(request, tmp_path):
    """Runs a question by explorer.js."""
    if request.param == "node":
        return partial(_node, folder=tmp_path)
    return partial(_browser, page=request.getfixturevalue("page"))


def _ask(engine, flow, images, kernels="f3"):
    """What explorer.js makes of latents and images, and what the flow makes of them, with the same noise."""
    z, noise = flow.draw_noise(len(images)), torch.rand(images.shape)
    with torch.no_grad(), mock.patch("torch.rand", lambda shape, dtype, device: noise.to(dtype)):
        bits, (latents, _) = flow.bits_per_dim(images), flow.encode(images)
    levels = [level.flatten(1).tolist() for level in flow.unpack(z)]
    question = {
        "description": explorer.describe(flow, kernels),
        "latents": [list(row) for row in zip(*levels, strict=True)],
        "images": images.flatten(1).tolist(),
        "noise": noise.flatten(1).tolist(),
    }
    found = {name: torch.tensor(value) for name, value in engine(question).items()}
    return found, {"pictures": flow.decode(z).flatten(1), "latents": latents.flatten(1), "bits": bits}


def _compare(found, wanted):
    differ = (found["pictures"] - wanted["pictures"].long()).abs()
    assert (differ == 0).float().mean() >= 0.999 and differ.max() <= 1
    torch.testing.assert_close(found["bits"], wanted["bits"], atol=1e-3, rtol=0)
    # Every bit belongs to a pixel, and to a part of the flow.
    torch.testing.assert_close(found["parts"], found["bits"])
    torch.testing.assert_close(found["map"], found["bits"])


def _test_images(name):
    if name.startswith("portraits"):
        return data.portraits.draw(64)[0]
    if not name.startswith("digits") and not MNIST.is_dir():
        pytest.skip("data/MNIST/raw is not here")
    return data.load("digits" if name.startswith("digits") else "mnist").test[:64]


@pytest.mark.parametrize("name", ["digits-multiscale", "digits-glow"])
def test_64_pictures_and_bits_of_a_published_model_equal_those_of_pytorch(name, engine):
    _compare(*_ask(engine, load(name), _test_images(name)))


# The page's large models, and its promise of speed: 64 images in both directions, in PyTorch and in JavaScript.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("mnist-glow", 60), ("portraits-glow", 120)])
def test_64_pictures_of_a_larger_model_equal_those_of_pytorch_in_milliseconds_each(name, limit, engine):
    found, wanted = _ask(engine, load(name), _test_images(name))
    _compare(found, wanted)
    # The median: a machine may be busy now and then. In a browser there is only the clock of the wall.
    if engine.func is _node:
        assert found["spent"][32] <= limit


def _awakened(flow, images):
    """Gives random values to weights that start at zero, so that no layer is the identity."""
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    flow.train()
    flow.log_prob(images)
    return flow.eval()


def _half_of_everything(shape):
    """A flow of one level with learned noise, masks, and every bound."""
    c, h, w = shape
    noise = AffineCoupling(GatedConvNet(c, 5, 2 * c, 2, context_channels=c), keep=checkerboard(h, w))
    bounds = [ArctanScale(), ScaledTanh(c), SigmoidScale(lowest=0.5), None, LearnedTanh(c)]
    couplings = [
        AffineCoupling(ConvNet(c, 6, 2 * c), keep=checkerboard(h, w, invert=i % 2 == 1), bound=bound)
        for i, bound in enumerate(bounds)
    ]
    return Flow(Sequential(VariationalDequantize(Sequential(noise, Flip()), 32), *couplings, ActNorm(c)), shape)


def _other_half(shape):
    """A flow of three levels with exits, priors and every way to split and to mix channels."""
    c = 4 * shape[0]
    levels = [
        Sequential(
            Squeeze(), ActNorm(c), Conv1x1(c, form="full"), AffineCoupling(ConvNet(c // 2, 6, c), keep="second")
        ),
        Sequential(Squeeze(), Flip(), AffineCoupling(ActNormConvNet(3, 6, 2 * (2 * c - 3)), keep=3), Conv1x1(2 * c)),
        Sequential(
            Squeeze(),
            Permute(torch.randperm(4 * c)),
            AffineCoupling(ConvNet(2 * c, 4, 4 * c), bound=SigmoidScale(), shift_first=True),
        ),
    ]
    priors = [GaussianPrior(ZeroConv(c // 2, c)), None, None]
    plain = Multiscale([Squeeze()], (4, 2, 2)).priors[0]
    flow = Multiscale(levels, shape, [prior or plain for prior in priors], keep="second")
    return Flow(Sequential(Dequantize(256, alpha=None), flow), shape)


@pytest.mark.parametrize("build", [_half_of_everything, _other_half])
@pytest.mark.parametrize("shape", [(1, 8, 24), (3, 8, 8)])
def test_every_layer_that_the_page_knows_equals_the_layer_in_pytorch(build, shape, engine):
    images = random_images(64, shape, 32)
    flow = _awakened(build(shape), images)
    for kernels in ("f3", "f2"):
        for module in flow.modules():
            if isinstance(module, nn.Conv2d):
                # Weights that both formats hold exactly.
                module.weight.data = module.weight.data.half().float()
        found, wanted = _ask(engine, flow, images, kernels)
        _compare(found, wanted)
        torch.testing.assert_close(found["latents"], wanted["latents"], atol=1e-3, rtol=1e-4)


def test_24_bits_take_more_room_than_float16_and_other_kernels_are_refused():
    flow = load("digits-glow")
    assert len(explorer.describe(flow, "f2")["weights"]) < len(explorer.describe(flow)["weights"])
    with pytest.raises(ValueError, match="kernels are 'f2' or 'f3', got 'f4'"):
        explorer.describe(flow, "f4")


def test_weights_that_do_not_match_are_refused(engine):
    flow = load("digits-glow")
    text = explorer.describe(flow)
    middle = len(text["weights"]) // 2
    changed = "A" if text["weights"][middle] != "A" else "B"
    text["weights"] = text["weights"][:middle] + changed + text["weights"][middle + 1 :]
    with pytest.raises(Exception, match=r"do not match|returned non-zero"):
        engine({"description": text, "latents": [], "images": [], "noise": []})


class _OwnCoupling(AffineCoupling):
    """Computes something else, for all that the page knows."""


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([_OwnCoupling(ConvNet(2, 4, 4))], "does not know the layer _OwnCoupling; it knows ActNorm, AffineCoupling"),
        ([MixtureCoupling(ConvNet(2, 4, 28), num_components=4)], "does not know the layer MixtureCoupling"),
        ([AffineCoupling(GatedAttentionNet(2, 8, 4, 1))], "does not know the network GatedAttentionNet"),
        ([AffineCoupling(ConvNet(2, 4, 4), bound=nn.Hardtanh())], "does not know the bound Hardtanh"),
    ],
)
def test_a_flow_that_the_page_cannot_compute_is_refused_with_the_name_of_the_layer(layers, message):
    with pytest.raises(ValueError, match=message):
        explorer.describe(Flow(Sequential(Dequantize(), *layers), (4, 4, 4)))


def test_flows_on_points_and_with_a_context_are_refused():
    with pytest.raises(ValueError, match="begin with Dequantize; this one with ActNorm"):
        explorer.describe(Flow(ActNorm(2), (2,)))
    with pytest.raises(ValueError, match="without a context"):
        explorer.describe(load("digits-dual-glow-super-resolution"))


def test_a_walk_leads_between_the_first_and_the_last_value_of_attributes():
    labels = {split: data.portraits.labels(100) for split in data.SPLITS}
    images = (torch.zeros(100, 3, 8, 8, dtype=torch.uint8),) * 3
    known = data.portraits.ATTRIBUTES.values
    groups = explorer.page._groups(data.ImageData("faces", "drawn", *images, attributes=labels, attribute_values=known))
    assert list(groups)[:4] == ["beard: none", "beard: full", "glasses: none", "glasses: sunglasses"]
    assert torch.equal(groups["beard: full"], labels["train"][:, list(known).index("beard")] == len(known["beard"]) - 1)
