"""Break the formulas one by one and expect the tests to notice: ``make mutants``.

Each mutant is a textual change of one file, tested in a copy of the source tree. A mutant of csrc/
is compiled there, once, for this processor.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from l1bn.ops.cpu.node import INTERFACES

ROOT = Path(__file__).parents[1]
DEVICE_SOURCES, NODE_SOURCES = "csrc/device/", "csrc/torch/"
#: Where what is compiled later lies in an installation.
INSTALLED = {DEVICE_SOURCES: "device/csrc/", NODE_SOURCES: "ops/cpu/csrc/torch/"}


@dataclass(frozen=True)
class Mutant:
    """A mistake somebody could make."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = (
        "tests/test_reference.py",
        "tests/test_backends.py",
        "tests/test_functional.py",
        "tests/nn/test_batchnorm.py",
    )

    @property
    def is_native(self) -> bool:
        """Whether the file is of the native library, which is then compiled."""
        return self.file.startswith("csrc/") and not self.file.startswith(tuple(INSTALLED))

    @property
    def source(self) -> Path:
        """The file in this checkout."""
        return ROOT / ("" if self.file.startswith("csrc/") else "src/l1bn") / self.file

    def copied(self, folder: Path) -> Path:
        """The file in a copy, where what is compiled later lies as in an installation."""
        if self.is_native:
            return folder / self.file
        place = self.file
        for source, installed in INSTALLED.items():
            place = place.replace(source, installed)
        return folder / "l1bn" / place


FIXED_POINT = ("tests/test_fixed_point.py",)
HARDWARE = ("tests/rtl/verify/test_simulation.py",)
REGISTERS = ("tests/rtl/unit/test_deliverables.py",)
NATIVE = ("tests/ops/cpu/test_backend.py",)
NODE = ("tests/ops/cpu/test_node.py",)
POOL = ("tests/ops/cpu/test_pool.py",)
NOT_FINITE = ("tests/ops/test_not_finite.py",)
CURVES = ("tests/test_backends.py", "tests/test_activation.py")
DEVICE = ("tests/device/test_equal.py",)
FLASH = ("tests/device/test_faults.py",)
WRITTEN = ("tests/convert/fusion/test_written.py",)
GENERATED = ("tests/convert/fusion/test_generated.py", "tests/convert/fusion/test_fuse.py")
FOLD = ("tests/weights/test_fold.py",)
DAMAGE = ("tests/recipes/files/test_damage.py",)
SYNC = ("tests/nn/test_distributed.py", "tests/nn/test_sync.py")
MUTANTS = [
    Mutant(
        "sync: a process' own sums make its gradient",
        "ops/eager/passes.py",
        "(dweight, db) if reduce is None else reduce(dweight, db)",
        "(dweight, db)",
        SYNC,
    ),
    Mutant(
        "sync: the deviation is that of a process",
        "ops/eager/passes.py",
        "spread, number = reduce(spread, number)",
        "reduce(spread, number)",
        SYNC,
    ),
    Mutant(
        "sync: the input is kept all the same",
        "ops/sync.py",
        "if not recovered(x, residual, call, statistics, bits):",
        "if True:",
        SYNC,
    ),
    Mutant(
        "node: a mode that looks on is not seen",
        "csrc/torch/tensors.cpp",
        "c10::impl::TorchDispatchModeTLS::stack_len() > 0 ||",
        "",
        NODE,
    ),
    Mutant(
        "node: tangents are not seen",
        "csrc/torch/tensors.cpp",
        "ForwardADLevel::try_get_by_idx(0) != nullptr",
        "ForwardADLevel::try_get_by_idx(0) == nullptr && false",
        NODE,
    ),
    Mutant(
        "node: any tensor's values lie at its address",
        "csrc/torch/tensors.cpp",
        "return tensor.key_set() == plain;",
        "return tensor.key_set() == plain || tensor.defined();",
        NODE,
    ),
    Mutant(
        "node: a vector may have gaps",
        "csrc/torch/tensors.cpp",
        "          tensor.is_contiguous() && code_of(tensor.scalar_type()) >= 0);",
        "          code_of(tensor.scalar_type()) >= 0);",
        NODE,
    ),
    Mutant(
        "node: rows are taken for planes",
        "csrc/torch/tensors.cpp",
        "return Layout{outer * inner, channels, 1, true};",
        "return Layout{outer, channels, inner, true};",
        NODE,
    ),
    Mutant(
        "node: large results are torch's",
        "csrc/torch/tensors.cpp",
        "if (bytes < library().pooled ||",
        "if (bytes >= library().pooled ||",
        NODE,
    ),
    Mutant(
        "node: parameters that want gradients get them where x wants none",
        "csrc/torch/node.cpp",
        "is_watched() || (records && !call.x.requires_grad())",
        "is_watched()",
        NODE,
    ),
    Mutant(
        "node: bits are kept where x_hat cannot be recovered",
        "csrc/torch/node.cpp",
        "  if (bad) found.bits = at::Tensor();  // x_hat cannot be recovered: x is kept\n",
        "",
        NODE,
    ),
    Mutant(
        "node: a second derivative is the kernels'",
        "csrc/torch/node.cpp",
        "q.grads[1].defined() || at::GradMode::is_enabled() ||",
        "q.grads[1].defined() ||",
        NODE,
    ),
    Mutant(
        "node: edges are numbered with what is not there",
        "csrc/torch/node.cpp",
        "there[i] && ctx->needs_input_grad(edge++);",
        "there[i] && ctx->needs_input_grad(i);",
        NODE,
    ),
    Mutant(
        "node: one value a channel is normalized",
        "csrc/torch/node.cpp",
        "if (!layout || x.numel() == x.size(1)) return",
        "if (!layout) return",
        NODE,
    ),
    Mutant(
        "node: a residual that bends is not kept",
        "csrc/torch/node.cpp",
        "call.activation > L1BN_RELU6 ? call.residual : none",
        "call.activation > L1BN_TANH ? call.residual : none",
        NODE,
    ),
    Mutant(
        "node: an output that is kept is not said to be",
        "csrc/torch/node.cpp",
        "return found->bits.defined() || clips ?",
        "return clips ?",
        NODE,
    ),
    Mutant(
        "fold: nothing is hidden from the others",
        "weights/fold.py",
        'for fill in (float("nan"), 1e3))',
        "for fill in ())",
        FOLD,
    ),
    Mutant(
        "fold: two norms take one convolution",
        "weights/fold.py",
        "if list(pairs.values()).count(p) > 1]",
        "if list(pairs.values()).count(p) > 2]",
        FOLD,
    ),
    Mutant(
        "fold: one pair that is seen keeps the others of its half",
        "weights/fold.py",
        "    if len(pairs) == 1:\n        return {}",
        "    if pairs:\n        return {}",
        FOLD,
    ),
    Mutant(
        "fold: outputs without tensors agree",
        "weights/fold.py",
        "    if not wanted:\n",
        "    if False:\n",
        FOLD,
    ),
    Mutant(
        "fold: runs share a copy's state",
        "weights/fold.py",
        "        return copied(model)\n",
        '        return model.__dict__.setdefault("_trial", copied(model))\n',
        FOLD,
    ),
    Mutant(
        "fold: groups of a transposed convolution are one",
        "weights/fold.py",
        "scale.view(groups, 1, each)",
        "scale.view(each, 1, groups).transpose(0, 2)",
        FOLD,
    ),
    Mutant(
        "fold: the mean stays",
        "weights/fold.py",
        "bias = -mean if producer.bias is None else _double(producer.bias) - mean",
        "bias = 0 * mean if producer.bias is None else _double(producer.bias)",
        FOLD,
    ),
    Mutant(
        "sums that are not finite: left as the packs have them",
        "csrc/norm/single.h",
        "    if (is_finite(*grad_sum) && is_finite(*product)) return;",
        "    return;",
        NOT_FINITE,
    ),
    Mutant(
        "sums that are not finite: elements without gradient count",
        "csrc/norm/single.h",
        "        if (g == 0) continue;\n",
        "",
        NOT_FINITE,
    ),
    Mutant(
        "kept: the list of saved tensors stays in the graph",
        "model/kept.py",
        "    kept.clear()",
        "    kept.sort(key=id)",
        ("tests/convert/test_example_memory.py",),
    ),
    Mutant(
        "example: nothing is tried in double",
        "convert/example.py",
        "    return difference(wanted, got) is None\n",
        "    return False\n",
        ("tests/convert/fusion/test_fuse.py",),
    ),
    Mutant(
        "example: everything agrees in double",
        "convert/example.py",
        "    return difference(wanted, got) is None\n",
        "    return True\n",
        ("tests/convert/fusion/test_fuse.py",),
    ),
    Mutant(
        "checkpoint: an edited config is taken",
        "recipes/files/checkpoint.py",
        '!= _digest(content["config"]):',
        '== "":',
        DAMAGE,
    ),
    Mutant(
        "checkpoint: momentum keeps its own strides",
        "recipes/files/saved.py",
        'value if key == "step" else torch.empty_like(parameter, device="cpu").copy_(value)',
        "value",
        DAMAGE,
    ),
    Mutant(
        "doctor: the ratio is upside down",
        "doctor/speed.py",
        'times["BatchNorm"] / times["L1BN"]',
        'times["L1BN"] / times["BatchNorm"]',
        ("tests/test_cli.py",),
    ),
    Mutant(
        "pool: a block stays free when it is taken",
        "csrc/memory/pool.cpp",
        "    block = remove(index);\n  } else {",
        "    block = free_[index].block;\n  } else {",
        POOL,
    ),
    Mutant(
        "pool: nothing bounds what is kept",
        "csrc/memory/pool.cpp",
        "(state_.kept > limit || ",
        "(",
        POOL,
    ),
    Mutant(
        "pool: any block that is large enough serves",
        "csrc/memory/pool.cpp",
        "if (found < size || found > size + size / 8) continue;",
        "if (found < size) continue;",
        POOL,
    ),
    Mutant(
        "pool: strides are those of the shape",
        "ops/cpu/memory.py",
        "_from_pool(v.dtype, v.nbytes, v.shape, v.stride())",
        "_from_pool(v.dtype, v.nbytes, v.shape, torch.empty(v.shape, device='meta').stride())",
        POOL,
    ),
    Mutant(
        "native: gradient without the mean of the bits",
        "csrc/norm/channel.h",
        "const double mean_bit = 2 * positive / count - 1;",
        "const double mean_bit = 0 * positive;",
        NATIVE,
    ),
    Mutant(
        "native: few channels: lanes past the end of memory are summed",
        "csrc/norm/part.h",
        "return choose((1u << count) - 1, a, Pack<A>::all(0));",
        "return a;",
        NATIVE,
    ),
    Mutant(
        "native: few channels: a step ends before its channels repeat",
        "csrc/norm/narrow/walk.h",
        "i < 4 && period % 2 == 0",
        "i < 5 && period % 2 == 0",
        NATIVE,
    ),
    Mutant(
        "native: sums by dot products: not moved from the pivot to the mean",
        "csrc/norm/planes/forward.h",
        "return 2 * (sum - above * from_pivot);",
        "return 2 * (sum - 0 * above * from_pivot);",
        NATIVE,
    ),
    Mutant(
        "native: few channels: what is left after the last whole pack is left out",
        "csrc/norm/narrow/walk.h",
        "if (at < elements_) f(Part{",
        "if (at + kLanes < elements_) f(Part{",
        NATIVE,
    ),
    Mutant(
        "native: sums by dot products: the end of a plane counts twice",
        "csrc/norm/planes/bf16_dot.h",
        "mask & (0xffffu << (kLanes - rest))",
        "mask",
        NATIVE,
    ),
    Mutant(
        "native: products by dot products: of y and not of y less the residual",
        "csrc/norm/planes/bf16_dot.h",
        "if (residual) out.product = out.product - total_of(less);",
        "",
        NATIVE,
    ),
    Mutant(
        "native: gradient of bfloat16: bits of a plane's end are the plane's first",
        "csrc/norm/planes/bf16_dot.h",
        "uint32_t(units[0]) >> (kLanes - rest)",
        "uint32_t(units[0])",
        NATIVE,
    ),
    Mutant(
        "native: rows: a gradient is read again where dx was written over it",
        "csrc/norm/rows/backward.h",
        "const bool repeats = whole < count && dx == g_from && !bending;",
        "const bool repeats = false;",
        ("tests/ops/cpu/test_backend.py::test_the_c_interface_without_torch",),
    ),
    Mutant(
        "cpu: any tensor is one whose values lie at its address",
        "ops/cpu/memory.py",
        "return _keys(v) in _ORDINARY",
        "return True",
        ("tests/ops/cpu/test_memory.py",),
    ),
    Mutant(
        "cpu: the input behind the bits is forgotten",
        "ops/spill.py",
        "bits.zero_()[-1] = 1",
        "bits.zero_()",
        ("tests/ops/cpu/test_operators.py",),
    ),
    Mutant(
        "native: gamma's gradient of a channel that is NaN, where no gradient passed",
        "csrc/norm/channel.h",
        "return sigma == sigma ? product / divisor : sigma;",
        "return product / divisor;",
        NOT_FINITE,
    ),
    Mutant(
        "native: an infinite output of ReLU passes no gradient",
        "csrc/norm/channel.h",
        'if (activation != L1BN_RELU6) *high = A(__builtin_nan(""));',
        "",
        NOT_FINITE,
    ),
    Mutant(
        "curves: the elements after the last whole pack are left as they are",
        "csrc/norm/curve.h",
        "rest.put(y + whole, value(rest.get(y + whole)));",
        "",
        CURVES,
    ),
    Mutant(
        "curves: z is computed again without the residual",
        "csrc/norm/planes/backward.h",
        "if (r_from) z += how.get(r_from + i);",
        "",
        CURVES,
    ),
    Mutant(
        "curves: z of channels_last is computed again without the residual",
        "csrc/norm/rows/backward.h",
        "if (r_from) z += load(r_from + at);",
        "",
        CURVES,
    ),
    Mutant(
        "curves: the gradient that was kept for the second pass is not read there",
        "csrc/norm/rows/backward.h",
        "const T* const g_from = held ? held : grad;",
        "const T* const g_from = grad;",
        CURVES,
    ),
    Mutant(
        "curves: sums that are not finite are mended by a gradient that was written over",
        "csrc/norm/single.h",
        "const A g = held ? value_of(held + i) : masked(c, i, &z);",
        "const A g = masked(c, i, &z);",
        ("tests/ops/cpu/test_backend.py::test_the_c_interface_without_torch",),
    ),
    Mutant(
        "curves: sums that are not finite are mended without z",
        "csrc/norm/single.h",
        "if (held && !x) bent(c, i, &z);",
        "",
        ("tests/ops/cpu/test_backend.py::test_the_c_interface_without_torch",),
    ),
    Mutant(
        "curves: an output is taken for z plus the residual",
        "csrc/norm/curve.h",
        "if (residual) before = before - how.get(residual + from + i);",
        "",
        CURVES,
    ),
    Mutant(
        "curves: the second group of channels takes the first one's constants",
        "csrc/norm/rows/backward.h",
        "const P* const c = of_group + kConstants * group;",
        "const P* const c = of_group;",
        CURVES,
    ),
    Mutant(
        "curves: of a slope left of 0 the logistic's complement",
        "csrc/norm/curve.h",
        "q = (z >= 0) ? small : large;",
        "q = small;",
        CURVES,
    ),
    Mutant(
        "curves: GELU's slope without the density",
        "csrc/norm/curve.h",
        "return share + z * tail.density * all_of<V>(0.3989422804014326779);",
        "return share;",
        CURVES,
    ),
    Mutant(
        "curves: ELU's parameter is 1 in its slope",
        "csrc/norm/curve.h",
        "*slope_of_z = (y > 0) ? all_of<V>(1) : y + p;",
        "*slope_of_z = (y > 0) ? all_of<V>(1) : y + 1;",
        CURVES,
    ),
    Mutant(
        "eager: gradient without the mean of the signs",
        "ops/formula.py",
        "(sign - per_channel(mean_sign, g))",
        "sign",
    ),
    Mutant(
        "eager: no sqrt(pi/2)",
        "ops/formula.py",
        "K = math.sqrt(math.pi / 2)",
        "K = 1.0",
    ),
    Mutant(
        "running variance with the biased factor",
        "ops/running.py",
        "mul_(count / (count - 1))",
        "mul_(1.0)",
    ),
    Mutant(
        "running statistics take what is not finite",
        "ops/running.py",
        "torch.where(finite, moved, old)",
        "moved",
    ),
    Mutant(
        "eager: sign bit of the mean itself negative",
        "ops/eager/passes.py",
        "torch.ge(wide, centre, out=at_least)",
        "torch.gt(wide, centre, out=at_least)",
    ),
    Mutant(
        "eager: no floor in the gradient",
        "ops/formula.py",
        "return (scale.detach() > math.sqrt(eps)).to(scale.dtype)",
        "return torch.ones_like(scale)",
    ),
    Mutant(
        "reference: gradient without the mean of the signs",
        "reference.py",
        "centred_sign = stats.sign - _per_channel(_mean(stats.sign), x)",
        "centred_sign = stats.sign",
    ),
    Mutant(
        "reference: no sqrt(pi/2)",
        "reference.py",
        "K = math.sqrt(math.pi / 2)",
        "K = 1.0",
    ),
    Mutant(
        "reference: biased running variance",
        "reference.py",
        "(count / (count - 1))",
        "1.0",
    ),
    Mutant(
        "layer counts a batch that raised",
        "nn/batchnorm.py",
        "        y = l1_batch_norm(\n",
        "        self.num_batches_tracked.add_(tracking)\n        y = l1_batch_norm(\n",
    ),
    Mutant(
        "synchronised gradient of one process only",
        "ops/sync.py",
        "all_dbias, all_dcentred = reduced()",
        "all_dbias, all_dcentred = dbias, dcentred",
        SYNC,
    ),
    Mutant(
        "cpu: recovers the normalized input however small gamma is",
        "ops/cpu/kernels.py",
        "RECOVERY_LIMIT = (16.0, 4.0, 4.0, 16.0)",
        "RECOVERY_LIMIT = (1e300, 1e300, 1e300, 1e300)",
        ("tests/test_backends.py",),
    ),
    Mutant(
        "fixed point: gradient without the mean of the signs",
        "fixed_point/norm/backward.py",
        "4 * q * statistics.above)",
        "2 * q * count)",
        FIXED_POINT,
    ),
    Mutant(
        "fixed point: gradient of a deviation that its floor holds",
        "fixed_point/norm/backward.py",
        "    q = np.where(statistics.live, q, 0)\n",
        "",
        FIXED_POINT,
    ),
    Mutant(
        "fixed point: sqrt(2/pi) off by one in a thousand",
        "fixed_point/norm/spec.py",
        "INVERSE_K = 52290",
        "INVERSE_K = 52238",
        FIXED_POINT,
    ),
    Mutant(
        "fixed point: one-pass statistics without a guard",
        "fixed_point/norm/statistics.py",
        "4 * distance * count * count > estimate",
        "distance * 0 > estimate",
        FIXED_POINT,
    ),
    Mutant(
        "device: gradient without the mean of the bits",
        "csrc/device/arithmetic/channel.c",
        "4 * q * s->above",
        "2 * q * count",
        DEVICE,
    ),
    Mutant(
        "device: gradient of a deviation that its floor holds",
        "csrc/device/arithmetic/channel.c",
        "  if (!s->live) q = 0;\n",
        "",
        DEVICE,
    ),
    Mutant(
        "device: no carry into the upper half of a square",
        "csrc/device/arithmetic/channel.c",
        "a.high + b.high + (low < a.low ? 1u : 0u)",
        "a.high + b.high",
        DEVICE,
    ),
    Mutant(
        "device: the momentum takes the weights' random bits",
        "csrc/device/arithmetic/parameter.c",
        "l1bn_noise_of(run, FIRST_UPDATE + p->index, 1)",
        "l1bn_noise_of(run, FIRST_UPDATE + p->index, 0)",
        DEVICE,
    ),
    Mutant(
        "device: masters never make room",
        "csrc/device/arithmetic/parameter.c",
        "  make_room(run, p, high);\n",
        "  if (0) make_room(run, p, high);\n",
        DEVICE,
    ),
    Mutant(
        "device: sums beyond the border",
        "csrc/device/arithmetic/window.h",
        "l1bn_min(kernel, taps.last)",
        "kernel",
        DEVICE,
    ),
    Mutant(
        "device: the first batch is averaged with nothing",
        "csrc/device/steps/norm.c",
        "if (*in_state(w, w->norm->batches) == 0) {",
        "if (0) {",
        DEVICE,
    ),
    Mutant(
        "device: every step draws the same random bits",
        "csrc/device/run.c",
        "  advance(&run);\n",
        "  if (0) advance(&run);\n",
        DEVICE,
    ),
    Mutant(
        "device: the last of equal values is a window's largest",
        "csrc/device/steps/pooling.c",
        "if (value <= best) continue;",
        "if (value < best) continue;",
        DEVICE,
    ),
    Mutant(
        "device: sums of weights that are computed twice are kept from the first time",
        "csrc/device/steps/product.c",
        "if (pass == 0 || twice) weight_sums(",
        "if (pass == 0) weight_sums(",
        DEVICE,
    ),
    Mutant(
        "device: labels are not smoothed",
        "csrc/device/steps/loss.c",
        "target += (1 << PROBABILITY_BITS) - net->smoothing;",
        "target += 1 << PROBABILITY_BITS;",
        DEVICE,
    ),
    Mutant(
        "device: the newest slot is overwritten",
        "csrc/device/state.c",
        "const uint32_t slot = have == 0u ? 1u : 0u;",
        "const uint32_t slot = have == 1u ? 1u : 0u;",
        FLASH,
    ),
    Mutant(
        "device: a slot that cannot be read holds nothing",
        "csrc/device/state.c",
        "if (content == SLOT_UNREAD) return L1BN_STORAGE;",
        "if (content == SLOT_UNREAD) continue;",
        FLASH,
    ),
    Mutant(
        "device: the state's checksum is not looked at",
        "csrc/device/state.c",
        "return h.checksum == crc ? SLOT_INTACT : SLOT_OTHER;",
        "return SLOT_INTACT;",
        FLASH,
    ),
    Mutant(
        "device: a buffer dies where it is read first",
        "device/program/memory.py",
        "found[buffer].first if buffer in found else (0 if buffer in copies else step)",
        "0 if buffer in copies else step",
        DEVICE,
    ),
    Mutant(
        "hardware: bit of the mean itself zero",
        "rtl/unit/blocks/statistic.py",
        "x >= self.level",
        "x > self.level",
        HARDWARE,
    ),
    Mutant(
        "hardware: gradient of a deviation that its floor holds",
        "rtl/unit/scalars/backward.py",
        "Mux(parts.registers.live, q, 0)",
        "q",
        HARDWARE,
    ),
    Mutant(
        "hardware: gradient without the mean of the signs",
        "rtl/unit/scalars/backward.py",
        "a=used, b=statistic.above,",
        "a=used, b=config.elements // 2,",
        HARDWARE,
    ),
    Mutant(
        "hardware: threshold of the wrong channel where channels overlap",
        "rtl/unit/overlap.py",
        "r.level.eq(r.threshold)",
        "r.level.eq(parts.ceiling)",
        HARDWARE,
    ),
    Mutant(
        "hardware: scalars do not wait for the path where channels overlap",
        "rtl/unit/scalars/normalize.py",
        "return parts.path.empty",
        "return parts.path.ready | ~parts.path.ready",
        HARDWARE,
    ),
    Mutant(
        "hardware: a quotient by the number of elements is not rounded",
        "rtl/unit/scalars/count.py",
        "return (count >> 1) + (count",
        "return (count >> 9) + (count",
        ("tests/rtl/verify/test_counted.py",),
    ),
    Mutant(
        "hardware: a start leaves done",
        "rtl/unit/axi_lite.py",
        "busy.eq(1), done.eq(0),",
        "busy.eq(1),",
        REGISTERS,
    ),
    Mutant(
        "hardware: a read-only register takes a write",
        "rtl/unit/axi_lite.py",
        'if r.access != "ro"',
        "if r.access",
        REGISTERS,
    ),
    Mutant(
        "power: a transition charges the net twice",
        "rtl/silicon/power.py",
        "0.5 * load * library.voltage**2",
        "load * library.voltage**2",
        ("tests/rtl/silicon/test_power.py",),
    ),
    Mutant(
        "timing: a falling output takes the rising delay",
        "rtl/silicon/timing.py",
        "delay_table, slew_table = arc.delay[edge], arc.transition[edge]",
        "delay_table, slew_table = arc.delay[RISE], arc.transition[edge]",
        ("tests/rtl/silicon/test_timing.py",),
    ),
    Mutant(
        "fusion: a layer's output may be read again",
        "convert/fusion/rewrite.py",
        "return dead and reads",
        "return reads",
        GENERATED,
    ),
    Mutant(
        "fusion: what is live after a branch is forgotten",
        "convert/fusion/liveness.py",
        "return mentioned(s.test) | branches",
        "return mentioned(s.test)",
        GENERATED,
    ),
    Mutant(
        "fusion: nothing is settled before other statements",
        "convert/fusion/rewrite.py",
        "self._settle(first, node, state, out)",
        "pass",
        GENERATED,
    ),
    Mutant(
        "fusion: a test may run anything",
        "convert/fusion/rewrite.py",
        "if not self._is_still(node.test):",
        "if False:",
        WRITTEN,
    ),
    Mutant(
        "fusion: whatever is called next runs first",
        "convert/fusion/decide.py",
        "            self.settle()\n        return f(x, *more, **options)",
        "            pass\n        return f(x, *more, **options)",
        GENERATED + WRITTEN,
    ),
    Mutant(
        "fusion: the other side of a sum is calm",
        "convert/fusion/rewrite.py",
        "calm = self._calm(e.right, at, state)",
        "calm = True",
        GENERATED,
    ),
    Mutant(
        "fusion: hooks on an activation do not count",
        "convert/fusion/decide.py",
        "activation = activation_of(f, more, options)",
        "activation = 'relu' if type(f) is nn.ReLU else activation_of(f)",
        GENERATED,
    ),
    Mutant(
        "fusion: any residual is kept by somebody",
        "convert/fusion/decide.py",
        "if _alike(known, promise.x) and _is_kept(known):",
        "if _alike(known, promise.x):",
        GENERATED,
    ),
    Mutant(
        "fusion: what was promised is lost with an error",
        "convert/fusion/block.py",
        "                frame.settle()\n                raise",
        "                raise",
        WRITTEN,
    ),
    Mutant(
        "fusion: what a child does not use waits for its parent",
        "convert/fusion/decide.py",
        "self.settle(y, *before)",
        "pass",
        WRITTEN,
    ),
    Mutant(
        "fusion: a child's error reaches its parent first",
        "convert/fusion/decide.py",
        "_l1bn=self)\n        except BaseException:\n            self.settle()",
        "_l1bn=self)\n        except BaseException:\n            pass",
        WRITTEN,
    ),
    Mutant(
        "fusion: a sum lies as the layer does",
        "convert/fusion/decide.py",
        "last.residual, last.leads = first, last is a",
        "last.residual = first",
        WRITTEN,
    ),
    Mutant(
        "fusion: one of a pair may be frozen",
        "convert/fusion/decide.py",
        "and a.training is b.training",
        "",
        WRITTEN,
    ),
    Mutant(
        "fusion: a waiting layer's averages are read",
        "convert/fusion/decide.py",
        "and not self._moves(x) else NOTHING",
        "else NOTHING",
        WRITTEN,
    ),
    Mutant(
        "fusion: where one of a pair raises neither has run",
        "convert/fusion/decide.py",
        "        a(first.x)  # as written",
        "        pass  # as written",
        WRITTEN,
    ),
    Mutant(
        "fusion: a class may ask for itself",
        "convert/fusion/source.py",
        "if node not in read and _asks_for_class(node, first[0].arg):",
        "if False:",
        WRITTEN,
    ),
    Mutant(
        "fusion: layers run that were called after one that raised",
        "convert/fusion/decide.py",
        "self._open = []  # where",
        "self._open = later  # where",
        WRITTEN,
    ),
    Mutant(
        "fusion: an edit in place does not settle",
        "convert/fusion/decide.py",
        "if inplace or type(a) is not Tensor",
        "if type(a) is not Tensor",
        WRITTEN,
    ),
    Mutant(
        "fusion: any sum is calm",
        "convert/fusion/rewrite.py",
        "if isinstance(e, ast.BinOp) and self._may(e, at, state):\n            return self._calm",
        "if isinstance(e, ast.BinOp):\n            return self._calm",
        WRITTEN,
    ),
    Mutant(
        "fusion: two layers are one call across a third",
        "convert/fusion/decide.py",
        "and self._open.index(last) - self._open.index(first) == 1",
        "",
        GENERATED + WRITTEN,
    ),
    Mutant(
        "fusion: gradients are not asked for",
        "convert/fusion/plan.py",
        "is_grad_enabled()\n            and not is_compiling",
        "True\n            and not is_compiling",
        GENERATED,
    ),
    Mutant(
        "fusion: layers run in the order in which they are needed",
        "convert/fusion/decide.py",
        "        for promise in due:\n            promise.y",
        "        for promise in reversed(due):\n            promise.y",
        GENERATED + WRITTEN,
    ),
    Mutant(
        "fusion: a property is a plain attribute",
        "convert/fusion/plan.py",
        'return found is None or not hasattr(type(found), "__get__")',
        "return True",
        GENERATED,
    ),
    Mutant(
        "fusion: a patched class keeps its rewritten forward",
        "convert/fusion/plan.py",
        "function is self.function\n            and function.__code__",
        "function.__code__",
        GENERATED,
    ),
    Mutant(
        "gan: every step draws the same noise",
        "recipes/gan/adversaries.py",
        'stream(self.config.seed, "train", number)',
        'stream(self.config.seed, "train", 0)',
        ("tests/recipes/gan/test_trainer.py",),
    ),
    Mutant(
        "gan: WGAN-GP's critic mixes the samples",
        "recipes/gan/models.py",
        "critic_norm = _SAMPLE_NORMS[settings.critic_norm]",
        "pass",
        ("tests/recipes/gan/test_models.py",),
    ),
    Mutant(
        "gan: the penalty is taken at the generated images",
        "recipes/gan/losses.py",
        "torch.lerp(fake.detach(), real, mix.view(-1, 1, 1, 1))",
        "fake.detach().clone()",
        ("tests/recipes/gan/test_losses.py",),
    ),
    Mutant(
        "gan: the classifier's features in training mode",
        "recipes/gan/distance.py",
        "self.model = model.eval()",
        "self.model = model",
        ("tests/recipes/gan/test_distance.py",),
    ),
]
TESTS = [
    "tests/test_reference.py",
    "tests/test_backends.py",
    "tests/test_functional.py",
    "tests/nn",
]


def compile_native(folder: Path, package: Path) -> None:
    """Build the library of a copy, with the instructions of this processor only."""
    options = ("-DL1BN_SINGLE=ON", "-DCMAKE_CXX_FLAGS=-march=native")
    for command in (
        ["-S", folder, "-B", folder / "build", *options],
        ["--build", folder / "build"],
    ):
        subprocess.run(["cmake", *map(str, command)], check=True, capture_output=True)
    shutil.copy(folder / "build" / "libl1bn.so", package / "ops" / "native")


def survives(mutant: Mutant) -> bool:
    """Whether the tests pass with the mistake in place."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "l1bn"
        shutil.copytree(ROOT / "src" / "l1bn", package)
        if mutant.is_native:
            shutil.copytree(ROOT / "csrc", Path(folder) / "csrc")
            shutil.copy(ROOT / "CMakeLists.txt", folder)
        shutil.copytree(ROOT / DEVICE_SOURCES, package / INSTALLED[DEVICE_SOURCES])
        if mutant.file.startswith(NODE_SOURCES):  # for the others Python serves
            shutil.copytree(ROOT / NODE_SOURCES, package / INSTALLED[NODE_SOURCES])
            for name in INTERFACES:
                place = package / "ops" / "cpu" / "csrc" / name
                place.parent.mkdir(exist_ok=True)
                shutil.copy(ROOT / "csrc" / name, place)
        source = mutant.copied(Path(folder))
        text = source.read_text()
        if text.count(mutant.old) != 1:
            raise SystemExit(f"mutant {mutant.name!r}: its text is not once in {mutant.file}")
        source.write_text(text.replace(mutant.old, mutant.new))
        if mutant.is_native:
            compile_native(Path(folder), package)
        # -S: an editable installation would put the unbroken package first.
        command = [sys.executable, "-S", "-m", "pytest", "-x", "-q", *mutant.tests]
        path = os.pathsep.join([folder, sysconfig.get_path("purelib")])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        environment["TORCH_EXTENSIONS_DIR"] = folder
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        crashed = result.returncode < 0  # by a signal, in what is compiled or what it was told
        # A fixture compiles the sources of devices: what it refuses has not been tested.
        signs = ("FAILED",) if mutant.file.startswith(DEVICE_SOURCES) else ("FAILED", "ERROR")
        failed = result.returncode == 1 and any(s in result.stdout for s in signs)
        if result.returncode != 0 and not failed and not crashed:
            said = result.stdout + result.stderr
            raise SystemExit(f"mutant {mutant.name!r}: the tests did not run\n{said}")
        return result.returncode == 0


def main() -> int:
    """Run every mutant, or those whose names start with an argument, and report."""
    survivors = 0
    chosen = [m for m in MUTANTS if m.name.startswith(tuple(sys.argv[1:] or [""]))]
    for mutant in chosen:
        alive = survives(mutant)
        survivors += alive
        print(f"{'SURVIVED' if alive else 'caught':9}{mutant.name}", flush=True)
    return min(survivors, 1)


if __name__ == "__main__":
    raise SystemExit(main())
