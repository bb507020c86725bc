"""Local bits-back coding: images to bytes with the probabilities of a flow, and back, bit for bit."""

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nbflows import inputs
from nbflows.bijection import Bijection
from nbflows.coding.ans import PRECISION, Bits, DiscreteGaussian
from nbflows.compose import Identity
from nbflows.compose import Sequential as Chain
from nbflows.flow import Flow
from nbflows.layers import Dequantize, Logit

# Each image needs its Jacobian, whose cost grows with the square of this.
MAX_DIMENSIONS = 1024
# Larger latents cannot be coded; latents of images are below 10.
LARGEST_LATENT = 2**16


@dataclass(frozen=True)
class Message:
    """Coded images with everything but the flow that decoding needs.

    Attributes:
        state: the images as one integer.
        num_images, num_dims: the number of images and their dimension D.
        initial_bits, seed: length and seed of the random bits below the images. Decoding returns them, so they could be
            another message; here they show whether decoding was correct.
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
        """The bits that the images added to the initial bits."""
        return self.total_bits - self.initial_bits

    @property
    def net_bits_per_dim(self) -> float:
        """Net bits per number, of ``num_images * num_dims`` numbers; comparable with ``Flow.bits_per_dim``."""
        return self.net_bits / (self.num_images * self.num_dims)

    def to_bytes(self) -> bytes:
        """Returns a checksum and a header of 20 bytes, then the state."""
        _, *header = asdict(self).values()
        content = self._HEADER.pack(*header) + self.state.to_bytes((self.total_bits + 7) // 8, "big")
        return zlib.crc32(content).to_bytes(4, "big") + content

    @classmethod
    def from_bytes(cls, content: bytes) -> "Message":
        """Reads bytes from ``to_bytes``. Raises ValueError for other bytes, or if they were changed."""
        header = content[4 : 4 + cls._HEADER.size]
        if len(header) < cls._HEADER.size or zlib.crc32(content[4:]) != int.from_bytes(content[:4], "big"):
            raise ValueError(f"these {len(content)} bytes are not a message, or were changed: the checksum is wrong")
        return cls(int.from_bytes(content[4 + len(header) :], "big"), *cls._HEADER.unpack(header))


def encode(flow: Flow, images: Tensor, seed: int = 0, std_bits: int = 22, grid_bits: int = 4) -> Message:
    """Codes images losslessly in about -log2 p(x) bits each, the bound with one draw of dequantization noise.

    Local bits-back coding of an image x, with z = f(v) the flow of its dequantized values v = x + u and J = dz/dv:
    pop the noise u;  pop z from N(f(v), s^2 J J^T);  push v under N(f^-1(z), s^2 I);  push z under N(0, I).
    Decoding pushes the popped bits back. Where f is linear the two Gaussians of width s differ only by the factor
    |det J|, so the net length is -log2 p(z) - log2 |det J|.

    Args:
        flow: a flow of images, ``Dequantize`` first, in float64 on the CPU.
        images: uint8 ``(N, *flow.shape)``.
        seed: seed of the initial random bits, 0..2^32 - 1.
        std_bits: s = 2^-std_bits grey levels. With a smaller s, f is closer to linear but there are more initial bits.
        grid_bits: v and z are on grids of s / 2^grid_bits. A finer grid loses less by rounding but needs more initial
            bits.

    Raises:
        ValueError: the flow or the images cannot be coded.

    Source: Ho et al., "Compression with flows via local bits-back coding", 2019, section 3.2 (arXiv:1905.08500).
    """
    coder = _LocalBitsBack(flow, std_bits, grid_bits)
    rows = _rows(images, flow.shape, coder.num_grey_levels)
    seed = inputs.whole(seed, "seed", 0, 2**32 - 1)
    with _reproducible(flow):
        # A trial with more than enough bits shows how many the first image borrows. From other bits it borrows slightly
        # more or fewer: a Gaussian reads 48 bits, and another 48 are many standard deviations.
        trial = Bits.random(128 * coder.num_dims, seed)
        coder.borrow(trial, rows[0])
        initial_bits = 128 * coder.num_dims - len(trial) + 2 * PRECISION
        bits = Bits.random(initial_bits, seed)
        for row in rows:
            coder.push(bits, row)
    return Message(bits.state, len(rows), coder.num_dims, initial_bits, seed, std_bits, grid_bits)


def decode(flow: Flow, message: Message) -> Tensor:
    """Decodes the images of a message: uint8 ``(N, *flow.shape)``.

    Both sides compute the same float64 numbers, to the last bit, only with the same flow, release of torch and kind of
    processor. If the numbers differ, decoding does not return the initial bits.

    Args:
        flow: the flow that coded the images.
        message: from ``encode`` or ``Message.from_bytes``.

    Raises:
        ValueError: the message is not from this flow.
    """
    coder = _LocalBitsBack(flow, message.std_bits, message.grid_bits)
    if message.num_dims != coder.num_dims:
        raise ValueError(f"the message has images of {message.num_dims} numbers, the flow's have {coder.num_dims}")
    if not message.num_images:
        raise ValueError("the message has no images")
    # encode never writes these numbers, which would take for ever or all memory.
    if not 0 < message.initial_bits <= 128 * coder.num_dims + 2 * PRECISION:
        raise ValueError(f"this is not a message of this flow: it started from {message.initial_bits} bits")
    if message.num_images > message.total_bits + 1000:
        raise ValueError(
            f"this is not a message of this flow: {message.num_images} images in {message.total_bits} bits"
        )
    bits = Bits(message.state)
    with _reproducible(flow):
        try:
            rows = [coder.pop(bits) for _ in range(message.num_images)]
        except ValueError as error:
            raise ValueError(f"this is not a message of this flow: {error}") from error
    if bits.state != Bits.random(message.initial_bits, message.seed).state:
        raise ValueError(
            f"this is not a message of this flow: {len(bits)} bits are left below the images, not the "
            f"{message.initial_bits} random bits it started from"
        )
    return torch.tensor(rows[::-1], dtype=torch.uint8).view(-1, *flow.shape)


class _LocalBitsBack:
    """Codes one image at a time. All lengths are in steps of the grid: 2^-(std_bits + grid_bits) grey levels.

    The dequantized value of index j is the middle of its step, (j + 1/2) steps; the latent of index k is k steps.
    """

    def __init__(self, flow: Flow, std_bits: int, grid_bits: int):
        std_bits, grid_bits = inputs.whole(std_bits, "std_bits", 0), inputs.whole(grid_bits, "grid_bits", 0)
        # Then latents up to 2^16 have indices below 2^53, which float64 represents exactly.
        if not 1 <= std_bits + grid_bits <= 32:
            raise ValueError(f"std_bits + grid_bits is between 1 and 32, got {std_bits} + {grid_bits}")
        dequantize, layers = _first_and_rest(flow)
        logit = Identity() if dequantize.alpha is None else Logit(dequantize.alpha)
        self.layers, self.shape, self.num_grey_levels = Chain(logit, *layers), flow.shape, dequantize.num_grey_levels
        self.latent_shape, self.num_dims = flow.latent_shape, math.prod(flow.shape)
        self.noise_bits, self.std = std_bits + grid_bits, 2.0**grid_bits
        self.step = 2.0**-self.noise_bits
        limit = LARGEST_LATENT << self.noise_bits
        self.prior = DiscreteGaussian(0.0, 1 / self.step, -limit, 2 * limit)

    def push(self, bits: Bits, x: list[int]) -> None:
        """Codes an image, given as a list of its numbers."""
        v, z = self.borrow(bits, x)
        for v_i, gaussian in zip(v, self._values_given(z), strict=True):
            bits.push_gaussian(v_i, gaussian)
        for z_i in z:
            bits.push_gaussian(z_i, self.prior)

    def borrow(self, bits: Bits, x: list[int]) -> tuple[list[int], list[int]]:
        """Pops noise for an image and a latent near f(v), and returns the indices of v and z."""
        v = [(x_i << self.noise_bits) + bits.pop_uniform(self.noise_bits) for x_i in x]
        return v, self._latents_near(v, lambda i, gaussian: bits.pop_gaussian(gaussian))

    def pop(self, bits: Bits) -> list[int]:
        """Decodes an image by the steps of ``push`` backwards."""
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
        """Returns N(f^-1(z), s^2) for each dequantized value, on the whole range of values."""
        latent = (torch.tensor(z, dtype=torch.float64) * self.step).view(1, *self.latent_shape)
        with torch.no_grad():
            means = self.layers.inverse(latent).flatten() * (self.num_grey_levels / self.step) - 0.5
        return [DiscreteGaussian(mean, self.std, 0, self.num_grey_levels << self.noise_bits) for mean in means.tolist()]

    def _latents_near(self, v: list[int], choose: Callable[[int, DiscreteGaussian], int]) -> list[int]:
        """Finds z of N(f(v), s^2 J J^T) one by one: z_i is ``choose(i, N(z_i | z_1, ..., z_(i-1)))``.

        With J J^T = L L^T, z = f(v) + s L e with e standard normal; e_1, ..., e_(i-1) determine the mean of z_i.
        """
        mean, jacobian = self._linearize(v)
        # L comes from J^T = Q R: the product J J^T would square the condition number of J and lose half the digits.
        factor = torch.linalg.qr(jacobian.T, mode="r").R.T
        z = []
        for i, width in enumerate((self.std * factor.diagonal().abs()).tolist()):
            mean_i = mean[i].item()
            if not (abs(mean_i) * self.step < LARGEST_LATENT and 0 < width < math.inf):
                raise ValueError(
                    f"latent {i} of an image is {mean_i * self.step:.3g}, its width {width * self.step:.3g}; coding "
                    f"takes latents below {LARGEST_LATENT} with a width above 0: leave this image out"
                )
            # The probability of more than 16 standard deviations is 1e-57.
            low, size = math.floor(mean_i - 16 * width), math.ceil(32 * width) + 2
            z.append(choose(i, DiscreteGaussian(mean_i, width, low, size)))
            mean = mean + factor[:, i] * ((z[i] - mean_i) / factor[i, i])
        return z

    def _linearize(self, v: list[int]) -> tuple[Tensor, Tensor]:
        """Returns f(v) in steps ``(D,)`` and J = dz/dv ``(D, D)``: row i is the gradient of copy i of v."""
        values = (torch.tensor(v, dtype=torch.float64) + 0.5) * (self.step / self.num_grey_levels)
        means, rows = [], []
        # 64 copies at a time bound the memory.
        for chunk in torch.arange(self.num_dims).split(64):
            with torch.enable_grad():
                copies = values.view(1, *self.shape).repeat(len(chunk), *[1] * len(self.shape)).requires_grad_()
                z = self.layers(copies)[0].flatten(1)
                (gradient,) = torch.autograd.grad(z[torch.arange(len(chunk)), chunk].sum(), copies)
            means.append(z[0].detach() / self.step)
            rows.append(gradient.flatten(1) / self.num_grey_levels)
        return means[0], torch.cat(rows)


def _first_and_rest(flow: Flow) -> tuple[Dequantize, Sequence[Bijection]]:
    """Returns the dequantization and the other layers. Raises ValueError for a flow that cannot code images."""
    if flow.context_shape is not None:
        raise ValueError(f"coding needs a flow without context, this one has a context of {flow.context_shape}")
    first, *rest = (
        flow.bijection.layers if isinstance(flow.bijection, Chain) and len(flow.bijection) else [flow.bijection]
    )
    if not isinstance(first, Dequantize) or first is flow.bijection:
        raise ValueError(
            f"coding needs uniform Dequantize as the first layer of a Sequential, got {type(first).__name__}"
        )
    if first.spacing != 1 / first.num_grey_levels:
        raise ValueError(
            f"coding needs bins without gaps, this flow has bins of 1/{first.num_grey_levels} at a spacing of "
            f"{first.spacing}: take one with Dequantize(spacing=None)"
        )
    if math.prod(flow.shape) > MAX_DIMENSIONS:
        raise ValueError(
            f"images of {flow.shape} have {math.prod(flow.shape)} dimensions; coding takes at most {MAX_DIMENSIONS}, "
            "because it needs the Jacobian of each image: take a flow of smaller images"
        )
    if flow.dtype != torch.float64 or flow.device.type != "cpu":
        raise ValueError(
            f"coding needs float64 on the CPU, this flow is {flow.dtype} on {flow.device}: use flow.cpu().double()"
        )
    return first, rest


def _rows(images: Tensor, shape: tuple[int, ...], num_grey_levels: int) -> list[list[int]]:
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape or not len(images):
        raise ValueError(
            f"expected uint8 images (N, {', '.join(map(str, shape))}), N at least 1, got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    # Compared in Python: 256 does not fit uint8.
    if (highest := images.max().item()) >= num_grey_levels:
        raise ValueError(f"this flow has {num_grey_levels} grey levels, 0..{num_grey_levels - 1}; got up to {highest}")
    return images.flatten(1).tolist()


@contextmanager
def _reproducible(flow: Flow) -> Iterator[None]:
    """Sets eval mode and one thread, because the number of threads changes the last bit of a sum. Autograd works."""
    training, num_threads = flow.training, torch.get_num_threads()
    flow.eval()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False):
            yield
    finally:
        flow.train(training)
        torch.set_num_threads(num_threads)
