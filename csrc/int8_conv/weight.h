// The weight gradient: sums over all output pixels, of errors times the inputs they met.
//
//   dw[k][kernel row][kernel column][c] = sum over pixels of e[pixel][k] * x[pixel of the tap][c]
//
// kGroup neighbouring output pixels form a group. The errors of a unit of work (images, rows or
// columns of one) are interleaved into a panel; the inputs lie channel by channel, for stride s one
// plane of every s-th column, so that the inputs of a group are neighbours too at every tap.
#pragma once
#include "common/parallel.h"
#include "int8_conv/kernels.h"
#include "int8_conv/panels.h"
#include "int8_conv/tile.h"

namespace l1bn {
namespace int8_conv {
namespace L1BN_ISA {

constexpr int64_t kUnitPixels = 1024;
constexpr int64_t kUnitBytes = 256 << 10;
constexpr int64_t kGatherRows = 16;

class WeightGradient {
 public:
  // Pixels of x and e lie `x_pitch` and `e_pitch` numbers apart.
  WeightGradient(const l1bn_int8_conv_weight_gradient_args& args, int64_t x_pitch, int64_t e_pitch)
      : pointwise_(is_pointwise(args.problem)),
        x_(pointwise_ ? args.e : args.x),
        e_(pointwise_ ? args.x : args.e),
        x_pitch_(pointwise_ ? e_pitch : x_pitch),
        e_pitch_(pointwise_ ? x_pitch : e_pitch),
        dw_(args.dw),
        p_(pointwise_ ? exchanged(args.problem) : args.problem),
        out_height_(l1bn::int8_conv::out_height(p_)),
        out_width_(l1bn::int8_conv::out_width(p_)),
        lanes_(round_up(p_.outputs, kLanes)),
        positions_(p_.kernel_height * p_.kernel_width * p_.channels),
        column_phases_(min_of(p_.stride_across, span_across(p_))),
        unit_(plan()),
        direct_(pointwise_ && unit_.cols >= out_width_),
        pitch_(row_pitch(unit_.cols)),
        plane_(unit_rows(unit_.rows) * column_phases_ * pitch_),
        row_groups_(ceil_div(unit_.cols, kGroup)),
        depth_(unit_.images * unit_.rows * row_groups_),
        rows_(positions_),
        offsets_(depth_),
        zeros_(max_of(p_.channels, p_.outputs)),
        planes_(p_.threads * planes_size()),
        panels_(p_.threads * panel_size()),
        sums_(p_.threads * sums_size()),
        shifts_(p_.threads * lanes_) {}

  int64_t run() {
    if (!rows_.data || !offsets_.data || !zeros_.data || !planes_.data || !panels_.data ||
        !sums_.data || !shifts_.data)
      return L1BN_NO_MEMORY;
    memset(zeros_.data, 0, size_t(max_of(p_.channels, p_.outputs)));
    list_offsets();
    int64_t next = 0;
    const int64_t units = unit_count();
    auto work = [&](Team team) {
      if (direct_) return run_direct(team);
      memset(sums_.data + team.index * sums_size(), 0, size_t(sums_size()) * sizeof(int32_t));
      memset(shifts_.data + team.index * lanes_, 0, size_t(lanes_) * sizeof(uint32_t));
      for (;;) {
        const int64_t unit = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (unit >= units) break;
        run_unit(unit, team.index);
      }
      team.wait();
      gather(team);
    };
    const int64_t shares = direct_ ? ceil_div(lanes_, kMaxVectors * kLanes) : units;
    parallel_run(int(min_of(p_.threads, max_of(shares, 1))), work);
    return 0;
  }

 private:
  struct Unit {
    int64_t images, rows, cols;  // of the error
  };

  // Where a unit starts, and how much of it there is.
  struct Place {
    int64_t image, row, col;
    int64_t images, rows, cols;
  };

  const bool pointwise_;
  const int8_t *const x_, *const e_;
  const int64_t x_pitch_, e_pitch_;
  int32_t* const dw_;
  const l1bn_int8_conv_problem p_;
  const int64_t out_height_, out_width_, lanes_, positions_, column_phases_;
  const Unit unit_;
  const bool direct_;  // one unit, whose sums are the result
  const int64_t pitch_, plane_, row_groups_, depth_;
  Array<Row> rows_;  // of the product: positions, from the planes' and the sums' start
  Array<int64_t> offsets_;
  Array<int8_t> zeros_;
  Array<A> planes_;
  Array<B> panels_;
  Array<uint32_t> sums_, shifts_;

  static bool is_pointwise(const l1bn_int8_conv_problem& p) {
    return p.kernel_height == 1 && p.kernel_width == 1 && p.stride_down == 1 &&
           p.stride_across == 1 && p.top == 0 && p.bottom == 0 && p.left == 0 && p.right == 0;
  }

  // Where a kernel is one pixel wide and meets every pixel, all pixels are one long row, and inputs
  // and errors may change places: the sums then have the order of the weights.
  static l1bn_int8_conv_problem exchanged(l1bn_int8_conv_problem p) {
    const int64_t channels = p.channels;
    p.width *= p.images * p.height;
    p.images = p.height = 1;
    p.channels = p.outputs;
    p.outputs = channels;
    return p;
  }

  int64_t unit_rows(int64_t rows) const { return (rows - 1) * p_.stride_down + span_down(p_); }
  int64_t row_pitch(int64_t cols) const {
    return round_up(round_up(cols, kGroup) + (span_across(p_) - 1) / p_.stride_across, kGroup);
  }
  int64_t planes_size() const { return round_up(unit_.images * p_.channels * plane_, kCacheLine); }
  int64_t panel_size() const { return depth_ * kMaxVectors * kLanes * kGroup; }
  int64_t sums_size() const { return direct_ ? 0 : positions_ * lanes_; }

  // Large enough that the sums are seldom fetched and put back, small enough for the cache.
  Unit plan() const {
    Unit unit = {1, 1, min_of(max_of(out_width_, 1), kUnitPixels)};
    if (p_.images * out_height_ == 1 && out_width_ > kUnitPixels)
      unit.cols = min_of(unit.cols, ceil_div(max_of(out_width_, 1), p_.threads));
    if (unit.cols < out_width_) return unit;
    const int64_t row_bytes =
        p_.stride_down * column_phases_ * row_pitch(unit.cols) * p_.channels * int64_t(sizeof(A));
    const int64_t fit = max_of(min_of(kUnitPixels / unit.cols, kUnitBytes / row_bytes), 1);
    unit.rows = min_of(fit, out_height_);
    if (p_.threads > 1 && p_.images < p_.threads)
      unit.rows = min_of(unit.rows, ceil_div(out_height_ * max_of(p_.images, 1), p_.threads));
    if (unit.rows == out_height_)
      unit.images = max_of(min_of(fit / out_height_, p_.images / p_.threads), 1);
    return unit;
  }

  int64_t unit_count() const {
    return ceil_div(p_.images, unit_.images) * ceil_div(out_height_, unit_.rows) *
           ceil_div(out_width_, unit_.cols);
  }

  Place place(int64_t unit) const {
    const int64_t across = max_of(ceil_div(out_width_, unit_.cols), 1);
    const int64_t down = ceil_div(out_height_, unit_.rows);
    Place at;
    at.col = unit % across * unit_.cols;
    at.row = unit / across % down * unit_.rows;
    at.image = unit / across / down * unit_.images;
    at.images = min_of(unit_.images, p_.images - at.image);
    at.rows = min_of(unit_.rows, out_height_ - at.row);
    at.cols = min_of(unit_.cols, out_width_ - at.col);
    return at;
  }

  void list_offsets() {
    const int64_t row = column_phases_ * pitch_;
    const int64_t pitch = direct_ ? p_.outputs : lanes_;
    int64_t position = 0;
    for (int64_t ky = 0; ky < p_.kernel_height; ++ky)
      for (int64_t kx = 0; kx < p_.kernel_width; ++kx)
        for (int64_t c = 0; c < p_.channels; ++c, ++position) {
          const int64_t col = kx * p_.dilation_across, step = p_.stride_across;
          const int64_t at =
              c * plane_ + ky * p_.dilation_down * row + col % step * pitch_ + col / step;
          rows_.data[position] = {at * int64_t(sizeof(A)), position * pitch};
        }
    int64_t* offset = offsets_.data;
    for (int64_t b = 0; b < unit_.images; ++b)
      for (int64_t i = 0; i < unit_.rows; ++i)
        for (int64_t g = 0; g < row_groups_; ++g)
          *offset++ = (b * p_.channels * plane_ + i * p_.stride_down * row + g * kGroup) *
                      int64_t(sizeof(A));
  }

  void run_unit(int64_t unit, int thread) const {
    const Place at = place(unit);
    A* planes = planes_.data + thread * planes_size();
    fill_shift(planes, at.images * p_.channels * plane_);
    for (int64_t b = 0; b < at.images; ++b) split(planes + b * p_.channels * plane_, at, b);
    B* data = panels_.data + thread * panel_size();
    uint32_t* sums = sums_.data + thread * sums_size();
    const int64_t depth = at.images * at.rows * row_groups_;
    for (int64_t lane = 0, vectors; lane < lanes_; lane += vectors * kLanes) {
      vectors = panel_vectors((lanes_ - lane) / kLanes);
      pack_errors(data, at, lane, vectors * kLanes);
      add_shifts(int(vectors), data, depth, shifts_.data + thread * lanes_ + lane);
      multiply_all(int(vectors), {data, offsets_.data, depth},
                   reinterpret_cast<const char*>(planes), reinterpret_cast<int32_t*>(sums) + lane,
                   nullptr, vectors * kLanes);
    }
  }

  // The threads take panels of the only unit in turn.
  void run_direct(Team team) const {
    const Place at = place(0);
    A* planes = planes_.data + team.index * planes_size();
    fill_shift(planes, p_.channels * plane_);
    split(planes, at, 0);
    B* data = panels_.data + team.index * panel_size();
    int64_t turn = 0;
    for (int64_t lane = 0, vectors; lane < lanes_; lane += vectors * kLanes) {
      vectors = panel_vectors((lanes_ - lane) / kLanes);
      if (turn++ % team.size != team.index) continue;
      pack_errors(data, at, lane, vectors * kLanes);
      uint32_t bias[kMaxVectors * kLanes];
      shift_sums(int(vectors), data, depth_, bias);
      for (int64_t i = 0; i < vectors * kLanes; ++i) bias[i] = 0u - bias[i];
      multiply_all(int(vectors), {data, offsets_.data, depth_},
                   reinterpret_cast<const char*>(planes), dw_ + lane,
                   reinterpret_cast<const int32_t*>(bias), p_.outputs - lane);
    }
  }

  // Inputs of one image into planes that hold zeros.
  void split(A* planes, const Place& at, int64_t b) const {
    for (int64_t y = 0; y < unit_rows(at.rows); ++y) {
      const int64_t source = at.row * p_.stride_down - p_.top + y, step = p_.stride_across;
      if (y % p_.stride_down >= span_down(p_) || source < 0 || source >= p_.height) continue;
      const int8_t* row = x_ + ((at.image + b) * p_.height + source) * p_.width * x_pitch_;
      for (int64_t f = 0; f < column_phases_; ++f) {
        // Number j of a plane's row is column first + j * stride.
        const int64_t first = at.col * step - p_.left + f;
        const int64_t begin = first < 0 ? ceil_div(-first, step) : 0;
        const int64_t end = min_of(ceil_div(max_of(p_.width - first, 0), step), pitch_);
        if (begin >= end) continue;
        transpose(planes + (y * column_phases_ + f) * pitch_ + begin, plane_,
                  row + (first + begin * step) * x_pitch_, step * x_pitch_, end - begin,
                  p_.channels);
      }
    }
  }

  void pack_errors(B* out, const Place& at, int64_t lane, int64_t lanes) const {
    const int64_t channels = min_of(lanes, p_.outputs - lane);
    for (int64_t b = 0; b < at.images; ++b)
      for (int64_t i = 0; i < at.rows; ++i) {
        const int64_t row = ((at.image + b) * out_height_ + at.row + i) * out_width_ + at.col;
        const int8_t* errors = e_ + row * e_pitch_ + lane;
        for (int64_t g = 0; g < row_groups_; ++g, out += lanes * kGroup) {
          const int8_t* sources[kGroup];
          for (int j = 0; j < kGroup; ++j) {
            const int64_t col = g * kGroup + j;
            sources[j] = col < at.cols ? errors + col * e_pitch_ : zeros_.data;
          }
          interleave(out, sources, channels);
          if (channels < lanes)
            memset(out + channels * kGroup, 0, size_t((lanes - channels) * kGroup) * sizeof(B));
        }
      }
  }

  static void add_shifts(int vectors, const B* panel, int64_t depth, uint32_t* shifts) {
    uint32_t here[kMaxVectors * kLanes];
    shift_sums(vectors, panel, depth, here);
    for (int i = 0; i < vectors * kLanes; ++i) shifts[i] += here[i];
  }

  void multiply_all(int vectors, const Panel& panel, const char* planes, int32_t* out,
                    const int32_t* init, int64_t channels) const {
    Rows rows;
    rows.list = rows_.data;
    rows.count = positions_;
    rows.a = planes;
    rows.out = out;
    rows.init = init;
    rows.channels = channels;
    rows.peak = nullptr;
    rows.pair = p_.channels % 2 ? 0 : plane_ * int64_t(sizeof(A));
    rows.scattered = false;
    multiply(vectors, panel, rows);
  }

  // The threads' sums, less what the shift of the inputs added, in the order of the weights.
  void gather(Team team) const {
    const int64_t blocks = ceil_div(positions_, kGatherRows);
    for (int64_t block = team.index; block < blocks; block += team.size) {
      const int64_t first = block * kGatherRows;
      const int64_t last = min_of(first + kGatherRows, positions_);
      for (int64_t lane = 0; lane < lanes_; lane += kLanes) {
        const int64_t lanes = min_of(kLanes, p_.outputs - lane);
        for (int64_t m = first; m < last; ++m) put(m, lane, lanes, total(team, m, lane));
      }
    }
  }

  Vec total(Team team, int64_t position, int64_t lane) const {
    Vec sum = zero();
    for (int t = 0; t < team.size; ++t) {
      const Vec shift = load(shifts_.data + t * lanes_ + lane);
      const Vec sums = load(sums_.data + t * sums_size() + position * lanes_ + lane);
      sum = subtract(sum, subtract(shift, sums));
    }
    return sum;
  }

  void put(int64_t position, int64_t lane, int64_t lanes, Vec sum) const {
    if (pointwise_) return store_first(dw_ + position * p_.outputs + lane, sum, lanes);
    int32_t all[kLanes];
    store(all, sum);
    for (int64_t l = 0; l < lanes; ++l) dw_[(lane + l) * positions_ + position] = all[l];
  }
};

}  // namespace L1BN_ISA
}  // namespace int8_conv
}  // namespace l1bn
