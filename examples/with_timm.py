"""A model of timm, converted before training and reverted after it.

pip install timm; python examples/with_timm.py
"""

import timm
import torch
import torch.nn.functional as F

import l1bn


def main(steps: int = 3) -> None:
    """Train a small ResNet of timm on random images."""
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=4, pretrained=False)
    print(l1bn.convert_(model, example=torch.randn(2, 3, 64, 64)))

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = F.cross_entropy(model(torch.randn(8, 3, 64, 64)), torch.randint(4, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")

    images = torch.randn(4, 3, 64, 64)
    before = model.eval()(images)
    l1bn.revert_(model)  # BatchNorm again, for whatever deploys it
    torch.testing.assert_close(model(images), before, rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    main()
