"""DistributedDataParallel on two processes, with statistics of both.

torchrun --nproc-per-node 2 examples/data_parallel.py
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import l1bn


def main(steps: int = 4) -> None:
    """Train on random images, other ones in each process."""
    dist.init_process_group("gloo")  # nccl on GPUs
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    l1bn.convert_(model)
    l1bn.convert_sync_(model)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)

    random = torch.Generator().manual_seed(rank)
    for _ in range(steps):
        images = torch.randn(4 + rank, 3, 16, 16, generator=random)  # batches may differ in size
        labels = torch.randint(4, (4 + rank,), generator=random)
        loss = F.cross_entropy(parallel(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    mean = model[1].running_mean.clone()
    dist.broadcast(mean, 0)
    assert torch.equal(mean, model[1].running_mean)  # the same statistics everywhere
    if rank == 0:
        print(f"{dist.get_world_size()} processes, loss {loss.item():.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
