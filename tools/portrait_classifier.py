"""Trains the network that reads the attributes of portraits, and writes it into ``saved_models/``; a few minutes.

python -m tools.portrait_classifier [--epochs N]
"""

import argparse
import hashlib
from typing import cast

import torch
from safetensors.torch import load, save
from torch.nn import functional as F

from nbflows import attributes, data, files, installed
from nbflows.attributes import AttributeNet
from nbflows.data import Batches, ImageData
from nbflows.data.sets import labels_of

BATCH_SIZE, EPOCHS, LEARNING_RATE = 128, 8, 4e-3


def train(images: ImageData, epochs: int = EPOCHS) -> AttributeNet:
    """Trains on the training images; the learning rate rises for a tenth of the steps and falls to 0."""
    torch.manual_seed(0)
    net = AttributeNet(tuple(map(len, images.attribute_values.values())))
    batches = Batches(images.train, BATCH_SIZE, shuffle=True, paired=labels_of(images)["train"])
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * len(batches), pct_start=0.1, anneal_strategy="linear"
    )
    for epoch in range(epochs):
        for pictures, labels in batches:
            logits = net(pictures)
            loss = torch.stack([F.cross_entropy(*pair) for pair in zip(logits, labels.T, strict=True)]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f} nats", flush=True)
    return net.eval()


def main() -> None:
    """Trains, writes the weights in float16, and prints the accuracy for each attribute on the test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"passes over the data (default: {EPOCHS})")
    # Before the portraits are drawn.
    options = parser.parse_args()
    images = cast(ImageData, data.load("portraits"))
    net = train(images, options.epochs)
    content = save({name: part.half() if part.is_floating_point() else part for name, part in net.state_dict().items()})
    file = installed.folder("saved_models") / attributes.FILE
    files.write(file, content)
    print(f"{file}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    net.load_state_dict(load(content))
    found, _ = attributes.read_attributes(net, images.test)
    right = (found == labels_of(images)["test"]).double().mean(0)
    for name, share in zip(images.attribute_values, right, strict=True):
        print(f"{name:16} {share:.1%}")


if __name__ == "__main__":
    main()
