#include "plan.h"

#include <algorithm>

#include <sys/mman.h>
#include <unistd.h>

namespace l1bn {
namespace {

constexpr int64_t kMaxBatch = 64;
// Below this many elements a second thread costs more than it brings.
constexpr int64_t kPerThread = 16 * 1024;

int64_t cache_size(int name, int64_t otherwise) {
  const long size = name < 0 ? 0 : sysconf(name);
  return size > 0 ? static_cast<int64_t>(size) : otherwise;
}

Caches detect() {
#ifdef _SC_LEVEL3_CACHE_SIZE
  const int64_t second = cache_size(_SC_LEVEL2_CACHE_SIZE, 512 << 10);
  return {second, std::max(second, cache_size(_SC_LEVEL3_CACHE_SIZE, 8 << 20))};
#else
  return {512 << 10, 8 << 20};
#endif
}

int useful_threads(int64_t elements, int64_t threads) {
  return static_cast<int>(std::max<int64_t>(1, std::min(threads, elements / kPerThread)));
}

}  // namespace

const Caches& caches() {
  static const Caches found = detect();
  return found;
}

Plan plan_planes(int64_t outer, int64_t channels, int64_t inner, int64_t element, int touched,
                 int64_t threads) {
  Plan plan;
  const int64_t slice = outer * inner * element * touched;
  plan.threads = useful_threads(outer * channels * inner, threads);
  plan.streaming = outer * channels * inner * element > caches().last / 2;
  // Enough channels that a run of memory is long (small planes alias in the cache sets), few
  // enough that the batch stays in the second-level cache.
  const int64_t wanted = (4096 + inner * element - 1) / (inner * element);
  const int64_t fits = std::max<int64_t>(1, caches().second * 3 / 4 / std::max<int64_t>(1, slice));
  plan.batch = std::min({wanted, fits, kMaxBatch, channels});
  const int64_t batches = (channels + plan.batch - 1) / plan.batch;
  plan.split = plan.threads > 1 && batches < 4 * plan.threads && batches % plan.threads != 0;
  if (plan.split) plan.batch = std::min(channels, kMaxBatch);
  return plan;
}

Plan plan_rows(int64_t rows, int64_t channels, int64_t element, int64_t threads) {
  Plan plan;
  plan.threads = useful_threads(rows * channels, threads);
  plan.streaming = rows * channels * element > caches().last / 2;
  plan.split = true;
  // Whole rows: blocks of channels that would fit the last-level cache read memory in short pieces,
  // which costs more than reading it again in its order (docs/notes.md).
  plan.batch = channels;
  return plan;
}

void expect_large(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kWorthwhile = 4 << 20;
  if (bytes < kWorthwhile) return;
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
  // A hint: where it fails, small pages serve.
  (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace l1bn
