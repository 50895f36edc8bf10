// Results that look at a window of the source: the forward pass and the input gradient.
//
// The input gradient of a convolution with stride s is s * s convolutions of the error with stride
// 1, each over the weights that its result pixels ever meet ("phases"); forward has one phase. A
// block of the source (images, or rows of one) is copied with its padding into a buffer that fits
// the second-level cache, and every phase runs over it.
#pragma once
#include "common/parallel.h"
#include "common/plan.h"
#include "int8_conv/panels.h"
#include "int8_conv/tile.h"

namespace l1bn {
namespace int8_conv {
namespace L1BN_ISA {

constexpr int64_t kBlockBytes = 128 << 10;
constexpr int64_t kBlockPixels = 512;

struct Extent {
  int64_t low, span;  // first source row (or column) that result 0 reads, and how many
};

struct Tap {
  int64_t row, col;  // within the window
  int64_t weight;    // kernel_row * kernel_width + kernel_column
};

struct Phase {
  int64_t row, col;  // of its first result
  int64_t first_tap, taps;
};

struct Window {
  // Source, and steps between neighbouring results of a phase in it.
  const int8_t* source;
  int64_t images, height, width, channels, step_down, step_across;
  int64_t pitch;  // from one pixel to the next, at least `channels`
  Extent rows, cols;
  // Result, and steps between neighbouring results of a phase in it.
  int32_t* result;
  int64_t result_height, result_width, result_channels, result_down, result_across;
  int64_t result_pitch;
  int32_t* peak;
  // w[result channel * output_step + source channel * input_step + weight * weight_step]
  const int8_t* w;
  int64_t weight_step, output_step, input_step;
  int64_t phase_count, tap_count;
  Phase* phases;
  Tap* taps;
  int64_t threads;

  int64_t run() const;
};

class WindowRun {
 public:
  explicit WindowRun(const Window& window)
      : w_(window),
        pixel_(round_up(window.channels, kGroup)),
        groups_(pixel_ / kGroup),
        lanes_(round_up(window.result_channels, kLanes)),
        steps_down_(ceil_div(window.result_height, window.result_down)),
        steps_across_(ceil_div(window.result_width, window.result_across)),
        buffer_cols_((steps_across_ - 1) * window.step_across + window.cols.span),
        block_(plan()),
        panels_(window.tap_count * pixel_ * lanes_),
        offsets_(window.tap_count * groups_),
        bias_(window.phase_count * lanes_),
        pixels_(window.phase_count * block_pixels()),
        buffers_(window.threads * buffer_size()),
        peaks_(window.threads * lanes_) {
    for (int64_t p = 0; p < window.phase_count; ++p) gaps_ |= window.phases[p].taps == 0;
  }

  int64_t run() {
    if (!panels_.data || !offsets_.data || !bias_.data || !pixels_.data || !buffers_.data ||
        !peaks_.data)
      return L1BN_NO_MEMORY;
    if (w_.result_pitch == w_.result_channels)
      expect_large(w_.result, w_.images * w_.result_height * w_.result_width * w_.result_channels *
                                  int64_t(sizeof(int32_t)));
    list_offsets();
    list_pixels();
    memset(peaks_.data, 0, size_t(w_.threads * lanes_) * sizeof(uint32_t));
    int64_t next = 0;
    const int64_t units = block_.units(w_.images, steps_down_);
    auto work = [&](Team team) {
      fill_shift(buffers_.data + team.index * buffer_size(), buffer_size());
      for (int64_t p = 0; p < w_.phase_count; ++p) pack_phase(p, team);
      team.wait();
      for (;;) {
        const int64_t unit = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (unit >= units) break;
        run_block(unit, team.index);
      }
    };
    parallel_run(int(min_of(w_.threads, max_of(units, 1))), work);
    if (w_.peak) gather_peaks();
    return 0;
  }

 private:
  struct Block {
    int64_t images, rows;  // rows: steps down of a phase
    int64_t strips(int64_t all_rows) const { return ceil_div(all_rows, rows); }
    int64_t units(int64_t all_images, int64_t all_rows) const {
      return ceil_div(all_images, images) * strips(all_rows);
    }
  };

  const Window& w_;
  const int64_t pixel_, groups_, lanes_;
  const int64_t steps_down_, steps_across_, buffer_cols_;
  const Block block_;
  Array<B> panels_;
  Array<int64_t> offsets_;
  Array<uint32_t> bias_;
  Array<Row> pixels_;  // from the buffer's and the block's start
  Array<A> buffers_;
  Array<uint32_t> peaks_;
  bool gaps_ = false;  // results that no weight reaches

  int64_t buffer_rows(int64_t rows) const { return (rows - 1) * w_.step_down + w_.rows.span; }
  int64_t image_size(int64_t rows) const { return buffer_rows(rows) * buffer_cols_ * pixel_; }
  int64_t buffer_size() const {
    return round_up(block_.images * image_size(block_.rows), kCacheLine);
  }
  int64_t block_pixels() const { return block_.images * block_.rows * steps_across_; }

  Block plan() const {
    const int64_t bytes = image_size(steps_down_) * int64_t(sizeof(A));
    const int64_t share = ceil_div(max_of(w_.images, 1), w_.threads);
    if (bytes <= kBlockBytes && w_.images >= 2 * w_.threads) {
      const int64_t fit =
          min_of(kBlockBytes / bytes, ceil_div(kBlockPixels, w_.result_height * w_.result_width));
      return {max_of(min_of(fit, share), 1), steps_down_};
    }
    const int64_t row_bytes = bytes / buffer_rows(steps_down_);
    int64_t rows = (kBlockBytes / row_bytes - w_.rows.span) / w_.step_down + 1;
    if (w_.threads > 1 && w_.images < 2 * w_.threads)
      rows = min_of(rows, ceil_div(steps_down_ * max_of(w_.images, 1), 2 * w_.threads));
    return {1, min_of(max_of(rows, 1), steps_down_)};
  }

  void list_offsets() {
    int64_t* offset = offsets_.data;
    for (int64_t t = 0; t < w_.tap_count; ++t)
      for (int64_t g = 0; g < groups_; ++g)
        *offset++ = ((w_.taps[t].row * buffer_cols_ + w_.taps[t].col) * pixel_ + g * kGroup) *
                    int64_t(sizeof(A));
  }

  B* panel(const Phase& phase, int64_t lane) const {
    return panels_.data + (phase.first_tap * lanes_ + lane * phase.taps) * pixel_;
  }

  // The weights of a phase: the threads take panels in turn.
  void pack_phase(int64_t index, Team team) const {
    const Phase& phase = w_.phases[index];
    int64_t turn = index;
    for (int64_t lane = 0, vectors; lane < lanes_; lane += vectors * kLanes) {
      vectors = panel_vectors((lanes_ - lane) / kLanes);
      if (turn++ % team.size != team.index) continue;
      const int64_t lanes = vectors * kLanes, outputs = min_of(lanes, w_.result_channels - lane);
      B* out = panel(phase, lane);
      for (int64_t t = 0; t < phase.taps; ++t, out += groups_ * lanes * kGroup)
        pack_weights(
            out,
            w_.w + w_.taps[phase.first_tap + t].weight * w_.weight_step + lane * w_.output_step,
            outputs, lanes, w_.channels, w_.output_step, w_.input_step);
      uint32_t* bias = bias_.data + index * lanes_ + lane;
      shift_sums(int(vectors), panel(phase, lane), phase.taps * groups_, bias);
      for (int64_t i = 0; i < lanes; ++i) bias[i] = 0u - bias[i];
    }
  }

  // Results of a phase within rows [first, first + rows) of its own.
  int64_t rows_of(const Phase& phase, int64_t first, int64_t rows) const {
    const int64_t all = ceil_div(w_.result_height - phase.row, w_.result_down);
    return max_of(min_of(all - first, rows), 0);
  }
  int64_t cols_of(const Phase& phase) const {
    return ceil_div(w_.result_width - phase.col, w_.result_across);
  }

  // Where the results of a block lie; a block with fewer images or rows takes the first of them.
  void list_pixels() {
    const int64_t image = image_size(block_.rows) * int64_t(sizeof(A));
    const int64_t pixel_bytes = pixel_ * int64_t(sizeof(A));
    for (int64_t p = 0; p < w_.phase_count; ++p) {
      const Phase& phase = w_.phases[p];
      Row* pixel = pixels_.data + p * block_pixels();
      for (int64_t b = 0; b < block_.images; ++b)
        for (int64_t i = 0; i < rows_of(phase, 0, block_.rows); ++i)
          for (int64_t j = 0; j < cols_of(phase); ++j, ++pixel) {
            const int64_t row = b * w_.result_height + phase.row + i * w_.result_down;
            const int64_t col = phase.col + j * w_.result_across;
            pixel->in =
                b * image + (i * w_.step_down * buffer_cols_ + j * w_.step_across) * pixel_bytes;
            pixel->out = (row * w_.result_width + col) * w_.result_pitch;
          }
    }
  }

  void run_block(int64_t unit, int thread) const {
    const int64_t strips = block_.strips(steps_down_);
    const int64_t image = unit / strips * block_.images, row = unit % strips * block_.rows;
    const int64_t images = min_of(block_.images, w_.images - image);
    const int64_t rows = min_of(block_.rows, steps_down_ - row);
    A* buffer = buffers_.data + thread * buffer_size();
    for (int64_t b = 0; b < images; ++b)
      fill(buffer + b * image_size(block_.rows), image + b, row * w_.step_down + w_.rows.low,
           buffer_rows(rows));
    int32_t* result = w_.result + (image * w_.result_height + row * w_.result_down) *
                                      w_.result_width * w_.result_pitch;
    const int64_t end = min_of(w_.result_height, (row + rows) * w_.result_down);
    const int64_t height = (images - 1) * w_.result_height + end - row * w_.result_down;
    if (gaps_) clear(result, height * w_.result_width);
    for (int64_t p = 0; p < w_.phase_count; ++p) {
      const Phase& phase = w_.phases[p];
      if (phase.taps == 0) continue;
      const int64_t count = images * rows_of(phase, row, rows) * cols_of(phase);
      run_phase(p, count, reinterpret_cast<const char*>(buffer), result,
                peaks_.data + thread * lanes_);
    }
  }

  void clear(int32_t* result, int64_t pixels) const {
    const bool dense = w_.result_pitch == w_.result_channels;
    const int64_t pieces = dense ? 1 : pixels,
                  size = dense ? pixels * w_.result_pitch : w_.result_channels;
    for (int64_t i = 0; i < pieces; ++i)
      memset(result + i * w_.result_pitch, 0, size_t(size) * sizeof(int32_t));
  }

  // The columns left and right of the image were filled before the first block.
  void fill(A* out, int64_t image, int64_t first, int64_t rows) const {
    const int64_t left = min_of(max_of(-w_.cols.low, 0), buffer_cols_);
    const int64_t end = max_of(min_of(w_.width - w_.cols.low, buffer_cols_), left);
    for (int64_t y = first; y < first + rows; ++y, out += buffer_cols_ * pixel_) {
      if (y < 0 || y >= w_.height) {
        fill_shift(out, buffer_cols_ * pixel_);
        continue;
      }
      const int64_t source = (image * w_.height + y) * w_.width + left + w_.cols.low;
      copy_pixels(out + left * pixel_, w_.source + source * w_.pitch, end - left, w_.channels,
                  w_.pitch);
    }
  }

  void run_phase(int64_t index, int64_t count, const char* buffer, int32_t* result,
                 uint32_t* peak) const {
    const Phase& phase = w_.phases[index];
    for (int64_t lane = 0, vectors; lane < lanes_; lane += vectors * kLanes) {
      vectors = panel_vectors((lanes_ - lane) / kLanes);
      const Panel panel_here = {panel(phase, lane), offsets_.data + phase.first_tap * groups_,
                                phase.taps * groups_};
      Rows rows;
      rows.list = pixels_.data + index * block_pixels();
      rows.count = count;
      rows.a = buffer;
      rows.out = result + lane;
      rows.init = reinterpret_cast<const int32_t*>(bias_.data + index * lanes_ + lane);
      rows.channels = w_.result_channels - lane;
      rows.peak = w_.peak ? peak + lane : nullptr;
      rows.pair = cols_of(phase) % 2 ? 0 : w_.step_across * pixel_ * int64_t(sizeof(A));
      rows.scattered = w_.result_down > 1 || w_.result_across > 1;
      multiply(int(vectors), panel_here, rows);
    }
  }

  void gather_peaks() const {
    for (int64_t c = 0; c < w_.result_channels; ++c) {
      uint32_t peak = 0;
      for (int64_t t = 0; t < w_.threads; ++t) {
        const uint32_t here = peaks_.data[t * lanes_ + c];
        peak = here > peak ? here : peak;
      }
      w_.peak[c] = peak > INT32_MAX ? INT32_MAX : int32_t(peak);
    }
  }
};

inline int64_t Window::run() const { return WindowRun(*this).run(); }

}  // namespace L1BN_ISA
}  // namespace int8_conv
}  // namespace l1bn
