// Blocks of mapped memory, kept when they are free and taken again.
#pragma once
#include <pthread.h>
#include <stdint.h>

namespace l1bn {

// Memory of one tensor. `data` lies within the mapping.
struct Block {
  void* mapping;
  int64_t size;  // of the mapping [bytes]
};

class Pool {
 public:
  // A block of at least `bytes`; its mapping is null where the system has no memory.
  Block take(int64_t bytes);
  void give(Block block);

  // What is there now, as of one moment.
  struct State {
    int64_t used, kept, limit, mapped;
  };
  State state();
  void set_limit(int64_t bytes);

  // Around fork(): the child must not find the lock held by a thread that it does not have.
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }

 private:
  struct Free {
    Block block;
    int64_t since;  // [s]
  };
  enum { kMost = 1024 };

  int find(int64_t size) const;
  Block remove(int index);
  void shrink(int64_t limit, int64_t idle_since);

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  Free free_[kMost];  // the longest free first
  int count_ = 0;
  State state_ = {0, 0, 0, 0};
};

Pool& pool();

}  // namespace l1bn
