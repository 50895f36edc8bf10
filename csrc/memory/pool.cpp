#include "memory/pool.h"

#include <string.h>
#include <sys/mman.h>
#include <time.h>

namespace l1bn {
namespace {

constexpr int64_t kPage = 64 << 10;  // the largest small page of any system
constexpr int64_t kLargePage = 2 << 20;
// From here on a block is asked for in large pages, and the system may have them while the block is
// free. With small pages that would cost as much as fresh ones.
constexpr int64_t kLarge = 4 << 20;
// A block that nobody took for so long goes back to the system [s].
constexpr int64_t kIdle = 10;

int64_t now() {
  timespec found;
  clock_gettime(CLOCK_MONOTONIC, &found);
  return found.tv_sec;
}

int64_t rounded(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

void unmap(Block block) { munmap(block.mapping, static_cast<size_t>(block.size)); }

void* map(int64_t size) {
  void* const found = mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return found == MAP_FAILED ? nullptr : found;
}

// A new mapping; a large one begins at a large page.
void* map_aligned(int64_t size) {
  if (size < kLarge) return map(size);
  char* const found = static_cast<char*>(map(size + kLargePage));
  if (!found) return nullptr;
  const int64_t address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(found));
  const int64_t lead = rounded(address, kLargePage) - address;
  if (lead > 0) munmap(found, static_cast<size_t>(lead));
  if (lead < kLargePage) munmap(found + lead + size, static_cast<size_t>(kLargePage - lead));
#if defined(MADV_HUGEPAGE)
  (void)madvise(found + lead, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
  return found + lead;
}

}  // namespace

int Pool::find(int64_t size) const {
  int best = -1;
  // The last one given back is the likeliest to be in the caches.
  for (int i = count_ - 1; i >= 0; --i) {
    const int64_t found = free_[i].block.size;
    if (found < size || found > size + size / 8) continue;
    if (found == size) return i;
    if (best < 0 || found < free_[best].block.size) best = i;
  }
  return best;
}

Block Pool::remove(int index) {
  const Block block = free_[index].block;
  --count_;
  memmove(&free_[index], &free_[index + 1], sizeof(Free) * static_cast<size_t>(count_ - index));
  state_.kept -= block.size;
  return block;
}

void Pool::shrink(int64_t limit, int64_t idle_since) {
  while (count_ > 0 && (state_.kept > limit || free_[0].since < idle_since)) unmap(remove(0));
}

Block Pool::take(int64_t bytes) {
  const int64_t size = rounded(bytes, kPage);
  lock();
  const int index = find(size);
  Block block = {nullptr, size};
  if (index >= 0) {
    block = remove(index);
  } else {
    block.mapping = map_aligned(size);
    if (!block.mapping) {
      shrink(0, 0);
      block.mapping = map_aligned(size);
    }
    state_.mapped += block.mapping != nullptr;
  }
  if (block.mapping) state_.used += block.size;
  unlock();
  return block;
}

void Pool::give(Block block) {
  const int64_t time = now();
  lock();
  state_.used -= block.size;
  const bool keep = block.size <= state_.limit;
  shrink(state_.limit - (keep ? block.size : 0), time - kIdle);
  if (!keep) {
    unmap(block);
  } else {
    if (count_ == kMost) unmap(remove(0));
#if defined(MADV_FREE)
    if (block.size >= kLarge)
      (void)madvise(block.mapping, static_cast<size_t>(block.size), MADV_FREE);
#endif
    free_[count_++] = {block, time};
    state_.kept += block.size;
  }
  unlock();
}

Pool::State Pool::state() {
  lock();
  const State found = state_;
  unlock();
  return found;
}

void Pool::set_limit(int64_t bytes) {
  lock();
  state_.limit = bytes;
  shrink(state_.limit, 0);
  unlock();
}

// Never destroyed: tensors may outlive every other object of the process.
Pool& pool() {
  static Pool* const found = [] {
    pthread_atfork([] { pool().lock(); }, [] { pool().unlock(); }, [] { pool().unlock(); });
    return new Pool;
  }();
  return *found;
}

}  // namespace l1bn
