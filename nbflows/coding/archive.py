"""Images in one file at the length of their exact log-probability, and back, bit for bit, on any machine.

A file has eight bytes that name the format, the length of a header, the header in JSON, the codes of blocks of images,
and the SHA-256 of all before. No bits-back is needed: a ``PixelFlow`` has probabilities of the grey levels themselves.
"""

import hashlib
import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbflows.coding import rans
from nbflows.coding.exact import exact, frequencies
from nbflows.flow import Flow, first_layer
from nbflows.layers.dequantize import check_grey_levels
from nbflows.layers.subset import SubsetAutoregressive
from nbflows.progress import bar

_MAGIC = b"nbflows\x01"
# Images that are decoded side by side; each block costs 0.8 KB beside its code.
_BLOCK, _CHUNK = 2000, 32
# A reader takes no more memory than this for pixels, whatever a header says.
_LARGEST_HEADER, _MOST_VALUES = 2**24, 2**28


class Codec:
    """Codes images with the probabilities of a ``PixelFlow``, computed in fixed point (``coding.exact``).

    Args:
        flow: the model.

    Raises:
        ValueError: the model has no exact probabilities of integers, or its weights are too large for fixed point.
    """

    def __init__(self, flow: Flow):
        layer = first_layer(flow.bijection)
        if not isinstance(layer, SubsetAutoregressive):
            raise ValueError(
                "only models of integers have the exact probabilities that a code needs: mnist-pixelflow, for example"
            )
        self.shape, self.num_grey_levels = flow.shape, layer.num_grey_levels
        self._net = exact(layer.net)
        # A machine that computes other numbers, or other weights, has another fingerprint.
        digest = hashlib.sha256()
        for name, value in sorted(self._net.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode() + value.numpy().astype("<f8").tobytes())
        size = math.prod(self.shape)
        drawn = (
            np.frombuffer(hashlib.shake_256(b"nbflows").digest(size), np.uint8).astype(np.int64) % self.num_grey_levels
        )
        with torch.no_grad():
            table = frequencies(self._net(torch.from_numpy(drawn).view(1, *self.shape)))
        self.fingerprint = [
            digest.hexdigest()[:16],
            hashlib.sha256(table.numpy().astype("<i8").tobytes()).hexdigest()[:16],
        ]

    def pack(self, images: Tensor, progress: bool = False, **description: Any) -> bytes:
        """Returns a file of images uint8 ``(N, C, H, W)``; ``read_header`` finds the description in it."""
        if tuple(images.shape[1:]) != tuple(self.shape):
            raise ValueError(f"the model is for images of {tuple(self.shape)}, these are {tuple(images.shape[1:])}")
        check_grey_levels(images, self.num_grey_levels)
        self._require_room(len(images))
        if not len(images):
            raise ValueError("there are no images to code")
        # What is added to the description takes less than a KiB and 8 bytes for each block.
        if len(json.dumps(description)) > _LARGEST_HEADER // 2:
            raise ValueError("the names of the images take more than 8 MiB: make several files")
        parts = [images[i : i + _BLOCK] for i in range(0, len(images), _BLOCK)]
        shown = bar(parts, "compressing", show=progress and len(images) > _CHUNK, leave=None)
        blocks = [self._encode(part) for part in shown]
        header = {
            **description,
            "images": len(images),
            "blocks": [len(block) for block in blocks],
            "fingerprint": self.fingerprint,
            "pixels": _hash(images),
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        content = b"".join([_MAGIC, len(text).to_bytes(4, "little"), text, *blocks])
        return content + hashlib.sha256(content).digest()

    def unpack(self, content: bytes, progress: bool = False) -> Tensor:
        """Returns the images of a file, the same that were packed.

        Raises:
            ValueError: the file is damaged; it was written with another model; this machine computes other
                probabilities than the one that wrote it. It never returns a wrong pixel.
        """
        header, codes = read_header(content)
        if header["fingerprint"] != self.fingerprint:
            raise ValueError(
                "the file was written with the weights of another model"
                if header["fingerprint"][0] != self.fingerprint[0]
                else "this machine computes other probabilities than the one that wrote the file: it cannot read it"
            )
        count, start = header["images"], 0
        self._require_room(count)
        images = torch.zeros(count, *self.shape, dtype=torch.uint8)
        ends = np.cumsum(header["blocks"]).tolist()
        shown = bar(ends, "decompressing", show=progress and count > _CHUNK, leave=None)
        for i, end in enumerate(shown):
            self._decode(codes[start:end], images[i * _BLOCK : (i + 1) * _BLOCK])
            start = end
        if _hash(images) != header["pixels"]:
            raise ValueError("the decoded pixels are not those that were written: nothing is returned")
        return images

    def _require_room(self, num_images: int) -> None:
        most = _MOST_VALUES // math.prod(self.shape)
        if num_images > most:
            raise ValueError(f"one file holds at most {most} images of this size, not {num_images}: make several")

    @torch.no_grad()
    def _encode(self, images: Tensor) -> bytes:
        # In the order in which ``steps`` asks for values.
        size = math.prod(self.shape)
        starts, counts = (np.empty((size, len(images)), np.uint64) for _ in range(2))
        for first in range(0, len(images), _CHUNK):
            part = images[first : first + _CHUNK]
            table = frequencies(self._net(part)).permute(2, 3, 1, 0, 4).flatten(0, 2)
            values = part.permute(2, 3, 1, 0).flatten(0, 2).long()[..., None]
            own = table.gather(-1, values)[..., 0]
            here = slice(first, first + len(part))
            starts[:, here] = (table.cumsum(-1).gather(-1, values)[..., 0] - own).numpy()
            counts[:, here] = own.numpy()
        return rans.encode(starts, counts)

    @torch.no_grad()
    def _decode(self, code: bytes, images: Tensor) -> None:
        decoder = rans.Decoder(code, len(images))
        for (channel, row, column), logits in self._net.steps(images):
            ends = frequencies(logits).cumsum(-1).numpy().astype(np.uint64)
            table = np.concatenate([np.zeros((len(images), 1), np.uint64), ends], 1)
            images[:, channel, row, column] = torch.from_numpy(decoder.row(table)).to(torch.uint8)
        if not decoder.at_end():
            raise ValueError("the code does not end where it should")


def read_header(content: bytes) -> tuple[dict, bytes]:
    """Returns the header of a file and its codes, after comparing its check sum.

    Raises:
        ValueError: the file is damaged, or not one of ours.
    """
    if content[:7] != _MAGIC[:7]:
        raise ValueError("this is not a file of nbflows compress")
    if content[:8] != _MAGIC:
        raise ValueError(f"the file has format {content[7]}, this version of nbflows reads format {_MAGIC[7]}")
    if hashlib.sha256(content[:-32]).digest() != content[-32:]:
        raise ValueError("the file is damaged: its check sum is another one")
    length = int.from_bytes(content[8:12], "little")
    try:
        header = json.loads(content[12 : 12 + length]) if length <= _LARGEST_HEADER else None
    except ValueError:
        header = None
    codes = content[12 + length : -32]
    if not isinstance(header, dict) or not _is_sound(header, len(codes)):
        raise ValueError("the file is damaged: its header does not fit its content")
    return header, codes


def _is_sound(header: dict, num_bytes: int) -> bool:
    count, blocks = header.get("images"), header.get("blocks")
    return (
        type(count) is int
        and count > 0
        and isinstance(blocks, list)
        and all(type(size) is int and size > 0 for size in blocks)
        and len(blocks) == -(-count // _BLOCK)
        and sum(blocks) == num_bytes
        and isinstance(header.get("fingerprint"), list)
        and len(header["fingerprint"]) == 2
        and isinstance(header.get("pixels"), str)
    )


def _hash(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()[:16]
