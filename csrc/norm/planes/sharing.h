// How the channels of layout `planes` are shared out, and the sums that members keep of them.
#pragma once
#include "common/plan.h"
#include "norm/channel.h"
#include "norm/planes/walk.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

// Channels that a team works on together.
struct Batch {
  Team team;
  int area;              // the first member's place in buffers that have one per thread
  int64_t first, count;  // channels
  int64_t begin, end;    // those of them, from `first`, whose scalars this member computes

  Share share(int64_t outer, int64_t inner) const {
    return Share::of(outer, inner, team.index, team.size);
  }
};

// f(batch): all members together, sharing the planes, or each with channels of its own.
template <class F>
void for_batches(const Plan& plan, int64_t channels, const Team& team, F&& f) {
  const Team crew = plan.split ? team : Team{0, 1};
  const int64_t first = plan.split ? 0 : channels * team.index / team.size;
  const int64_t last = plan.split ? channels : channels * (team.index + 1) / team.size;
  for (int64_t c = first; c < last; c += plan.batch) {
    const int64_t count = last - c < plan.batch ? last - c : plan.batch;
    f(Batch{crew, plan.split ? 0 : team.index, c, count, count * crew.index / crew.size,
            count * (crew.index + 1) / crew.size});
  }
}

// `kinds` sums per channel of a batch for each thread.
template <class A>
class MemberSums {
 public:
  MemberSums(const Plan& plan, int kinds)
      : kinds_(kinds),
        width_(plan.batch),
        recent_(size_t(plan.threads) * kinds * plan.batch),
        total_(size_t(plan.threads) * kinds * plan.batch) {}

  bool allocated() const { return !kinds_ || (recent_.get() && total_.get()); }

  Sums<A> of(const Batch& batch, int kind) const {
    const int64_t place = at(batch.area + batch.team.index, kind);
    return {recent_.get() + place, total_.get() + place, batch.count};
  }

  // Over the members of the batch, for its i-th channel.
  double total(const Batch& batch, int kind, int64_t i) const {
    Pack<double> sum = Pack<double>::all(0);
    for (int member = 0; member < batch.team.size; ++member)
      sum += total_.get()[at(batch.area + member, kind) + i].lanes;
    return horizontal_sum(sum);
  }

 private:
  int64_t at(int member, int kind) const { return (int64_t(member) * kinds_ + kind) * width_; }

  int kinds_;
  int64_t width_;
  Buffer<Pack<A>> recent_;
  Buffer<Wide> total_;
};

// True once every `often` calls.
class Countdown {
 public:
  explicit Countdown(int64_t often) : often_(often), left_(often) {}
  L1BN_INLINE bool due() {
    if (--left_) return false;
    left_ = often_;
    return true;
  }

 private:
  int64_t often_, left_;
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
