"""A residual network in a plain training loop: one line makes it L1BN.

python examples/plain_loop.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import l1bn


class Block(nn.Module):
    """A residual block, as torchvision writes it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + f(x))."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def main(steps: int = 20) -> None:
    """Train on images whose class is their brightest quarter."""
    torch.manual_seed(0)
    stem = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4))
    model = nn.Sequential(*stem, Block(16), Block(16), *head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    print(l1bn.convert_(model, example=torch.randn(2, 1, 16, 16)))  # the one line

    for step in range(steps):
        labels = torch.randint(4, (64,))
        images = torch.randn(64, 1, 16, 16)
        for i, label in enumerate(labels.tolist()):
            row, column = divmod(label, 2)
            images[i, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 10 == 0:
            accuracy = (logits.argmax(1) == labels).float().mean()
            print(f"step {step + 1}: loss {loss.item():.3f}, accuracy {accuracy:.0%}")


if __name__ == "__main__":
    main()
