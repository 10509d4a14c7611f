// Running a plan.
#ifndef TFCOMPRESS_RUN_H_
#define TFCOMPRESS_RUN_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

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

// Tasks in turn, of which each thread takes those of a range of its own before it takes those of others: so from
// one convolution to the next it mostly reads what it wrote itself, and has in its cache.
class Tasks {
 public:
  Tasks(int64_t count, int32_t threads) : ranges_(threads) {
    for (int32_t i = 0; i < threads; ++i) {
      ranges_[i].next = count * i / threads;
      ranges_[i].end = count * (i + 1) / threads;
    }
  }

  // Calls work(task) until nothing is left.
  template <typename Work>
  void Take(int32_t slot, const Work& work) {
    const size_t threads = ranges_.size();
    for (size_t i = 0; i < threads; ++i) {
      Range& range = ranges_[(slot + i) % threads];
      for (int64_t task = range.next++; task < range.end; task = range.next++) work(task);
    }
  }

  bool Left() const {
    return std::any_of(ranges_.begin(), ranges_.end(), [](const Range& range) { return range.next < range.end; });
  }

 private:
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  std::vector<Range> ranges_;
};

// Shares out regions times shares of filters among threads. On each thread `run(tasks)` is called once, which
// calls `tasks(work)`, and that calls `work(region, first share, shares)` until nothing is left; false where
// there is no memory.
template <typename RunTasks>
tfc_status ShareOut(int64_t regions, int32_t shares, int32_t threads, const RunTasks& run) {
  const int32_t parts = PartsOf(regions, shares, threads);
  const int64_t count = regions * parts;
  threads = static_cast<int32_t>(std::min<int64_t>(threads, std::max<int64_t>(count, 1)));
  Tasks all(count, threads);
  std::atomic<bool> failed{false};
  RunOnThreads(threads, [&](int32_t slot) {
    const auto tasks = [&](const auto& work) {
      all.Take(slot, [&](int64_t i) {
        const auto part = static_cast<int32_t>(i % parts);
        const auto first = static_cast<int32_t>(int64_t{part} * shares / parts);
        work(i / parts, first, static_cast<int32_t>(int64_t{part + 1} * shares / parts) - first);
      });
    };
    if (!run(tasks)) failed = true;
  });
  return failed && all.Left() ? TFC_NO_MEMORY : TFC_OK;
}

tfc_status RunLanes(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads);
tfc_status RunBlocks(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads);

inline tfc_status Run(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads) {
  const bool lanes = plan.structure->outline.kernel->lanes != nullptr;
  return lanes ? RunLanes(plan, maps, batch, threads) : RunBlocks(plan, maps, batch, threads);
}

}  // namespace tfc

#endif  // TFCOMPRESS_RUN_H_
