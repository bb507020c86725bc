"""A small network that reads the attributes of portraits, to measure whether samples have those that were asked for."""

import hashlib

import torch
from torch import Tensor, nn

from nbflows import installed

# In saved_models/, written by tools/portrait_classifier.py. It is not a flow, so the manifest does not list it.
FILE = "portraits-attributes.safetensors"
SHA256 = "95c46c1d3cf64377c08e21ca257f94fdc1e20507b4fd12bc801efb8b15a956c3"


class AttributeNet(nn.Module):
    """Four convolutions, each with BatchNorm and ReLU, then a linear map to the logits of all values of all attributes.

    Args:
        num_values: the number of values of each attribute.
        widths: channels of the convolutions.

    Shapes: uint8 ``(B, 3, 32, 32)`` to one ``(B, number of values)`` for each attribute.
    """

    def __init__(self, num_values: tuple[int, ...], widths: tuple[int, int, int, int] = (32, 48, 64, 32)):
        super().__init__()
        self.num_values = num_values
        layers, channels = [], 3
        # 32x32 to 16x16, 8x8, 8x8 and 4x4 positions.
        for width, kernel, stride in zip(widths, (5, 3, 3, 3), (2, 2, 1, 2), strict=True):
            layers += [
                nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels, sum(num_values)))

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, 32, 32):
            raise ValueError(f"expected uint8 images (N, 3, 32, 32), got {images.dtype} {tuple(images.shape)}")
        return list(self.layers(images.float() / 127.5 - 1).split(self.num_values, dim=1))


def load_attribute_net() -> AttributeNet:
    """Loads the network that ``tools/portrait_classifier.py`` has trained, in eval mode.

    Raises:
        FileNotFoundError: the file of its weights is missing.
        ValueError: the file has other weights.
    """
    from safetensors.torch import load

    from nbflows.data import portraits

    file = installed.folder("saved_models") / FILE
    content = file.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ValueError(
            f"{file} has other weights (SHA-256 {found}): restore it with git checkout, or write the new hash into "
            "nbflows/attributes.py"
        )
    net = AttributeNet(tuple(map(len, portraits.ATTRIBUTES.values.values())))
    net.load_state_dict(load(content))
    return net.eval()


@torch.no_grad()
def read_attributes(net: AttributeNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the likeliest value of each attribute, int64 ``(N, A)``, and its probability ``(N, A)``."""
    chunks = []
    for chunk in images.split(256):
        best = [logits.softmax(1).max(1) for logits in net(chunk)]
        chunks.append((torch.stack([b.indices for b in best], 1), torch.stack([b.values for b in best], 1)))
    return torch.cat([labels for labels, _ in chunks]), torch.cat([values for _, values in chunks])
