#include "common/plan.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace l1bn {
namespace {

// A plane longer than this can be shared.
constexpr int64_t kLongPlane = 2048;
// Below this many elements a second thread costs more than it brings.
constexpr int64_t kPerThread = 16 * 1024;

// What the kernel says of one cache of the first processor, such as "32768K"; 0 where it says
// nothing.
int64_t cache_size(int index, int* level) {
  char path[64];
  const char* const directory = "/sys/devices/system/cpu/cpu0/cache/index";
  snprintf(path, sizeof path, "%s%d/level", directory, index);
  FILE* file = fopen(path, "r");
  if (!file) return 0;
  const bool known = fscanf(file, "%d", level) == 1;
  fclose(file);
  snprintf(path, sizeof path, "%s%d/size", directory, index);
  file = known ? fopen(path, "r") : nullptr;
  if (!file) return 0;
  long size = 0;
  char unit = 0;
  const bool read = fscanf(file, "%ld%c", &size, &unit) >= 1;
  fclose(file);
  return read ? static_cast<int64_t>(size) << (unit == 'M' ? 20 : unit == 'K' ? 10 : 0) : 0;
}

// Not sysconf(): glibc takes all caches of an AMD processor together for one (glibc 2.36).
int64_t detect() {
  int64_t found = 0;
  for (int index = 0; index < 5; ++index) {
    int level = 0;
    const int64_t size = cache_size(index, &level);
    if (level >= 2) found = std::max(found, size);
  }
  return found > 0 ? found : 8 << 20;
}

// [bytes]
int64_t last_level_cache() {
  static const int64_t found = detect();
  return found;
}

int useful_threads(int64_t elements, int64_t threads) {
  return static_cast<int>(std::max<int64_t>(1, std::min(threads, elements / kPerThread)));
}

}  // namespace

Plan plan_planes(int64_t outer, int64_t channels, int64_t inner, int64_t element, int touched,
                 int64_t threads) {
  Plan plan;
  plan.threads = useful_threads(outer * channels * inner, threads);
  plan.streaming = outer * channels * inner * element > last_level_cache() / 2;
  // Planes shared out keep memory in its order; channels are for few and short planes.
  const int64_t blocks = outer * std::max<int64_t>(1, inner / kLongPlane);
  plan.split = blocks >= 4 * plan.threads || channels < plan.threads;
  // As many channels as the last-level cache holds from pass to pass: long runs of memory, where
  // the second-level cache would hold few and short ones (planes alias in its sets).
  const int64_t members = plan.split ? 1 : plan.threads;
  const int64_t share = (channels + members - 1) / members;
  const int64_t slice = outer * inner * element * touched * members, all = slice * share;
  const int64_t cache = last_level_cache();
  const int64_t wanted = all <= cache / 4 * 3 ? 1 : (all + cache / 4 - 1) / (cache / 4);
  const int64_t batches = std::min(wanted, share);
  plan.batch = (share + batches - 1) / batches;
  return plan;
}

Plan plan_rows(int64_t rows, int64_t channels, int64_t element, int64_t threads) {
  Plan plan;
  plan.threads = useful_threads(rows * channels, threads);
  plan.streaming = rows * channels * element > last_level_cache() / 2;
  return plan;
}

void expect_large(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kWorthwhile = 4 << 20;
  if (bytes < kWorthwhile) return;
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t last =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
  // A hint: where it fails, small pages serve.
  (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace l1bn
