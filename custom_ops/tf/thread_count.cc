#include "thread_count.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace {

std::atomic<int32_t> set_threads{0};

int32_t Processors() {
#if defined(__linux__)
  cpu_set_t allowed;  // it holds 1024; where the machine has more, the call fails
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return CPU_COUNT(&allowed);
#endif
  return static_cast<int32_t>(std::thread::hardware_concurrency());
}

int32_t DefaultThreads() {
  const char* text = std::getenv("TF_NUM_INTRAOP_THREADS");
  const int asked = text == nullptr ? 0 : std::atoi(text);
  return std::max(1, asked > 0 ? asked : Processors());
}

}  // namespace

int32_t ThreadsToUse() {
  static const int32_t default_threads = DefaultThreads();
  const int32_t threads = set_threads;
  return threads > 0 ? threads : default_threads;
}

void UseThreads(int32_t threads) { set_threads = threads; }
