"""Train in float, then learn other classes with every tensor operation in 8-bit integers.

python examples/int8_new_class.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import l1bn
from l1bn import quantized


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of right answers."""
    return (logits.argmax(1) == labels).float().mean().item()


def main(epochs: int = 6) -> None:
    """Learn the digits 0 to 4 in float, then 5 to 9 in integers."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    old, new = labels < 5, labels >= 5
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), l1bn.L1BatchNormAct2d(16),
        nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False), l1bn.L1BatchNormAct2d(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(int(old.sum())).split(64):
            loss = F.cross_entropy(model(images[old][batch]), labels[old][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"digits 0 to 4, float: {accuracy(model.eval()(images[old]), labels[old]):.0%}")

    network = quantized.prepare(model.train())
    learner = quantized.SGD(network, lr=0.1)
    for _ in range(epochs):
        for batch in torch.randperm(int(new.sum())).split(64):
            given = quantized.quantize(images[new][batch], exponent=-6)
            loss = quantized.cross_entropy(network, network(given), labels[new][batch])
            network.backward(loss.error)
            learner.step()
    logits = network.eval()(quantized.quantize(images[new], exponent=-6)).values
    print(f"digits 5 to 9, int8: {accuracy(logits, labels[new]):.0%}")


if __name__ == "__main__":
    main()
