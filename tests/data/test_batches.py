"""Batches: every image once an epoch, the same after a resume, shared by ranks, and fast."""

import statistics
import time

import pytest
import torch

from nbflows import data, recipes
from nbflows.data import Batches
from nbflows.data import batches as batching


def _images(n):
    return torch.arange(n, dtype=torch.int32).view(n, 1, 1, 1)


def test_an_epoch_holds_every_image_once_but_for_the_last_incomplete_batch():
    batches = Batches(_images(10), 3, shuffle=True)
    epoch = torch.cat(list(batches)).flatten().tolist()
    assert len(batches) == 3
    assert len(set(epoch)) == 9
    assert epoch != torch.cat(list(batches)).flatten().tolist()
    assert torch.cat(list(Batches(_images(10), 3))).flatten().tolist() == list(range(10))


def test_a_stream_resumes_exactly_where_its_state_was_taken():
    reference = Batches(_images(10), 3, shuffle=True, seed=5)
    both = [batch.flatten().tolist() for _ in range(3) for batch in reference]
    resumed = Batches(_images(10), 3, shuffle=True, seed=5)
    resumed.position = 4
    assert [batch.flatten().tolist() for batch in resumed] == both[4:7]
    assert resumed.position == 7


@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_a_batch_without_overlap(shuffle):
    whole = list(Batches(_images(10), 4, shuffle))
    parts = [list(Batches(_images(10), 4, shuffle, rank=rank, world_size=2)) for rank in range(2)]
    for batch, a, b in zip(whole, *parts, strict=True):
        assert sorted(torch.cat([a, b]).flatten().tolist()) == sorted(batch.flatten().tolist())


@pytest.mark.parametrize("shuffle", [True, False])
def test_labels_come_with_the_images_that_they_belong_to(shuffle):
    options = {"shuffle": shuffle, "seed": 3, "rank": 1, "world_size": 2}
    pairs = list(Batches(_images(10), 4, **options, paired=torch.arange(10) + 100))
    for images, (same, labels) in zip(Batches(_images(10), 4, **options), pairs, strict=True):
        assert torch.equal(same, images)
        assert torch.equal(labels, images.flatten() + 100)


def _room(monkeypatch, free):
    """A GPU with so many bytes free; what is asked of it is counted."""
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (free, 2 * free))
    return asked


def test_a_gpu_keeps_a_data_set_of_at_most_a_tenth_of_its_free_memory(monkeypatch):
    gpu = torch.device("cuda", 1)
    asked = _room(monkeypatch, 1000)
    assert batching.has_room_for(100, gpu) and not batching.has_room_for(101, gpu)
    assert asked == [gpu, gpu]
    # It lies there already; of others nothing is known.
    assert batching.has_room_for(10**18, torch.device("cpu")) and not batching.has_room_for(1, torch.device("mps"))


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_set_with_room_is_copied_to_the_device_once_and_batches_are_made_there(monkeypatch, shuffle):
    sizes = []
    monkeypatch.setattr(batching, "has_room_for", lambda size, device: sizes.append((size, device)) or True)
    copied = _count_copies(monkeypatch)
    batches = Batches(_images(10), 4, shuffle, paired=torch.arange(10), rank=1, world_size=2, device="meta")
    # Images of 4 bytes and labels of 8.
    assert sizes == [(120, torch.device("meta"))] and copied == [10, 10]
    shapes = [(tuple(images.shape), len(labels), images.device.type) for images, labels in batches]
    assert shapes == [((2, 1, 1, 1), 2, "meta")] * 2 + ([] if shuffle else [((1, 1, 1, 1), 1, "meta")])
    # Then the order of the epoch, and no more.
    assert copied == [10, 10, 10]


def test_without_room_nothing_but_the_rows_of_this_rank_is_copied(monkeypatch):
    monkeypatch.setattr(batching, "has_room_for", lambda size, device: False)
    copied = _count_copies(monkeypatch)
    for images, labels in Batches(_images(10), 4, True, paired=torch.arange(10), rank=1, world_size=2, device="meta"):
        assert images.shape == (2, 1, 1, 1) and labels.shape == (2,) and images.is_meta and labels.is_meta
    assert copied == [2] * 4


def _count_copies(monkeypatch):
    copied, to = [], torch.Tensor.to

    def count(tensor, *arguments, **options):
        result = to(tensor, *arguments, **options)
        if result.device != tensor.device:
            copied.append(len(tensor))
        return result

    monkeypatch.setattr(torch.Tensor, "to", count)
    return copied


def test_a_batch_on_its_way_to_a_gpu_is_pinned_and_copied_while_that_computes(monkeypatch):
    """Without a GPU: pinned memory and the copy are those that torch would be asked for."""
    seen, empty = [], torch.empty
    _room(monkeypatch, 0)
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory, **o: seen.append(pin_memory) or empty(*a, **o))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, **o: seen.append((str(device), o)) or tensor)
    both = [
        [batch.flatten().tolist() for batch in Batches(_images(10), 4, True, device=device)]
        for device in ("cuda:0", None)
    ]
    assert both[0] == both[1]
    assert seen.count(True) == seen.count(("cuda:0", {"non_blocking": True})) == 2


def test_batches_take_less_than_a_fiftieth_of_a_training_step_20_times_as_fast():
    """As on a GPU, and of the smallest model on the smallest images: every other step takes longer."""
    recipe = recipes.get("digits-simple")
    digits = data.load("digits")
    flow = recipe.build(digits)

    def seconds(work, count):
        times = []
        for _ in range(count):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    batches = Batches(digits.train, recipe.batch_size, shuffle=True)
    images = next(iter(batches))
    step = seconds(lambda: flow.bits_per_dim(images).mean().backward(), 5)
    # A whole epoch at a time, its order included.
    batch = seconds(lambda: list(batches), 20) / len(batches)
    assert batch < step / 20 / 50


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(ValueError, match="batch_size 12 does not fit 10 images"):
        Batches(_images(10), 12, shuffle=True)
