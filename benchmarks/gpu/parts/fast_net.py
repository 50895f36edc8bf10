"""A small residual network that learns CIFAR-10 in seconds on a GPU, and its training.

The network is the one that David Page trained in 2018 ("How to train your ResNet", DAWNBench):
nine layers with weights. All images stay on the device as bytes, and a batch is cut out, mirrored
and normalized there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.pack import Packed
from benchmarks.gpu.scale import Schedule
from l1bn.recipes.models import NormFactory, norm_factory
from l1bn.recipes.names import NormName

_PAD = 4


class Layer(nn.Module):
    """A convolution with norm and ReLU, and max pooling where asked for."""

    def __init__(self, inputs: int, outputs: int, norm: NormFactory, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = norm(outputs)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Norm and ReLU come before pooling."""
        return self.pool(self.norm(self.conv(x)))


class Residual(nn.Module):
    """A layer, and two more that are added to what it gives."""

    def __init__(self, inputs: int, outputs: int, norm: NormFactory) -> None:
        super().__init__()
        self.first = Layer(inputs, outputs, norm, pool=True)
        self.more = nn.Sequential(Layer(outputs, outputs, norm), Layer(outputs, outputs, norm))

    def forward(self, x: Tensor) -> Tensor:
        """The addition comes after both activations."""
        y = self.first(x)
        return y + self.more(y)


class FastNet(nn.Module):
    """Nine layers with weights.

    Shape:
        - input: ``(N, C, H, W)``
        - output: ``(N, classes)``
    """

    def __init__(self, channels: int, classes: int, width: int, norm: NormFactory) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Layer(channels, width, norm),
            Residual(width, 2 * width, norm),
            Layer(2 * width, 4 * width, norm, pool=True),
            Residual(4 * width, 8 * width, norm),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(8 * width, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits; the factor is the original's."""
        return self.head(self.layers(x)) * 0.125


class Images:
    """Both splits on a device, normalized by the training images' moments."""

    def __init__(self, packed: Packed, device: str, most: int | None = None) -> None:
        self.train, self.train_labels, self.test, self.test_labels = (
            v[:most].to(device) for v in packed[:4]
        )
        wide = self.train.float()
        mean, std = wide.mean((0, 2, 3)), wide.std((0, 2, 3))
        self._shift, self._scale = mean.view(1, -1, 1, 1), 1 / std.clamp_min(1).view(1, -1, 1, 1)
        # Channels last: rows and columns of an image are cut out with all of its colours.
        padded = F.pad(wide, [_PAD] * 4, mode="reflect")
        self._padded = padded.to(torch.uint8).movedim(1, -1).contiguous()

    def normalized(self, images: Tensor) -> Tensor:
        """As the network takes them."""
        x = (images.float() - self._shift) * self._scale
        return x.contiguous(memory_format=torch.channels_last)

    def batch(self, index: Tensor, random: torch.Generator, mirror: bool) -> Tensor:
        """Some training images, each cut out anywhere within its padding and maybe mirrored."""
        count, size, device = len(index), self.train.shape[-1], index.device
        places = torch.arange(size, device=device)
        draw = torch.randint(2 * _PAD + 1, (2, count, 1), generator=random, device=device)
        rows, columns = draw[0] + places, draw[1] + places
        if mirror:
            turned = torch.rand(count, 1, generator=random, device=device) < 0.5
            columns = torch.where(turned, columns.flip(1), columns)
        cut = self._padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self.normalized(cut.movedim(-1, 1))


def trained(
    images: Images, classes: int, norm: NormName, seed: int, schedule: Schedule, mirror: bool
) -> FastNet:
    """Train one network. Both norms see the same images in the same order with equal seeds."""
    device = images.train.device
    torch.manual_seed(seed)
    random = torch.Generator(device).manual_seed(seed)
    model = FastNet(images.train.shape[1], classes, schedule.width, norm_factory(norm))
    model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.0, momentum=0.9, nesterov=True, weight_decay=schedule.decay
    )
    batch = min(schedule.batch, len(images.train))
    steps, done = schedule.epochs * (len(images.train) // batch), 0
    for _ in range(schedule.epochs):
        order = torch.randperm(len(images.train), generator=random, device=device)
        for index in order.split(batch):
            if len(index) < batch:
                break
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate_at((done + 1) / (steps + 1))
            x = images.batch(index, random, mirror)
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(x)
            loss = F.cross_entropy(
                logits.float(), images.train_labels[index], label_smoothing=schedule.smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done += 1
    return model


@torch.no_grad()
def accuracy(model: FastNet, images: Images) -> float:
    """Part of the test images that are told right, in percent."""
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=images.test.device)
    for part, labels in zip(images.test.split(2000), images.test_labels.split(2000), strict=True):
        with torch.autocast(images.test.device.type, torch.bfloat16):
            logits = model(images.normalized(part))
        right += (logits.argmax(1) == labels).sum()
    return 100 * int(right) / len(images.test)
