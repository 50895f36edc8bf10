"""Hugging Face's accelerate: convert, then prepare.

pip install accelerate; python examples/with_accelerate.py (or: accelerate launch ...)
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import l1bn


def main() -> None:
    """Train one epoch on random images."""
    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    l1bn.convert_(model, example=torch.randn(2, 3, 16, 16))  # before prepare wraps it
    l1bn.convert_sync_(model)  # statistics of all processes; with one it changes nothing

    data = TensorDataset(torch.randn(64, 3, 16, 16), torch.randint(4, (64,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(
        model, optimizer, DataLoader(data, batch_size=16)
    )
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    accelerator.print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
