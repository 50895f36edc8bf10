"""Print the error table of docs/integers/fixed_point.md: integer normalization against float64.

python -m benchmarks.rtl.fixed_point_error
"""

from __future__ import annotations

import argparse

import numpy as np

from l1bn import fixed_point as fp

K = np.sqrt(np.pi / 2)


def float_model(x, g, gamma, beta, norm):
    d = x - x.mean(1, keepdims=True)
    mean_abs = np.abs(d).mean(1, keepdims=True)
    sigma = K * mean_abs if norm == "l1" else np.sqrt((d * d).mean(1, keepdims=True))
    x_hat = d / sigma
    dgamma = (g * x_hat).sum(1, keepdims=True)
    sign = np.where(d >= 0, 1.0, -1.0)
    direction = K * (sign - sign.mean(1, keepdims=True)) if norm == "l1" else x_hat
    dx = g - g.mean(1, keepdims=True) - direction * dgamma / x.shape[1]
    return gamma[:, None] * x_hat + beta[:, None], gamma[:, None] / sigma * dx


def row(width: int, norm: str, shape: str, count: int = 1024) -> str:
    rng = np.random.default_rng(0)
    spec = fp.NormSpec(width=width)
    unit = 2.0 ** (width - 3)
    draw = rng.exponential if shape == "exponential" else rng.normal
    noise = draw(size=(64, count))
    mean, spread = rng.normal(0, 0.3, (64, 1)), rng.uniform(0.3, 1, (64, 1))
    x = spec.data.saturate(np.round(unit * (mean + spread * noise)))
    g = spec.data.saturate(np.round(unit * rng.normal(0, 1, x.shape) + 0.3 * x))
    gamma = spec.gamma.quantize(rng.uniform(-1.8, 1.8, 64))
    beta = spec.output.quantize(rng.normal(0, 0.5, 64))
    forward = fp.l1_forward if norm == "l1" else fp.l2_forward
    backward = fp.l1_backward if norm == "l1" else fp.l2_backward
    out = forward(x, gamma, beta, spec)
    back = backward(g, x, out.channel, spec)
    y, dx = float_model(x, g, spec.gamma.real(gamma), spec.output.real(beta), norm)
    low, high = spec.data.low, spec.data.high
    errors = (
        out.y - np.clip(y * 2**spec.output.fraction, low, high),
        back.dx - np.clip(dx * 2**spec.gradient.fraction, low, high),
    )
    cells = " | ".join(f"{np.abs(e).max():.2f} | {e.std():.3f}" for e in errors)
    return f"| {norm.upper()} | {width} | {shape} | {cells} |"


def main() -> None:
    print("| Norm | Bits | Data | y, max | y, deviation | dx, max | dx, deviation |")
    print("|---|---|---|---|---|---|---|")
    for norm in ("l1", "l2"):
        for width in (4, 8, 12, 16):
            for shape in ("Gaussian", "exponential"):
                print(row(width, norm, shape))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # none, but --help
    main()
