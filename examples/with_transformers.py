"""Hugging Face's Trainer: convert the model, then train as usual.

pip install transformers accelerate; python examples/with_transformers.py
"""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import l1bn


class Images(Dataset):
    """Random images of two brightnesses."""

    def __len__(self) -> int:
        """Return how many there are."""
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return an image and its class."""
        label = torch.tensor(index % 2)
        return {"pixel_values": torch.randn(3, 32, 32) + label, "labels": label}


def main(steps: int = 4) -> None:
    """Train a small ResNet of transformers."""
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=2
    )
    model = ResNetForImageClassification(config)
    print(l1bn.convert_(model, example=torch.randn(2, 3, 32, 32)))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=16,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        result = Trainer(model, arguments, train_dataset=Images()).train()
    print(f"loss {result.training_loss:.3f} after {result.global_step} steps")


if __name__ == "__main__":
    main()
