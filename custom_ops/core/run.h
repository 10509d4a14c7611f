// Running a plan.
#ifndef TFCOMPRESS_RUN_H_
#define TFCOMPRESS_RUN_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "plan.h"
#include "threads.h"

namespace tfc {

// Of floats, or of int8.
struct Maps {
  const void* input;
  const void* residual;  // or NULL
  void* output;
};

// Into how many parts the work of a region is divided: few regions may leave threads without any. Each part
// prepares the input anew, so that a fifth of the time is left to waste before it is.
inline int32_t PartsOf(int64_t regions, int32_t shares, int32_t threads) {
  const int64_t rounds = (regions + threads - 1) / threads;
  return rounds * threads * 5 > regions * 6 ? std::min(shares, threads) : 1;
}

// Shares out regions times shares of filters among threads. On each thread `run(tasks)` is called once, which
// calls `tasks(work)`, and that calls `work(region, first share, shares)` until nothing is left; false where
// there is no memory.
template <typename RunTasks>
tfc_status ShareOut(int64_t regions, int32_t shares, int32_t threads, const RunTasks& run) {
  const int32_t parts = PartsOf(regions, shares, threads);
  const int64_t count = regions * parts;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  const auto tasks = [&](const auto& work) {
    for (int64_t i = next++; i < count; i = next++) {
      const auto part = static_cast<int32_t>(i % parts);
      const auto first = static_cast<int32_t>(int64_t{part} * shares / parts);
      work(i / parts, first, static_cast<int32_t>(int64_t{part + 1} * shares / parts) - first);
    }
  };
  RunOnThreads(static_cast<int32_t>(std::min<int64_t>(threads, std::max<int64_t>(count, 1))), [&](int32_t) {
    if (!run(tasks)) failed = true;
  });
  return failed && next < count ? TFC_NO_MEMORY : TFC_OK;
}

tfc_status RunLanes(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads);
tfc_status RunBlocks(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads);

inline tfc_status Run(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads) {
  const bool lanes = plan.structure->outline.kernel->lanes != nullptr;
  return lanes ? RunLanes(plan, maps, batch, threads) : RunBlocks(plan, maps, batch, threads);
}

}  // namespace tfc

#endif  // TFCOMPRESS_RUN_H_
