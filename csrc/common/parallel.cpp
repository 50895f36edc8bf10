#include "common/parallel.h"

extern "C" {
// The interface of libgomp, which the LLVM and Intel runtimes offer too.
__attribute__((weak)) void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);
__attribute__((weak)) void GOMP_barrier(void);
__attribute__((weak)) int omp_get_thread_num(void);
__attribute__((weak)) int omp_get_num_threads(void);
}

namespace l1bn {

bool threaded() {
  return GOMP_parallel && GOMP_barrier && omp_get_thread_num && omp_get_num_threads;
}

void Team::wait() const {
  if (size > 1) GOMP_barrier();
}

namespace {
struct Call {
  Work work;
  void* data;
};

void enter(void* raw) {
  const Call* call = static_cast<const Call*>(raw);
  call->work(call->data, Team{omp_get_thread_num(), omp_get_num_threads()});
}
}  // namespace

void parallel(int threads, Work work, void* data) {
  if (threads <= 1 || !threaded()) {
    work(data, Team{0, 1});
    return;
  }
  Call call{work, data};
  GOMP_parallel(enter, &call, static_cast<unsigned>(threads), 0);
}

}  // namespace l1bn
