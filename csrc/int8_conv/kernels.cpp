// One instruction set's 8-bit convolutions. Compiled several times: L1BN_ISA names the namespace,
// the compiler flags choose the instructions.
#include "int8_conv/kernels.h"

#include "int8_conv/weight.h"
#include "int8_conv/window.h"

namespace l1bn {
namespace int8_conv {
namespace L1BN_ISA {
namespace {

int64_t out_size(int64_t size, int64_t kernel, const l1bn_int8_conv_problem& p) {
  return (size + 2 * p.padding - kernel) / p.stride + 1;
}

// Waking a thread costs a few microseconds: each shall have as much to do.
constexpr int64_t kProductsPerThread = 1 << 19;

int64_t useful_threads(const l1bn_int8_conv_problem& p) {
  const int64_t pixels =
      p.images * out_size(p.height, p.kernel_height, p) * out_size(p.width, p.kernel_width, p);
  const int64_t weights = p.outputs * p.kernel_height * p.kernel_width * p.channels;
  return max_of(min_of(pixels * weights / kProductsPerThread, p.threads), 1);
}

int64_t forward(const l1bn_int8_conv_forward_args& a) {
  const l1bn_int8_conv_problem& p = a.problem;
  const int64_t count = p.kernel_height * p.kernel_width;
  Array<Tap> taps(count);
  if (!taps.data) return L1BN_NO_MEMORY;
  for (int64_t t = 0; t < count; ++t) taps.data[t] = {t / p.kernel_width, t % p.kernel_width, t};
  Phase phase = {0, 0, 0, count};
  Window w;
  w.source = a.x;
  w.images = p.images;
  w.height = p.height;
  w.width = p.width;
  w.channels = p.channels;
  w.step = p.stride;
  w.rows = {-p.padding, p.kernel_height};
  w.cols = {-p.padding, p.kernel_width};
  w.result = a.y;
  w.result_height = out_size(p.height, p.kernel_height, p);
  w.result_width = out_size(p.width, p.kernel_width, p);
  w.result_channels = p.outputs;
  w.result_step = 1;
  w.peak = a.peak;
  w.w = a.w;
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

// Result row r + stride * i meets kernel rows first, first + stride, ... at error rows i + shift,
// i + shift - 1, ..., where first = (r + padding) mod stride and shift = (r + padding) / stride.
Extent reach(int64_t phases, int64_t kernel, const l1bn_int8_conv_problem& p) {
  int64_t low = INT64_MAX, high = INT64_MIN;
  for (int64_t r = 0; r < phases; ++r) {
    const int64_t first = (r + p.padding) % p.stride, shift = (r + p.padding) / p.stride;
    const int64_t taps = first < kernel ? ceil_div(kernel - first, p.stride) : 0;
    if (taps == 0) continue;
    low = min_of(low, shift - taps + 1);
    high = max_of(high, shift);
  }
  if (low > high) return {0, 1};
  return {low, high - low + 1};
}

int64_t input_gradient(const l1bn_int8_conv_input_gradient_args& a) {
  const l1bn_int8_conv_problem& p = a.problem;
  const int64_t down = min_of(p.stride, p.height), across = min_of(p.stride, p.width);
  Array<Tap> taps(p.kernel_height * p.kernel_width);
  Array<Phase> phases(down * across);
  if (!taps.data || !phases.data) return L1BN_NO_MEMORY;
  Window w;
  w.rows = reach(down, p.kernel_height, p);
  w.cols = reach(across, p.kernel_width, p);
  w.phase_count = 0;
  w.tap_count = 0;
  for (int64_t r = 0; r < down; ++r)
    for (int64_t q = 0; q < across; ++q) {
      Phase& phase = phases.data[w.phase_count++];
      phase = {r, q, w.tap_count, 0};
      const int64_t row = (r + p.padding) / p.stride, col = (q + p.padding) / p.stride;
      int64_t y = row - w.rows.low;
      for (int64_t ky = (r + p.padding) % p.stride; ky < p.kernel_height; ky += p.stride, --y) {
        int64_t x = col - w.cols.low;
        for (int64_t kx = (q + p.padding) % p.stride; kx < p.kernel_width; kx += p.stride, --x)
          taps.data[w.tap_count++] = {y, x, ky * p.kernel_width + kx};
      }
      phase.taps = w.tap_count - phase.first_tap;
    }
  w.source = a.e;
  w.images = p.images;
  w.height = out_size(p.height, p.kernel_height, p);
  w.width = out_size(p.width, p.kernel_width, p);
  w.channels = p.outputs;
  w.step = 1;
  w.result = a.dx;
  w.result_height = p.height;
  w.result_width = p.width;
  w.result_channels = p.channels;
  w.result_step = p.stride;
  w.peak = a.peak;
  w.w = a.w;
  w.weight_step = p.channels;
  w.output_step = 1;
  w.input_step = p.kernel_height * p.kernel_width * p.channels;
  w.phases = phases.data;
  w.taps = taps.data;
  w.threads = useful_threads(p);
  return w.run();
}

int64_t weight_gradient(const l1bn_int8_conv_weight_gradient_args& args) {
  l1bn_int8_conv_weight_gradient_args a = args;
  a.problem.threads = useful_threads(a.problem);
  return WeightGradient(a).run();
}

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels = {forward, input_gradient, weight_gradient};

}  // namespace L1BN_ISA
}  // namespace int8_conv
}  // namespace l1bn
