// Threads borrowed from the process.
//
// The library links no OpenMP runtime. It asks for the one that PyTorch loaded, by weak symbols: a
// second pool of threads beside PyTorch's would slow both down. Without one a call runs on one
// thread.
#pragma once

namespace l1bn {

struct Team {
  int index, size;
  void wait() const;  // barrier; all members must reach it
};

using Work = void (*)(void* data, Team team);

// Run `work` on up to `threads` threads and return when all have finished.
void parallel(int threads, Work work, void* data);

bool threaded();

template <class F>
void parallel_run(int threads, F& body) {
  parallel(
      threads, [](void* data, Team team) { (*static_cast<F*>(data))(team); }, &body);
}

}  // namespace l1bn
