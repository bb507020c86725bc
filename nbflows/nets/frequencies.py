"""Convolutions of small images, as products of matrices: one for each frequency."""

import torch
from torch import Tensor


class Frequencies:
    """y = conv(x), with zeros around x, computed as  y = S(W_f A(x)_f)  with a matrix W_f for each frequency f.

    A is the Fourier transform and S its inverse. On images hardly larger than the kernel this takes a third of the
    arithmetic and is as exact. A dilated convolution is one of smaller images: of every second pixel, and so on.

    Images are held as rows ``(positions, images, C)``, so that A and S are products with one matrix each.

    Args:
        size: ``(H, W)`` of the images; multiples of the dilation.
        kernel_size, dilation: of the convolutions; the first is odd.
        like: a tensor of their dtype and device.
    """

    def __init__(self, size: tuple[int, int], kernel_size: int, dilation: int, like: Tensor):
        self.dilation = dilation
        self.size = tuple(length // dilation for length in size)
        reach = kernel_size // 2
        # As many zeros as the kernel reaches: what leaves the image on one side comes back there on the other.
        self.period = tuple(length + reach for length in self.size)
        images = torch.fft.rfft2(_units(*self.size), s=self.period)
        kernels = torch.nn.functional.pad(_units(kernel_size, kernel_size), _to(self.period, kernel_size))
        # Its middle goes to the corner. Conjugate, as what torch calls a convolution is a correlation.
        kernels = torch.fft.rfft2(kernels.roll((-reach, -reach), (1, 2))).conj()
        self.num_frequencies = images[0].numel()
        self._transform, self._transform_kernel = (_real_parts(part).to(like) for part in (images, kernels))
        # What each real and each imaginary part alone contributes to the image.
        units = torch.eye(self.num_frequencies, dtype=torch.float64).view(-1, *images.shape[1:])
        parts = [torch.fft.irfft2(unit * units, s=self.period) for unit in (1, 1j)]
        self._back = [part[:, : self.size[0], : self.size[1]].flatten(1).mT.contiguous().to(like) for part in parts]

    @staticmethod
    def pay(shape: tuple[int, ...], kernel_size: int, dilation: int, out_channels: int) -> bool:
        """Whether they take at most half the multiplications for images ``(B, C, H, W)``, and these fill matrices."""
        batch, channels, height, width = shape
        if height % dilation or width % dilation or batch * dilation**2 < 8:
            return False
        height, width, reach = height // dilation, width // dilation, kernel_size // 2
        num_frequencies = (height + reach) * ((width + reach) // 2 + 1)
        products = 4 * channels * out_channels + 2 * height * width * (channels + out_channels)
        return 2 * num_frequencies * products <= height * width * kernel_size**2 * channels * out_channels

    def rows(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(positions, images, C)``: dilation^2 images of each one."""
        (height, width), d = self.size, self.dilation
        parts = images.unflatten(3, (width, d)).unflatten(2, (height, d))  # (B, C, h, d, w, d)
        return parts.permute(2, 4, 3, 5, 0, 1).reshape(height * width, -1, images.shape[1])

    def images(self, rows: Tensor) -> Tensor:
        """Undoes ``rows``."""
        (height, width), d = self.size, self.dilation
        parts = rows.view(height, width, d, d, -1, rows.shape[-1])  # (h, w, d, d, B, C)
        return parts.permute(4, 0, 2, 1, 3, 5).reshape(-1, height * d, width * d, rows.shape[-1]).permute(0, 3, 1, 2)

    def kernel(self, weight: Tensor) -> Tensor:
        """The matrices of a convolution ``(out, in, k, k)``: real and imaginary parts ``(2, frequencies, in, out)``."""
        parts = self._transform_kernel @ weight.permute(2, 3, 1, 0).flatten(2).flatten(0, 1)
        return parts.view(2, self.num_frequencies, weight.shape[1], weight.shape[0])

    def convolve(self, rows: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """The convolution of rows with what ``kernel`` made of its weight."""
        spectrum = (self._transform @ rows.flatten(1)).view(2, self.num_frequencies, *rows.shape[1:])
        (real, imaginary), (kernel_real, kernel_imaginary) = spectrum, kernel
        product_real = torch.bmm(real, kernel_real).baddbmm_(imaginary, kernel_imaginary, alpha=-1)
        product_imaginary = torch.bmm(real, kernel_imaginary).baddbmm_(imaginary, kernel_real)
        # A constant is all in the first frequency, as the sum over the period.
        product_real[0] += self.period[0] * self.period[1] * bias
        back_real, back_imaginary = self._back
        y = (back_real @ product_real.flatten(1)).addmm_(back_imaginary, product_imaginary.flatten(1))
        return y.view(len(rows), rows.shape[1], -1)


def _units(height: int, width: int) -> Tensor:
    """All images with a single 1: ``(height * width, height, width)``."""
    return torch.eye(height * width, dtype=torch.float64).view(-1, height, width)


def _to(period: tuple[int, int], size: int) -> list[int]:
    return [0, period[1] - size, 0, period[0] - size]


def _real_parts(spectra: Tensor) -> Tensor:
    """Spectra ``(N, *)`` of N units as a matrix of 2F rows: the real parts of all frequencies, then the imaginary."""
    return torch.view_as_real(spectra.flatten(1).resolve_conj()).permute(2, 1, 0).flatten(0, 1).contiguous()
