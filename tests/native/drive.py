"""Call the C interface with NumPy only, and judge it in float64. Runs under the sanitizers.

    python tests/native/drive.py LIBRARY

No torch: buffers come from malloc at their exact size, so that the address sanitizer sees a read or
a write past their end. An OpenMP runtime is loaded first, as torch would have.
"""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
from torchless import float_norm as native
from torchless import library, load_openmp, selected

K = math.sqrt(math.pi / 2)
EPS = 1e-5
# outer, channels, inner: small ones, tails, several blocks of a plane, several tiles of rows.
SHAPES = [
    (2, 1, 1),
    (5, 3, 1),
    (33, 7, 1),
    (3, 16, 1),
    (129, 16, 1),
    (70, 40, 1),
    (1200, 33, 1),
    (2200, 1, 1),
    (700, 3, 1),
    (9000, 8, 1),
    (5003, 15, 1),
    (4, 3, 2),
    (2, 5, 15),
    (300, 5, 2),
    (40, 33, 9),
    (17, 64, 4),
    (900, 3, 15),
    (3, 4, 16),
    (2, 3, 49),
    (1, 2, 2049),
    (2, 1, 4100),
    (3, 2, 8210),
    (9, 70, 64),
]
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2, "float64": 3}
# LeakyReLU, ELU, Hardswish, Hardsigmoid: of the others act'(z) is no number at an infinite z.
SLOPED_AT_INFINITY = (3, 4, 6, 7)
TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2, "float16": 4e-3, "float64": 1e-12}


def encode(v: np.ndarray, dtype: str) -> np.ndarray:
    """Values as they are stored; bfloat16 as its 16 bits, rounded to nearest even."""
    if dtype != "bfloat16":
        return np.ascontiguousarray(v, dtype)
    word = np.ascontiguousarray(v, np.float32).view(np.uint32)
    return ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).astype(np.uint16)


def decode(v: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        v = (v.astype(np.uint32) << 16).view(np.float32)
    return v.astype(np.float64)


def _logistic(z):
    return 1 / (1 + np.exp(-z))


def _gauss(z):
    return 0.5 * np.vectorize(math.erfc)(-z / math.sqrt(2))


def _cubic(z):
    return 2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)


def _gate(z):
    return np.tanh(np.log1p(np.exp(z)))


PARAMETER = 0.3
#: Activations that bend, by code: value and slope. Of the first two z is read off the output.
CURVES = {
    3: (lambda z: np.where(z > 0, z, PARAMETER * z), lambda z: np.where(z > 0, 1, PARAMETER)),
    4: (
        lambda z: np.where(z > 0, z, PARAMETER * np.expm1(np.minimum(z, 0))),
        lambda z: np.where(z > 0, 1, PARAMETER * np.exp(np.minimum(z, 0))),
    ),
    5: (
        lambda z: z * _logistic(z),
        lambda z: _logistic(z) * (1 + z * _logistic(-z)),
    ),
    6: (
        lambda z: z * np.clip(z + 3, 0, 6) / 6,
        lambda z: np.where(z >= 3, 1, np.where(z <= -3, 0, z / 3 + 0.5)),
    ),
    7: (lambda z: np.clip(z + 3, 0, 6) / 6, lambda z: np.where(np.abs(z) < 3, 1 / 6, 0)),
    8: (
        lambda z: z * _gauss(z),
        lambda z: _gauss(z) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    ),
    9: (
        lambda z: z * _logistic(_cubic(z)),
        lambda z: (
            _logistic(_cubic(z))
            * (
                1
                + z
                * _logistic(-_cubic(z))
                * 2
                * math.sqrt(2 / math.pi)
                * (1 + 3 * 0.044715 * z * z)
            )
        ),
    ),
    10: (
        lambda z: z * _gate(z),
        lambda z: _gate(z) + z * _logistic(z) * (1 - _gate(z) ** 2),
    ),
    11: (_logistic, lambda z: _logistic(z) * _logistic(-z)),
    12: (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
}
CURVED = [(33, 7, 1), (129, 16, 1), (70, 40, 1), (700, 3, 1), (300, 5, 2), (3, 4, 16), (2, 3, 49),
          (1, 2, 2049), (9, 70, 64)]  # fmt: skip


def apply(z, y, grad, activation):
    """The activation, and the gradient that passes it."""
    if activation == 0:
        return z, grad
    if activation not in CURVES:
        top = 6.0 if activation == 2 else np.inf
        return np.clip(z, 0, top), np.where((y > 0) & (y < top), grad, 0)
    value, slope = CURVES[activation]
    # On which side of the kink rounding put an element.
    side = np.where((y > 0) != (z > 0), -z, z) if activation == 3 else z
    return value(z), grad * slope(side)


def judge(x, residual, weight, bias, activation, grad, y):
    """The closed form; the activation's mask is read off the rounded output, as kernels must."""
    dims = (0, 2)
    view = (1, -1, 1)
    mean = x.mean(dims)
    d = x - mean.reshape(view)
    scale = np.maximum(K * np.abs(d).mean(dims), math.sqrt(EPS))
    hat = d / scale.reshape(view)
    z = hat * weight.reshape(view) + bias.reshape(view)
    z = z if residual is None else z + residual
    out, g = apply(z, y, grad, activation)
    sign = np.where(d >= 0, 1.0, -1.0)
    dbias, dweight = g.sum(dims), (g * hat).sum(dims)
    count = x.size // x.shape[1]
    live = scale > math.sqrt(EPS)
    dx = (weight / scale).reshape(view) * (
        g
        - (dbias / count).reshape(view)
        - K * (sign - sign.mean(dims).reshape(view)) * (dweight / count * live).reshape(view)
    )
    return {"y": out, "mean": mean, "scale": scale, "dx": dx, "dw": dweight, "db": dbias, "dr": g}


def pointer(v: np.ndarray | None) -> int:
    return 0 if v is None else v.ctypes.data


def off_the_mean(x: np.ndarray, dtype: str) -> np.ndarray:
    """Values, encoded, none so close to its channel's mean that rounding picks a side."""
    for _ in range(4):
        stored = decode(encode(x, dtype), dtype)
        near = np.abs(stored - stored.mean((0, 2), keepdims=True)) < 1e-4
        x = np.where(near, x + 0.1, x)
    return encode(x, dtype)


def drive(stack, shape, dtype, activation, with_residual, keep_x, threads, seed):
    rng = np.random.default_rng(seed)
    outer, channels, inner = shape
    stored = lambda: encode(rng.standard_normal(shape), dtype)  # noqa: E731
    grad = stored()
    # Apart, so that no channel of few elements is constant, from which nothing can be recovered.
    apart = np.where(np.arange(outer) % 2, 4.0, -4.0).reshape(-1, 1, 1)
    x = off_the_mean(rng.standard_normal(shape) + (apart if inner == 1 else 0), dtype)
    residual = stored() if with_residual else None
    wide = np.float64 if dtype == "float64" else np.float32
    weight = (0.5 + rng.random(channels)).astype(np.float32)
    bias = (0.3 * rng.standard_normal(channels)).astype(np.float32)
    y = np.empty_like(x)
    mean, scale = np.empty(2 * channels, wide), np.empty(channels, wide)
    units = outer * channels * -(-inner // 16) if inner > 1 else -(-channels // 16) * outer
    bits = np.empty(units, np.uint16)
    running = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    problem = (outer, channels, inner, DTYPES[dtype], 0, activation, threads, EPS, PARAMETER)
    tensors = (x, residual, weight, bias, y, mean, scale, bits)
    block = native.pack_forward(
        *problem, *map(pointer, tensors), 1e30, *map(pointer, running), 0, 0.1
    )
    unrecoverable = stack.call("forward", block)
    assert unrecoverable == 0, f"{unrecoverable} from forward, expected 0 ({shape}, seed {seed})"
    dx, dr = np.empty_like(x), np.empty_like(x)
    dw, db = np.empty(channels, wide), np.empty(channels, wide)
    kept = (x, residual if activation > 2 else None, None) if keep_x else (None, residual, bits)
    tensors = (grad, y, *kept, weight, bias, mean, scale, dx, dr, dw, db)
    assert stack.call("backward", native.pack_backward(*problem, *map(pointer, tensors), 0)) == 0
    check_in_place(stack, problem, tensors)
    if activation in SLOPED_AT_INFINITY:
        check_infinite(stack, problem, tensors, dtype)

    want = judge(
        decode(x, dtype),
        None if residual is None else decode(residual, dtype),
        weight.astype(float),
        bias.astype(float),
        activation,
        decode(grad, dtype),
        decode(y, dtype),
    )
    got = {"y": y, "dx": dx, "dr": dr}
    got = {k: decode(v, dtype) for k, v in got.items()}
    got |= {"mean": mean[:channels], "scale": scale, "dw": dw, "db": db}
    tolerance = TOLERANCE[dtype]
    for name, value in want.items():
        size = max(np.abs(value).max(), np.abs(decode(grad, dtype)).max() if name != "y" else 1)
        if name == "dx":  # a sum of terms of this size, which may cancel
            size = max(size, np.abs(decode(grad, dtype)).max() * (weight / want["scale"]).max())
        error = np.abs(got[name] - value).max() / size
        # x̂ read back from a rounded output: a rounding per element, amplified by 1/γ.
        allowed = tolerance * (8 * math.sqrt(outer * inner) if not keep_x and name == "dw" else 1)
        allowed *= 4 if not keep_x and name == "dx" else 1
        where = (shape, dtype, activation, with_residual, keep_x, threads)
        assert error <= allowed, f"{name}: error {error:.3g} above {allowed:.3g} in {where}"
    var = 0.9 + 0.1 * (want["scale"] ** 2 - EPS) * outer * inner / (outer * inner - 1)
    np.testing.assert_allclose(running[1], var, rtol=1e-3)


def check_in_place(stack, problem, tensors):
    """The gradient's memory taken for dx or for the residual's gradient: the same bits."""
    grad, *inputs, dx, dr, dw, db = tensors
    for take_dx in (True, False):
        own = grad.copy()
        sums = np.empty_like(dw), np.empty_like(db)
        outputs = (own, None, *sums) if take_dx else (np.empty_like(grad), own, *sums)
        block = native.pack_backward(*problem, *map(pointer, (own, *inputs, *outputs)), 0)
        assert stack.call("backward", block) == 0
        where = f"in the place of the gradient (dx {take_dx}, {problem})"
        np.testing.assert_array_equal(outputs[0], dx, err_msg=f"dx {where}")
        np.testing.assert_array_equal(sums, (dw, db), err_msg=f"sums {where}")
        if not take_dx:
            np.testing.assert_array_equal(own, dr, err_msg=f"d residual {where}")


def check_infinite(stack, problem, tensors, dtype):
    """An infinite element without a gradient adds nothing to a channel's sums."""
    grad, y, x, *others, _, _, dw, db = tensors
    grad, (y, x) = grad.copy(), (None if v is None else v.copy() for v in (y, x))
    sums = []
    grad[0, 0, 0] = encode(np.zeros(1), dtype)[0]
    for value in (None, np.inf):
        for v in (y, x) if value else ():
            if v is not None:
                v[0, 0, 0] = encode(np.full(1, value), dtype)[0]
        out = np.empty_like(grad), np.empty_like(grad), np.empty_like(dw), np.empty_like(db)
        given = (grad, y, x, *others, *out)
        block = native.pack_backward(*problem, *map(pointer, given), 0)
        assert stack.call("backward", block) == 0
        sums.append(out[2:])
    check_in_place(stack, problem, given)
    for name, finite, infinite in zip(("dw", "db"), *sums, strict=True):
        size = math.sqrt(grad[:, 0].size) * 1e-4
        np.testing.assert_allclose(
            infinite, finite, rtol=1e-3, atol=size, err_msg=f"{name} {problem}"
        )


def drive_alive(stack, elements, dtype, activation, threads):
    """Packing what an activation lets pass, and spreading it out again."""
    rng = np.random.default_rng(elements)
    values = rng.standard_normal(elements)
    y = np.clip(4 * rng.standard_normal(elements), 0, 6.0 if activation == 2 else np.inf)
    y, values = encode(y, dtype), encode(values, dtype)
    top = 6.0 if activation == 2 else np.inf
    alive = (decode(y, dtype) > 0) & (decode(y, dtype) < top)
    problem = elements, DTYPES[dtype], activation, threads, pointer(y)
    count = stack.call("count_alive", native.pack_alive(*problem, 0, 0))
    assert count == alive.sum(), f"{count} of {elements} alive, expected {alive.sum()} ({dtype})"
    packed, out = np.empty(count, y.dtype), np.empty_like(y)
    block = native.pack_alive(*problem, pointer(values), pointer(packed))
    assert stack.call("pack_alive", block) == 0
    np.testing.assert_array_equal(packed, values[alive])
    block = native.pack_alive(*problem, pointer(packed), pointer(out))
    assert stack.call("unpack_alive", block) == 0
    np.testing.assert_array_equal(out, np.where(alive, values, 0))


def main(path: str) -> None:
    load_openmp()
    stack = library.float_norm(Path(path))
    count = 0
    bad_dtype = native.pack_forward(2, 2, 2, 9, 0, 0, 1, EPS, 0.0, *[0] * 8, 1.0, 0, 0, 0, 0.1)
    for _ in selected(stack):
        assert stack.functions()["forward"](bad_dtype) == library.ERROR - 1
        flags = (False, True), (False, True), (1, 3)
        choices = [
            *itertools.product(SHAPES, DTYPES, (0, 1, 2), *flags),
            *itertools.product(CURVED, DTYPES, CURVES, *flags),
        ]
        for shape, dtype, activation, with_residual, keep_x, threads in choices:
            if activation == 0 and not keep_x and with_residual:
                continue  # x is always kept there
            if activation > 4 and not keep_x:
                continue  # and there
            if threads > 1 and shape[0] * shape[1] * shape[2] < 2 * 16 * 1024:
                continue  # one thread works on so few
            drive(
                stack,
                shape,
                dtype,
                activation,
                with_residual,
                keep_x,
                threads,
                seed=count,
            )
            count += 1
        for elements, dtype in itertools.product((1, 17, 511, 512, 1025, 200_000), DTYPES):
            for activation, threads in itertools.product((1, 2), (1, 3)):
                drive_alive(stack, elements, dtype, activation, threads)
                count += 1
    print(f"{count} passed, 0 failed ({stack.isas()})")


if __name__ == "__main__":
    main(sys.argv[1])
