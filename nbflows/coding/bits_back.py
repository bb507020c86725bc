"""Local bits-back coding: images to bytes with a flow's own probabilities, and back, bit for bit."""

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nbflows import inputs
from nbflows.coding.ans import PRECISION, Bits, DiscreteGaussian
from nbflows.compose import Identity
from nbflows.compose import Sequential as Chain
from nbflows.flow import Flow
from nbflows.layers import Dequantize, Logit

# A Jacobian per image: its cost grows with the square of this.
MAX_DIMENSIONS = 1024
# Latents beyond this cannot be coded; those of images are below 10.
LARGEST_LATENT = 2**16


@dataclass(frozen=True)
class Message:
    """Coded images, and what it takes to read them besides the flow.

    Attributes:
        state: the images, one integer.
        num_images, num_dims: how many, and the D numbers of each.
        initial_bits, seed: length and seed of the random bits under the images. They come back in decoding, so that
            another message could stand in their place; here they tell whether decoding went right.
        std_bits, grid_bits: as in ``encode``.
    """

    state: int
    num_images: int
    num_dims: int
    initial_bits: int
    seed: int
    std_bits: int
    grid_bits: int

    _HEADER = struct.Struct(">IHIIBB")

    @property
    def total_bits(self) -> int:
        """Length of the state."""
        return self.state.bit_length()

    @property
    def net_bits(self) -> int:
        """What the images added to the bits that were there before."""
        return self.total_bits - self.initial_bits

    @property
    def net_bits_per_dim(self) -> float:
        """Net bits of each of the ``num_images * num_dims`` numbers; compares with ``Flow.bits_per_dim``."""
        return self.net_bits / (self.num_images * self.num_dims)

    def to_bytes(self) -> bytes:
        """A check sum and a header of 20 bytes, then the state."""
        _, *header = asdict(self).values()
        content = self._HEADER.pack(*header) + self.state.to_bytes((self.total_bits + 7) // 8, "big")
        return zlib.crc32(content).to_bytes(4, "big") + content

    @classmethod
    def from_bytes(cls, content: bytes) -> "Message":
        """Raises ValueError for bytes that ``to_bytes`` has not written, or that were changed since."""
        header = content[4 : 4 + cls._HEADER.size]
        if len(header) < cls._HEADER.size or zlib.crc32(content[4:]) != int.from_bytes(content[:4], "big"):
            raise ValueError(
                f"these {len(content)} bytes are no message, or not as it was written: the check sum does not fit"
            )
        return cls(int.from_bytes(content[4 + len(header) :], "big"), *cls._HEADER.unpack(header))


def encode(flow: Flow, images: Tensor, seed: int = 0, std_bits: int = 22, grid_bits: int = 4) -> Message:
    """Codes images without loss, in about -log2 p(x) bits each: the bound of one draw of dequantization noise.

    Local bits-back coding of an image x, with z = f(v) the flow of its dequantized values v = x + u and J = dz/dv:
    pop the noise u;  pop z from N(f(v), s^2 J J^T);  push v under N(f^-1(z), s^2 I);  push z under N(0, I).
    What is popped was there before and comes back in decoding. The two Gaussians of width s differ by the factor
    |det J| alone where f is straight, so that the net length is -log2 p(z) - log2 |det J|.

    Args:
        flow: of images, ``Dequantize`` first, in float64 on the CPU.
        images: uint8 ``(N, *flow.shape)``.
        seed: of the random bits to begin with, 0..2^32 - 1.
        std_bits: s = 2^-std_bits grey levels. Smaller s: f is straighter over it, and more bits to begin with.
        grid_bits: v and z lie on grids of s / 2^grid_bits. Finer: less is lost by rounding, more bits to begin with.

    Raises:
        ValueError: a flow or images that cannot be coded.

    Source: Ho et al., "Compression with flows via local bits-back coding", 2019, section 3.2 (arXiv:1905.08500).
    """
    coder = _LocalBitsBack(flow, std_bits, grid_bits)
    rows = _rows(flow, images)
    seed = inputs.whole(seed, "seed", 0, 2**32 - 1)
    with _reproducible(flow):
        # What the first image borrows is known once it has borrowed it, from more than enough. From other bits it will
        # be a little more or less: a Gaussian needs 48 bits to look at, the other 48 are many standard deviations.
        trial = Bits.random(128 * coder.num_dims, seed)
        coder.borrow(trial, rows[0])
        initial_bits = 128 * coder.num_dims - len(trial) + 2 * PRECISION
        bits = Bits.random(initial_bits, seed)
        for row in rows:
            coder.push(bits, row)
    return Message(bits.state, len(rows), coder.num_dims, initial_bits, seed, std_bits, grid_bits)


def decode(flow: Flow, message: Message) -> Tensor:
    """The images of a message: uint8 ``(N, *flow.shape)``.

    Both sides compute the same float64 numbers, to the last bit, only with the same flow, release of torch and kind of
    processor; where they did not, the bits to begin with do not come back.

    Args:
        flow: the one that coded them.
        message: from ``encode``, or from ``Message.from_bytes``.

    Raises:
        ValueError: no message of this flow.
    """
    coder = _LocalBitsBack(flow, message.std_bits, message.grid_bits)
    if message.num_dims != coder.num_dims:
        raise ValueError(f"the message is of images of {message.num_dims} numbers, the flow's have {coder.num_dims}")
    if not message.num_images:
        raise ValueError("the message is of no images")
    # What encode cannot have written: numbers that would take for ever, or all memory.
    if not 0 < message.initial_bits <= 128 * coder.num_dims + 2 * PRECISION:
        raise ValueError(f"this is no message of this flow: it was begun with {message.initial_bits} bits")
    if message.num_images > message.total_bits + 1000:
        raise ValueError(f"this is no message of this flow: {message.num_images} images in {message.total_bits} bits")
    bits = Bits(message.state)
    with _reproducible(flow):
        try:
            rows = [coder.pop(bits) for _ in range(message.num_images)]
        except ValueError as error:
            raise ValueError(f"this is no message of this flow: {error}") from error
    if bits.state != Bits.random(message.initial_bits, message.seed).state:
        raise ValueError(
            f"this is no message of this flow: {len(bits)} bits are left below the images, not the "
            f"{message.initial_bits} random ones it was begun with"
        )
    return torch.tensor(rows[::-1], dtype=torch.uint8).view(-1, *flow.shape)


class _LocalBitsBack:
    """Codes one image at a time. All lengths are in steps of the grid: 2^-(std_bits + grid_bits) grey levels.

    The dequantized value of index j is the middle of its step, (j + 1/2) steps; the latent of index k is k steps.
    """

    def __init__(self, flow: Flow, std_bits: int, grid_bits: int):
        _check_flow(flow)
        std_bits, grid_bits = inputs.whole(std_bits, "std_bits", 0), inputs.whole(grid_bits, "grid_bits", 0)
        # Latents of 2^16 then have indices below 2^53, which a float64 holds exactly.
        if not 1 <= std_bits + grid_bits <= 32:
            raise ValueError(f"std_bits + grid_bits is between 1 and 32, got {std_bits} + {grid_bits}")
        dequantize, *layers = flow.bijection.layers
        logit = Identity() if dequantize.alpha is None else Logit(dequantize.alpha)
        self.layers, self.shape, self.num_levels = Chain(logit, *layers), flow.shape, dequantize.num_levels
        self.latent_shape, self.num_dims = flow.latent_shape, math.prod(flow.shape)
        self.noise_bits, self.std = std_bits + grid_bits, 2.0**grid_bits
        self.step = 2.0**-self.noise_bits
        limit = LARGEST_LATENT << self.noise_bits
        self.prior = DiscreteGaussian(0.0, 1 / self.step, -limit, 2 * limit)

    def push(self, bits: Bits, x: list[int]) -> None:
        """Codes an image, its numbers in a list."""
        v, z = self.borrow(bits, x)
        for v_i, gaussian in zip(v, self._values_given(z), strict=True):
            bits.push_gaussian(v_i, gaussian)
        for z_i in z:
            bits.push_gaussian(z_i, self.prior)

    def borrow(self, bits: Bits, x: list[int]) -> tuple[list[int], list[int]]:
        """Pops noise for an image, and a latent near f(v): the indices of v and z."""
        v = [(x_i << self.noise_bits) + bits.pop_uniform(self.noise_bits) for x_i in x]
        return v, self._latents_near(v, lambda i, gaussian: bits.pop_gaussian(gaussian))

    def pop(self, bits: Bits) -> list[int]:
        """Every step of ``push`` backwards."""
        z = [bits.pop_gaussian(self.prior) for _ in range(self.num_dims)][::-1]
        v = [bits.pop_gaussian(gaussian) for gaussian in reversed(self._values_given(z))][::-1]
        gaussians = []
        self._latents_near(v, lambda i, gaussian: gaussians.append(gaussian) or z[i])
        for z_i, gaussian in zip(reversed(z), reversed(gaussians), strict=True):
            bits.push_gaussian(z_i, gaussian)
        for v_i in reversed(v):
            bits.push_uniform(v_i & (1 << self.noise_bits) - 1, self.noise_bits)
        return [v_i >> self.noise_bits for v_i in v]

    def _values_given(self, z: list[int]) -> list[DiscreteGaussian]:
        """N(f^-1(z), s^2) for each dequantized value, on all the values there are: none is out of reach."""
        latent = (torch.tensor(z, dtype=torch.float64) * self.step).view(1, *self.latent_shape)
        with torch.no_grad():
            means = self.layers.inverse(latent).flatten() * (self.num_levels / self.step) - 0.5
        return [DiscreteGaussian(mean, self.std, 0, self.num_levels << self.noise_bits) for mean in means.tolist()]

    def _latents_near(self, v: list[int], choose: Callable[[int, DiscreteGaussian], int]) -> list[int]:
        """z of N(f(v), s^2 J J^T), one after the other: ``choose(i, N(z_i | those before))`` says which.

        With J J^T = L L^T, z = f(v) + s L e, e standard normal: the mean of z_i is known once e_1, ..., e_(i-1) are.
        """
        mean, jacobian = self._linearize(v)
        # L from the triangle of J^T = Q R: the product J J^T would square the condition of J, and lose half the digits.
        factor = torch.linalg.qr(jacobian.T, mode="r").R.T
        z = []
        for i, width in enumerate((self.std * factor.diagonal().abs()).tolist()):
            mean_i = mean[i].item()
            if not (abs(mean_i) * self.step < LARGEST_LATENT and 0 < width < math.inf):
                raise ValueError(
                    f"latent {i} of an image is {mean_i * self.step:.3g}, its width {width * self.step:.3g}; coding "
                    f"takes latents below {LARGEST_LATENT} with a width above 0: leave this image out"
                )
            # A normal number beyond 16 standard deviations has a probability of 1e-57.
            low, size = math.floor(mean_i - 16 * width), math.ceil(32 * width) + 2
            z.append(choose(i, DiscreteGaussian(mean_i, width, low, size)))
            mean = mean + factor[:, i] * ((z[i] - mean_i) / factor[i, i])
        return z

    def _linearize(self, v: list[int]) -> tuple[Tensor, Tensor]:
        """f(v) in steps ``(D,)``, and J = dz/dv ``(D, D)``: row i from copy i of v, all in one backward pass."""
        values = (torch.tensor(v, dtype=torch.float64) + 0.5) * (self.step / self.num_levels)
        means, rows = [], []
        # 64 copies at a time bound the memory.
        for chunk in torch.arange(self.num_dims).split(64):
            with torch.enable_grad():
                copies = values.view(1, *self.shape).repeat(len(chunk), *[1] * len(self.shape)).requires_grad_()
                z = self.layers(copies)[0].flatten(1)
                (gradient,) = torch.autograd.grad(z[torch.arange(len(chunk)), chunk].sum(), copies)
            means.append(z[0].detach() / self.step)
            rows.append(gradient.flatten(1) / self.num_levels)
        return means[0], torch.cat(rows)


def _check_flow(flow: Flow) -> None:
    if flow.context_shape is not None:
        raise ValueError(f"coding needs a flow of images alone, this one has a context of {flow.context_shape}")
    first = flow.bijection.layers[0] if isinstance(flow.bijection, Chain) and len(flow.bijection) else flow.bijection
    if not isinstance(first, Dequantize) or first is flow.bijection:
        raise ValueError(
            f"coding needs uniform Dequantize as the first layer of a Sequential, got {type(first).__name__}"
        )
    if first.spacing != 1 / first.num_levels:
        raise ValueError(
            f"coding needs bins without gaps, this flow has bins of 1/{first.num_levels} at a spacing of "
            f"{first.spacing}: take one with Dequantize(spacing=None)"
        )
    if math.prod(flow.shape) > MAX_DIMENSIONS:
        raise ValueError(
            f"images of {flow.shape} have {math.prod(flow.shape)} dimensions; coding takes at most "
            f"{MAX_DIMENSIONS}, for it needs the Jacobian of each image: take a flow of smaller images"
        )
    if flow._like.dtype != torch.float64 or flow._like.device.type != "cpu":
        raise ValueError(
            f"coding needs float64 on the CPU, this flow is {flow._like.dtype} on {flow._like.device}: use "
            "flow.cpu().double()"
        )


def _rows(flow: Flow, images: Tensor) -> Sequence[list[int]]:
    num_levels = flow.bijection[0].num_levels
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != flow.shape or not len(images):
        raise ValueError(
            f"expected uint8 images (N, {', '.join(map(str, flow.shape))}), N at least 1, got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    # A Python number: 256 is no uint8.
    if (highest := images.max().item()) >= num_levels:
        raise ValueError(f"this flow has {num_levels} grey levels, 0..{num_levels - 1}; got up to {highest}")
    return images.flatten(1).tolist()


@contextmanager
def _reproducible(flow: Flow) -> Iterator[None]:
    """Eval mode, and one thread: how a sum is shared among threads decides on its last bit. Autograd can be used."""
    training, num_threads = flow.training, torch.get_num_threads()
    flow.eval()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False):
            yield
    finally:
        flow.train(training)
        torch.set_num_threads(num_threads)
