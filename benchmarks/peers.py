"""Layers of nbflows beside the same layers of other packages: normflows, nflows, zuko, of the extra ``bench``.

Timed are z and log-determinant of a batch with the gradients of its likelihood ("train"), and the way back without
gradients ("inverse"), in float32. All have the same conditioner networks, of plain modules of torch, and in the Glow
level each package's own, of the same size. What is not the same: bounds of log-scales (nbflows and normflows: sigmoid;
nflows: sigmoid + 0.001; zuko: a soft clip); nflows' convolution adds a bias; zuko has layers on vectors only;
normflows' residual block iterates until the squared step is below 1e-5, nbflows' to the rounding of float32. Going
back, normflows and nflows compute log-determinants too, which a caller cannot turn off.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from benchmarks.configuration import PACKAGES
from benchmarks.harness import FLOAT32, Task, Workload

# Glow's first level on 32x32 colour images, batches of 32; vectors; residual blocks on 28x28 grey images.
IMAGES, HIDDEN_CHANNELS, NUM_STEPS = (32, 12, 16, 16), 96, 4
VECTORS, HIDDEN_FEATURES = (1024, 64), 256
GREY_IMAGES, RESIDUAL_CHANNELS, NUM_TERMS = (16, 1, 28, 28), 64, 10
COLOUR_IMAGES = (32, 3, 32, 32)


@dataclass(frozen=True)
class Layer:
    """A layer of some package, behind one interface.

    Attributes:
        module: holds the parameters.
        forward: data -> noise and log-determinant.
        inverse: noise -> data.
        after_step: what the package asks for after every step of training.
    """

    module: object
    forward: Callable
    inverse: Callable
    after_step: Callable[[], object] = lambda: None


def installed() -> list[str]:
    """The other packages that are installed."""
    return [package for package in PACKAGES[1:] if find_spec(package)]


def _of_nbflows(layer) -> Layer:
    return Layer(layer, layer, layer.inverse)


def _of_nflows(transform) -> Layer:
    return Layer(transform, transform, lambda z: transform.inverse(z)[0])


def _of_normflows(flow) -> Layer:
    # There, "forward" goes from noise to data.
    return Layer(flow, flow.inverse, lambda z: flow(z)[0])


def _conv_net(inputs: int, outputs: int):
    """Glow's conditioner: convolutions 3x3, 1x1, 3x3 with ReLU."""
    from torch import nn

    return _with_context(
        nn.Conv2d(inputs, HIDDEN_CHANNELS, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(HIDDEN_CHANNELS, HIDDEN_CHANNELS, 1),
        nn.ReLU(),
        nn.Conv2d(HIDDEN_CHANNELS, outputs, 3, padding=1),
    )


def _mlp(inputs: int, outputs: int):
    """Two hidden layers with ReLU."""
    from torch import nn

    widths = nn.Linear(inputs, HIDDEN_FEATURES), nn.Linear(HIDDEN_FEATURES, HIDDEN_FEATURES)
    return _with_context(widths[0], nn.ReLU(), widths[1], nn.ReLU(), nn.Linear(HIDDEN_FEATURES, outputs))


def _with_context(*layers):
    """Runs layers in a row; some packages pass a context, which is ignored."""
    from torch import nn

    class Conditioner(nn.Sequential):
        def forward(self, x, context=None):
            return super().forward(x)

    return Conditioner(*layers)


def coupling_of_nbflows(net: Callable, channels: int) -> Layer:
    """z = [kept, moved * sigmoid(raw + 2) + t]."""
    from nbflows.layers import AffineCoupling, SigmoidScale

    return _of_nbflows(AffineCoupling(net(channels // 2, channels), bound=SigmoidScale()))


def coupling_of_normflows(net: Callable, channels: int) -> Layer:
    """The same, with the shift first."""
    from normflows.flows import AffineCouplingBlock

    return _of_normflows(AffineCouplingBlock(net(channels // 2, channels), scale_map="sigmoid"))


def coupling_of_nflows(net: Callable, channels: int) -> Layer:
    """The same, with scales 0.001 larger."""
    from nflows.transforms import AffineCouplingTransform

    return _of_nflows(AffineCouplingTransform([0] * (channels // 2) + [1] * (channels // 2), net))


def coupling_of_zuko(net: Callable, features: int) -> Layer:
    """The same, with softly clipped log-scales."""
    import torch
    from zuko.flows.coupling import GeneralCouplingTransform

    coupling = GeneralCouplingTransform(features, mask=torch.arange(features) < features // 2)
    coupling.hyper = net(features // 2, features)
    return Layer(coupling, lambda x: coupling().call_and_ladj(x), lambda z: coupling().inv(z))


def conv1x1_of_nbflows() -> Layer:
    """W = P L U."""
    from nbflows.layers import Conv1x1

    return _of_nbflows(Conv1x1(IMAGES[1]))


def conv1x1_of_normflows() -> Layer:
    """W = P L U."""
    from normflows.flows import Invertible1x1Conv

    return _of_normflows(Invertible1x1Conv(IMAGES[1], use_lu=True))


def conv1x1_of_nflows() -> Layer:
    """W = L U P, and a bias."""
    from nflows.transforms.conv import OneByOneConvolution

    return _of_nflows(OneByOneConvolution(IMAGES[1]))


def glow_of_nbflows() -> Layer:
    """A squeeze, then steps of ActNorm, 1x1 convolution, affine coupling."""
    from nbflows import Sequential
    from nbflows.layers import ActNorm, AffineCoupling, Conv1x1, SigmoidScale, Squeeze
    from nbflows.nets import ConvNet

    channels, layers = IMAGES[1], [Squeeze()]
    for _ in range(NUM_STEPS):
        net = ConvNet(channels // 2, HIDDEN_CHANNELS, channels)
        layers += [ActNorm(channels), Conv1x1(channels), AffineCoupling(net, bound=SigmoidScale(), shift_first=True)]
    return _of_nbflows(Sequential(*layers))


def glow_of_normflows() -> Layer:
    """The same."""
    from normflows.flows import Composite, GlowBlock, Squeeze

    blocks = [GlowBlock(IMAGES[1], HIDDEN_CHANNELS) for _ in range(NUM_STEPS)]
    return _of_normflows(Composite([*blocks, Squeeze()]))


def glow_of_nflows() -> Layer:
    """The same, of the layers that there are: it has no Glow, and no convolutional network without normalisation."""
    from nflows.transforms import ActNorm, AffineCouplingTransform, CompositeTransform, SqueezeTransform
    from nflows.transforms.conv import OneByOneConvolution

    channels, transforms = IMAGES[1], [SqueezeTransform()]
    for _ in range(NUM_STEPS):
        mask = [0] * (channels // 2) + [1] * (channels // 2)
        transforms += [ActNorm(channels), OneByOneConvolution(channels), AffineCouplingTransform(mask, _conv_net)]
    return _of_nflows(CompositeTransform(transforms))


def residual_of_nbflows() -> Layer:
    """Convolutions 3x3, 1x1, 3x3 with LipSwish, the Neumann gradient in forward."""
    from nbflows.layers import ResidualBlock, SeriesLogDet, TruncatedSeries
    from nbflows.nets import LipschitzConvNet, update_norms

    net = LipschitzConvNet(GREY_IMAGES[1:], RESIDUAL_CHANNELS, coeff=0.97)
    block = ResidualBlock(net, SeriesLogDet(TruncatedSeries(NUM_TERMS), gradient="neumann", in_forward=True))
    return Layer(block, block, block.inverse, lambda: update_norms(block))


def residual_of_normflows() -> Layer:
    """The same, with the 5 steps of power iteration that its networks take by default."""
    from normflows.flows import Residual
    from normflows.nets import LipschitzCNN
    from normflows.utils import update_lipschitz

    channels = GREY_IMAGES[1]
    net = LipschitzCNN([channels, RESIDUAL_CHANNELS, RESIDUAL_CHANNELS, channels], [3, 1, 3], init_zeros=False)
    flow = Residual(net, n_power_series=NUM_TERMS)

    def forward(x):
        z, log_det = flow.inverse(x)
        return z, log_det

    # flow(z) would also estimate the log-determinant, which takes longer than the inverse.
    return Layer(flow, forward, flow.iresblock.inverse, lambda: update_lipschitz(flow, 5))


def _build(builder: Callable[[], Layer], shape: tuple[int, ...]):
    """A layer that has seen data, and a batch."""
    import torch

    torch.manual_seed(0)
    layer, x = builder(), torch.randn(shape)
    with torch.no_grad():
        # Sets the ActNorms.
        layer.forward(x)
    # Inside a flow, the input of a layer needs a gradient.
    return layer, x.requires_grad_()


def prepare_training(builder: Callable[[], Layer], shape: tuple[int, ...]) -> Workload:
    """The gradients of a batch's likelihood, and the package's own update after a step."""
    layer, x = _build(builder, shape)

    def step() -> None:
        layer.module.zero_grad()
        x.grad = None
        z, log_det = layer.forward(x)
        (z.square().sum() / 2 - log_det.sum()).backward()
        layer.after_step()

    return Workload(step)


def prepare_inverse(builder: Callable[[], Layer], shape: tuple[int, ...]) -> Workload:
    """The inverse of a batch of latents."""
    import torch

    layer, x = _build(builder, shape)
    with torch.no_grad():
        z = layer.forward(x)[0]
    return Workload(torch.no_grad()(lambda: layer.inverse(z)))


# Builders by package, and the shape of a batch.
LAYERS = {
    "coupling on images": (
        {
            "nbflows": partial(coupling_of_nbflows, _conv_net, IMAGES[1]),
            "normflows": partial(coupling_of_normflows, _conv_net, IMAGES[1]),
            "nflows": partial(coupling_of_nflows, _conv_net, IMAGES[1]),
        },
        IMAGES,
    ),
    "coupling on vectors": (
        {
            "nbflows": partial(coupling_of_nbflows, _mlp, VECTORS[1]),
            "normflows": partial(coupling_of_normflows, _mlp, VECTORS[1]),
            "nflows": partial(coupling_of_nflows, _mlp, VECTORS[1]),
            "zuko": partial(coupling_of_zuko, _mlp, VECTORS[1]),
        },
        VECTORS,
    ),
    "1x1 convolution": (
        {"nbflows": conv1x1_of_nbflows, "normflows": conv1x1_of_normflows, "nflows": conv1x1_of_nflows},
        IMAGES,
    ),
    "Glow level": (
        {"nbflows": glow_of_nbflows, "normflows": glow_of_normflows, "nflows": glow_of_nflows},
        COLOUR_IMAGES,
    ),
    "residual block": ({"nbflows": residual_of_nbflows, "normflows": residual_of_normflows}, GREY_IMAGES),
}


def _tasks() -> Iterator[tuple[str, Task]]:
    for layer, (builders, shape) in LAYERS.items():
        for action, prepare in (("train", prepare_training), ("inverse", prepare_inverse)):
            prepares = {package: partial(prepare, builder, shape) for package, builder in builders.items()}
            ours = prepares.pop("nbflows")
            yield f"{layer}, {action}", Task(ours, configurations=(FLOAT32,), peers=prepares)


TASKS = dict(_tasks())
