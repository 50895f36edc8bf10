// One instruction set's 8-bit convolutions. Compiled several times: L1BN_ISA names the namespace,
// the compiler flags choose the instructions.
#include "int8_conv/kernels.h"

#include "int8_conv/depthwise.h"
#include "int8_conv/weight.h"
#include "int8_conv/window.h"

namespace l1bn {
namespace int8_conv {
namespace L1BN_ISA {
namespace {

using Problem = l1bn_int8_conv_problem;

// Waking a thread costs a few microseconds: each shall have as much to do.
constexpr int64_t kProductsPerThread = 1 << 19;

int64_t useful_threads(const Problem& p) {
  const int64_t pixels = p.images * out_height(p) * out_width(p);
  const int64_t weights = p.outputs * p.kernel_height * p.kernel_width * p.channels / p.groups;
  return max_of(min_of(pixels * weights / kProductsPerThread, p.threads), 1);
}

// Every channel has a kernel of its own.
bool depthwise(const Problem& p) {
  return p.groups > 1 && p.groups == p.channels && p.groups == p.outputs;
}

// One group, whose pixels lie as far apart as those of all groups.
struct Group {
  Problem problem;
  int64_t index, x_pitch, y_pitch;

  int64_t first_channel() const { return index * problem.channels; }
  int64_t first_output() const { return index * problem.outputs; }
  int64_t first_weight() const {
    return first_output() * problem.kernel_height * problem.kernel_width * problem.channels;
  }
};

// Runs `one` on every group, and stops at the first error.
template <class F>
int64_t each_group(const Problem& p, F one) {
  Group group = {p, 0, p.channels, p.outputs};
  group.problem.channels /= p.groups;
  group.problem.outputs /= p.groups;
  group.problem.groups = 1;
  for (; group.index < p.groups; ++group.index)
    if (const int64_t error = one(group)) return error;
  return 0;
}

int64_t forward_depthwise(const l1bn_int8_conv_forward_args& a) {
  Problem p = a.problem;
  p.threads = useful_threads(p);
  DepthwiseSums sums(p, {p.height, p.width}, {out_height(p), out_width(p)});
  if (sums.failed()) return L1BN_NO_MEMORY;
  sums.rows.fill(out_height(p), p.kernel_height, p.height, [&](int64_t i, int64_t k) {
    return i * p.stride_down - p.top + k * p.dilation_down;
  });
  sums.cols.fill(out_width(p), p.kernel_width, p.width, [&](int64_t i, int64_t k) {
    return i * p.stride_across - p.left + k * p.dilation_across;
  });
  return sums.run(a.x, a.w, a.y, a.peak);
}

int64_t forward_group(const l1bn_int8_conv_forward_args& a, const Group& group) {
  const Problem& p = group.problem;
  const int64_t count = p.kernel_height * p.kernel_width;
  Array<Tap> taps(count);
  if (!taps.data) return L1BN_NO_MEMORY;
  for (int64_t t = 0; t < count; ++t)
    taps.data[t] = {t / p.kernel_width * p.dilation_down, t % p.kernel_width * p.dilation_across,
                    t};
  Phase phase = {0, 0, 0, count};
  Window w;
  w.source = a.x + group.first_channel();
  w.images = p.images;
  w.height = p.height;
  w.width = p.width;
  w.channels = p.channels;
  w.pitch = group.x_pitch;
  w.step_down = p.stride_down;
  w.step_across = p.stride_across;
  w.rows = {-p.top, span_down(p)};
  w.cols = {-p.left, span_across(p)};
  w.result = a.y + group.first_output();
  w.result_height = out_height(p);
  w.result_width = out_width(p);
  w.result_channels = p.outputs;
  w.result_pitch = group.y_pitch;
  w.result_down = w.result_across = 1;
  w.peak = a.peak ? a.peak + group.first_output() : nullptr;
  w.w = a.w + group.first_weight();
  w.weight_step = p.channels;
  w.output_step = count * p.channels;
  w.input_step = 1;
  w.phase_count = 1;
  w.tap_count = count;
  w.phases = &phase;
  w.taps = taps.data;
  w.threads = useful_threads(p);
  return w.run();
}

int64_t forward(const l1bn_int8_conv_forward_args& a) {
  if (depthwise(a.problem)) return forward_depthwise(a);
  return each_group(a.problem, [&](const Group& group) { return forward_group(a, group); });
}

// Result `i` meets kernel row (or column) k where i + padding - k * dilation is a multiple of the
// stride: at error row i / stride.
struct Axis {
  int64_t kernel, stride, padding, dilation;

  bool meets(int64_t i, int64_t k) const { return (i + padding - k * dilation) % stride == 0; }
  int64_t error(int64_t i, int64_t k) const { return (i + padding - k * dilation) / stride; }

  // Errors that the first `phases` results look at.
  Extent reach(int64_t phases) const {
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (int64_t i = 0; i < phases; ++i)
      for (int64_t k = 0; k < kernel; ++k)
        if (meets(i, k)) {
          low = min_of(low, error(i, k));
          high = max_of(high, error(i, k));
        }
    if (low > high) return {0, 1};
    return {low, high - low + 1};
  }
};

Axis down_of(const Problem& p) { return {p.kernel_height, p.stride_down, p.top, p.dilation_down}; }
Axis across_of(const Problem& p) {
  return {p.kernel_width, p.stride_across, p.left, p.dilation_across};
}

int64_t input_gradient_depthwise(const l1bn_int8_conv_input_gradient_args& a) {
  Problem p = a.problem;
  p.threads = useful_threads(p);
  const Axis down = down_of(p), across = across_of(p);
  DepthwiseSums sums(p, {out_height(p), out_width(p)}, {p.height, p.width});
  if (sums.failed()) return L1BN_NO_MEMORY;
  sums.rows.fill(p.height, p.kernel_height, out_height(p),
                 [&](int64_t i, int64_t k) { return down.meets(i, k) ? down.error(i, k) : -1; });
  sums.cols.fill(p.width, p.kernel_width, out_width(p), [&](int64_t i, int64_t k) {
    return across.meets(i, k) ? across.error(i, k) : -1;
  });
  return sums.run(a.e, a.w, a.dx, a.peak);
}

int64_t input_gradient_group(const l1bn_int8_conv_input_gradient_args& a, const Group& group) {
  const Problem& p = group.problem;
  const Axis down = down_of(p), across = across_of(p);
  const int64_t rows = min_of(p.stride_down, p.height), cols = min_of(p.stride_across, p.width);
  Array<Tap> taps(p.kernel_height * p.kernel_width);
  Array<Phase> phases(rows * cols);
  if (!taps.data || !phases.data) return L1BN_NO_MEMORY;
  Window w;
  w.rows = down.reach(rows);
  w.cols = across.reach(cols);
  w.phase_count = 0;
  w.tap_count = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t q = 0; q < cols; ++q) {
      Phase& phase = phases.data[w.phase_count++];
      phase = {r, q, w.tap_count, 0};
      for (int64_t ky = 0; ky < p.kernel_height; ++ky)
        for (int64_t kx = 0; down.meets(r, ky) && kx < p.kernel_width; ++kx)
          if (across.meets(q, kx))
            taps.data[w.tap_count++] = {down.error(r, ky) - w.rows.low,
                                        across.error(q, kx) - w.cols.low, ky * p.kernel_width + kx};
      phase.taps = w.tap_count - phase.first_tap;
    }
  w.source = a.e + group.first_output();
  w.images = p.images;
  w.height = out_height(p);
  w.width = out_width(p);
  w.channels = p.outputs;
  w.pitch = group.y_pitch;
  w.step_down = w.step_across = 1;
  w.result = a.dx + group.first_channel();
  w.result_height = p.height;
  w.result_width = p.width;
  w.result_channels = p.channels;
  w.result_pitch = group.x_pitch;
  w.result_down = p.stride_down;
  w.result_across = p.stride_across;
  w.peak = a.peak ? a.peak + group.first_channel() : nullptr;
  w.w = a.w + group.first_weight();
  w.weight_step = p.channels;
  w.output_step = 1;
  w.input_step = p.kernel_height * p.kernel_width * p.channels;
  w.phases = phases.data;
  w.taps = taps.data;
  w.threads = useful_threads(p);
  return w.run();
}

int64_t input_gradient(const l1bn_int8_conv_input_gradient_args& a) {
  if (depthwise(a.problem)) return input_gradient_depthwise(a);
  return each_group(a.problem, [&](const Group& group) { return input_gradient_group(a, group); });
}

int64_t weight_gradient(const l1bn_int8_conv_weight_gradient_args& args) {
  l1bn_int8_conv_weight_gradient_args a = args;
  Problem& p = a.problem;
  if (depthwise(p)) {
    p.threads = useful_threads(p);
    return DepthwiseWeightGradient(a, out_height(p), out_width(p)).run();
  }
  return each_group(args.problem, [&](const Group& group) {
    a.problem = group.problem;
    a.problem.threads = useful_threads(group.problem);
    a.x = args.x + group.first_channel();
    a.e = args.e + group.first_output();
    a.dw = args.dw + group.first_weight();
    return WeightGradient(a, group.x_pitch, group.y_pitch).run();
  });
}

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels = {forward, input_gradient, weight_gradient};

}  // namespace L1BN_ISA
}  // namespace int8_conv
}  // namespace l1bn
