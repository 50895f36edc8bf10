"""Lightning: convert in the module's constructor. Do not set sync_batchnorm=True.

pip install lightning; python examples/with_lightning.py
"""

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import l1bn


class Classifier(lightning.LightningModule):
    """A small network with L1BN."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
        )  # fmt: skip
        l1bn.convert_(self.model, example=torch.randn(2, 3, 16, 16))

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self.model(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(steps: int = 4) -> None:
    """Train a few steps on random images; set sync_batchnorm in convert_sync_ instead."""
    data = TensorDataset(torch.randn(64, 3, 16, 16), torch.randint(4, (64,)))
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    classifier = Classifier()
    trainer.fit(classifier, DataLoader(data, batch_size=16))
    print(f"loss {float(trainer.callback_metrics['loss']):.3f}; {l1bn.check(classifier)}")


if __name__ == "__main__":
    main()
