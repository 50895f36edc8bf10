// Rows of fewer than sixteen channels and planes of fewer than sixteen elements: sixteen elements,
// a pack, hold several rows or planes. Which channel a lane has repeats from step to step, a step
// being as many packs as it takes, or more.
#pragma once
#include "common/plan.h"
#include "norm/channel.h"
#include "norm/part.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

// Fewer elements are left to the code for one value at a time, which has less to prepare.
inline bool is_slim(const l1bn_problem& p) {
  const bool slim = p.inner == 1 ? p.channels < kLanes : p.inner < kLanes;
  return slim && p.outer * p.channels * p.inner >= 2048 && p.outer >= kLanes;
}

template <class T>
class Slim {
 protected:
  using A = Acc<T>;
  using P = Pack<A>;
  static constexpr int64_t kTileSteps = 64;  // between two flushes of single precision into double
  static constexpr int kConstants = 7;

  Slim(const l1bn_problem& p, int kinds)
      : problem_(p),
        channels_(p.channels),
        inner_(p.inner),
        elements_(p.outer * p.channels * p.inner),
        packs_(packs_of(p.channels * p.inner)),
        steps_(elements_ / (packs_ * kLanes)),
        threads_(plan_rows(p.outer, p.channels * p.inner, sizeof(T), p.threads).threads),
        kinds_(kinds),
        sums_(size_t(threads_) * kinds * packs_),
        recent_(size_t(threads_) * kinds * packs_),
        constants_(size_t(threads_) * kConstants * packs_),
        totals_(size_t(threads_) * kinds * channels_) {}

  bool allocated() const {
    return sums_.get() && recent_.get() && constants_.get() && totals_.get();
  }

  // Of this member: a pack for each of a step.
  P* constant(const Team& team, int which) const {
    return constants_.get() + (int64_t(team.index) * kConstants + which) * packs_;
  }

  // f(lane of the step, channel) over a step.
  template <class F>
  void for_lanes(F&& f) const {
    int64_t lane = 0;
    while (lane < packs_ * kLanes)
      for (int64_t c = 0; c < channels_; ++c)
        for (int64_t i = 0; i < inner_; ++i) f(lane++, c);
  }

  // A pack for each of a step, from a value for each channel.
  template <class F>
  void fill(P* to, F&& value) const {
    A* const lanes = reinterpret_cast<A*>(to);
    int64_t lane = 0;
    while (lane < packs_ * kLanes)
      for (int64_t c = 0; c < channels_; ++c) {
        const A of_channel = A(value(c));
        for (int64_t i = 0; i < inner_; ++i) lanes[lane++] = of_channel;
      }
  }

  // f(how, pack of the step, element) over this member's part, and flush() every few steps.
  template <class F, class G>
  void walk(const Team& team, F&& f, G&& flush) const {
    const int64_t first = steps_ * team.index / team.size;
    const int64_t last = steps_ * (team.index + 1) / team.size;
    for (int64_t step = first; step < last;) {
      const int64_t stop = step + kTileSteps < last ? step + kTileSteps : last;
      for (; step < stop; ++step)
        for (int64_t q = 0; q < packs_; ++q) f(Full{}, q, (step * packs_ + q) * kLanes);
      flush();
    }
    if (team.index != team.size - 1) return;
    int64_t at = steps_ * packs_ * kLanes;
    int64_t q = 0;
    for (; at + kLanes <= elements_; at += kLanes, ++q) f(Full{}, q, at);
    if (at < elements_) f(Part{int(elements_ - at)}, q, at);
    flush();
  }

  // Sums of term(how, pack of the step, element, sums), which adds to `kKinds` packs.
  template <int kKinds, class F>
  void accumulate(const Team& team, int kind, F&& term) const {
    const int64_t place = (int64_t(team.index) * kinds_ + kind) * packs_;
    Wide* const out = sums_.get() + place;
    P* const recent = recent_.get() + place;
    for (int64_t i = 0; i < kKinds * packs_; ++i) {
      out[i].clear();
      recent[i] = P::all(0);
    }
    walk(
        team,
        [&](auto how, int64_t q, int64_t at)
            L1BN_INLINED { term(how, q, at, recent + kKinds * q); },
        [&] {
          for (int64_t i = 0; i < kKinds * packs_; ++i) {
            out[i].add(recent[i]);
            recent[i] = P::all(0);
          }
        });
  }

  // Of each channel over all members, of one of the kinds that were summed together.
  template <int kKinds>
  const double* total(const Team& team, int kind, int which) const {
    double* const out = totals_.get() + (int64_t(team.index) * kinds_ + kind + which) * channels_;
    for (int64_t c = 0; c < channels_; ++c) out[c] = 0;
    double lanes[kLanes];
    for_lanes([&](int64_t lane, int64_t c) {
      if (lane % kLanes == 0) {
        Pack<double> sum = Pack<double>::all(0);
        for (int member = 0; member < team.size; ++member)
          sum += sums_
                     .get()[(int64_t(member) * kinds_ + kind) * packs_ + lane / kLanes * kKinds +
                            which]
                     .lanes;
        sum.store(lanes);
      }
      out[c] += lanes[lane % kLanes];
    });
    return out;
  }

  double param(const void* vector, int64_t c, double missing) const {
    return read_param(vector, problem_.param_dtype, c, missing);
  }

  const l1bn_problem& problem_;
  const int64_t channels_, inner_, elements_;
  const int64_t packs_;  // of a step
  const int64_t steps_;
  const int threads_;
  const int kinds_;
  Buffer<Wide> sums_;      // [member][pack][kind], of those summed together
  Buffer<P> recent_;       // the same, not yet flushed
  Buffer<P> constants_;    // [member][which][pack]
  Buffer<double> totals_;  // [member][kind][channel]

 private:
  // Until the channels repeat, and at least eight: an addition must not wait for the one before.
  static int64_t packs_of(int64_t row) {
    int64_t period = row;
    for (int i = 0; i < 4 && period % 2 == 0; ++i) period /= 2;  // a sixteenth, where that is whole
    int64_t packs = period;
    while (packs < 8) packs += period;
    return packs;
  }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
