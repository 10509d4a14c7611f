// Running a plan.
#ifndef TFCOMPRESS_RUN_H_
#define TFCOMPRESS_RUN_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "division.h"
#include "plan.h"
#include "threads.h"

namespace tfc {

// Of floats, or of int8.
struct Maps {
  const void* input;
  const void* residual;  // or NULL
  void* output;
};

// The pieces of a division in turn. Each thread takes those of its own stretch before it takes those of others: so
// from one convolution to the next it mostly reads what it wrote itself, and has in its cache.
class Tasks {
 public:
  explicit Tasks(const Division& division) : division_(division), next_(division.Threads()) {}

  // Calls work(piece) until nothing is left.
  template <typename Work>
  void Take(int32_t slot, const Work& work) {
    const int32_t threads = division_.Threads();
    for (int32_t i = 0; i < threads; ++i) {
      const int32_t thread = (slot + i) % threads;
      const int64_t pieces = division_.Pieces(thread);
      for (int64_t piece = Next(thread)++; piece < pieces; piece = Next(thread)++) {
        work(division_.At(thread, piece));
      }
    }
  }

  bool Left() {
    for (int32_t thread = 0; thread < division_.Threads(); ++thread) {
      if (Next(thread) < division_.Pieces(thread)) return true;
    }
    return false;
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> value{0};
  };

  std::atomic<int64_t>& Next(int32_t thread) { return next_[thread].value; }

  const Division division_;
  std::vector<Counter> next_;
};

// Shares out the pieces of a division. On each thread `run(tasks)` is called once, which calls `tasks(work)`, and
// that calls `work(piece)` until nothing is left; false where there is no memory.
template <typename RunTasks>
tfc_status ShareOut(const Division& division, const RunTasks& run) {
  Tasks all(division);
  std::atomic<bool> failed{false};
  RunOnThreads(division.Threads(), [&](int32_t slot) {
    const auto tasks = [&](const auto& work) { all.Take(slot, work); };
    if (!run(tasks)) failed = true;
  });
  return failed && all.Left() ? TFC_NO_MEMORY : TFC_OK;
}

// Of a batch of images: shares of the filters of a region, or rows of a band, or columns where there is one row.
inline Division DivisionOf(const Outline& o, int32_t batch, int32_t threads) {
  if (o.kernel->lanes != nullptr) {
    const int32_t chunks = CeilDiv(o.shape.filters, o.tiling.chunk_filters);
    return {int64_t{batch} * o.tiling.Regions(), chunks * kShares, 1, threads};
  }
  const BlockTiling& t = o.block_tiling;
  const int64_t bands = int64_t{batch} * t.bands;
  if (t.ByColumns(o.size)) return {bands, o.size.width, t.tile.columns, threads};
  return {bands, t.band_rows, t.tile.rows, threads};
}

tfc_status RunLanes(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads);
tfc_status RunBlocks(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads);

inline tfc_status Run(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads) {
  const bool lanes = plan.structure->outline.kernel->lanes != nullptr;
  return lanes ? RunLanes(plan, maps, batch, threads) : RunBlocks(plan, maps, batch, threads);
}

}  // namespace tfc

#endif  // TFCOMPRESS_RUN_H_
