"""Batches of a data set on the device that trains, and their augmentation."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nbflows import inputs
from nbflows.seeded import STRIDE


class Batches:
    """Batches of a tensor in memory, by indexing, on the device that trains; iterating gives one epoch.

    Shuffled, it is one endless stream of epochs, each in an order drawn from (seed, epoch) alone and without its last
    incomplete batch; ``position`` counts the batches given so far, and setting it resumes the stream exactly there.
    Otherwise every image comes once, in order.

    Args:
        images: ``(N, C, H, W)``, or points ``(N, D)``.
        batch_size: images per batch over all ranks.
        shuffle: whether it is a stream for training.
        seed: seed of the order.
        rank, world_size: this process gets every ``world_size``-th image of a batch. In a training stream all get
            the same number, so that the mean of their gradients is that of the whole batch.
        paired: ``(N, ...)``, the label or source of each image; with it a batch is a pair.
        device: device of the batches; default: that of the images. If there is room for them
            (``has_room_for``) all images are copied there once, and a batch never leaves the device; otherwise
            each batch is copied while the device computes.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        paired: Tensor | None = None,
        device: torch.device | str | None = None,
    ):
        batch_size = inputs.whole(batch_size, "batch_size", 1)
        if paired is not None and len(paired) != len(images):
            raise ValueError(f"there are {len(images)} images, and {len(paired)} labels or sources to pair them with")
        if not world_size <= batch_size or (shuffle and batch_size > len(images)):
            raise ValueError(
                f"batch_size {batch_size} does not fit {len(images)} images on {world_size} device(s); "
                f"choose one between {world_size} and {len(images)}"
            )
        if shuffle and batch_size % world_size:
            raise ValueError(
                f"a batch of {batch_size} images does not divide into {world_size} equal parts, one for each device; "
                f"choose a multiple of {world_size}"
            )
        self.device = images.device if device is None else torch.device(device)
        tensors = [images] if paired is None else [images, paired]
        self.resident = has_room_for(sum(tensor.nbytes for tensor in tensors), self.device)
        self.tensors = [tensor.to(self.device) for tensor in tensors] if self.resident else tensors
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = 0

    def __len__(self) -> int:
        count = len(self.tensors[0])
        return count // self.batch_size if self.shuffle else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        epoch, order = 0, None
        for i in range(len(self)):
            new_epoch = 0
            if self.shuffle:
                new_epoch, i = divmod(self.position, len(self))
                self.position += 1
            if order is None or new_epoch != epoch:
                # On the images' device, so that a batch is one look-up there, without synchronisation.
                epoch, order = new_epoch, self._order(new_epoch).to(self.tensors[0].device)
            rows = order[i * self.batch_size : (i + 1) * self.batch_size][self.rank :: self.world_size]
            images, *paired = (self._pick(tensor, rows) for tensor in self.tensors)
            yield (images, paired[0]) if paired else images

    def _order(self, epoch: int) -> Tensor:
        count = len(self.tensors[0])
        if not self.shuffle:
            return torch.arange(count)
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.seed * STRIDE + epoch))

    def _pick(self, tensor: Tensor, rows: Tensor) -> Tensor:
        if self.resident:
            return tensor.index_select(0, rows)
        # A GPU fetches pinned memory by itself, while it computes.
        pinned = self.device.type == "cuda"
        batch = torch.empty((len(rows), *tensor.shape[1:]), dtype=tensor.dtype, pin_memory=pinned)
        torch.index_select(tensor, 0, rows, out=batch)
        return batch.to(self.device, non_blocking=pinned)


def shift_and_flip(images: Tensor, max_shift: int = 3) -> Tensor:
    """Moves each image along one axis by up to ``max_shift`` pixels, repeating its edge, and mirrors every second one.

    Axis, shift and mirroring are drawn per image from torch's global generator.

    Source: the training data of mAR-SCF on CIFAR-10, its authors' code.
    """
    count, _, height, width = images.shape
    shift = torch.randint(-max_shift, max_shift + 1, (count, 1), device=images.device)
    vertical, mirrored = torch.rand(2, count, 1, device=images.device) < 0.5
    rows = torch.arange(height, device=images.device) + shift * vertical
    columns = torch.arange(width, device=images.device) + shift * ~vertical
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    columns = torch.where(mirrored, width - 1 - columns, columns)
    every = torch.arange(count, device=images.device)[:, None, None]
    # Advanced indices around a slice put the channels last.
    return images[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def mirror(images: Tensor) -> Tensor:
    """Mirrors each image left to right with probability 1/2, drawn from torch's global generator.

    Source: the training data of Residual Flows on CIFAR-10 and CelebA-HQ (Chen et al., 2019, arXiv:1906.02735).
    """
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def has_room_for(num_bytes: int, device: torch.device) -> bool:
    """Tells whether a data set of this size may stay on a device during training.

    On a GPU it may take a tenth of the free memory; the training needs the rest. On the CPU the data already are. Other
    devices do not report their free memory.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return num_bytes <= free / 10
    return device.type == "cpu"
