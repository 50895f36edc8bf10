"""Export a trained network to ONNX and run it with ONNX Runtime.

pip install onnx onnxscript onnxruntime; python examples/onnx_export.py
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

import l1bn


def main() -> None:
    """In evaluation a layer is a BatchNorm, so the file needs no operator of its own."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    images = torch.randn(4, 3, 16, 16)
    l1bn.convert_(model, example=images)
    model(images)  # training moves the running statistics
    model.eval()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (images,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    expected = model(images).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    print(f"ONNX Runtime differs by at most {abs(found - expected).max():.1e}")


if __name__ == "__main__":
    main()
