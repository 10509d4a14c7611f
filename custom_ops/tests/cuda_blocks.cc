#include "cuda_blocks.h"

#include <deque>
#include <functional>
#include <limits>
#include <vector>

#include "../cuda/block.h"
#include "../cuda/layout.h"

namespace tfc::cuda {
namespace {

// All threads of a block; see ../cuda/block.h. Up to a barrier, one thread does all it can before the next begins:
// a barrier that is missing shows in one of the two orders.
template <int kSums>
class HostTeam {
 public:
  HostTeam(int threads, tfc_blocks_order order) : order_(order), members_(threads) {}

  template <typename Work>
  void Each(Work work) {
    steps_.push_back([=](int thread) { work(thread, members_[thread].sums); });
  }

  void Meet() {
    const auto count = static_cast<int>(members_.size());
    for (int i = 0; i < count; ++i) {
      now_ = order_.last_thread_first ? count - 1 - i : i;
      for (const auto& step : steps_) step(now_);
    }
    steps_.clear();
  }

  void Copy(float* to, const float* from, bool on) {
    const Copied copy = {to, from, on};
    order_.late_copies ? members_[now_].open.push_back(copy) : copy.End();
  }

  void Commit() {
    steps_.push_back([this](int thread) {
      Member& member = members_[thread];
      member.committed.push_back(std::move(member.open));
      member.open.clear();
    });
  }

  template <int kLeft>
  void Arrive() {
    steps_.push_back([this](int thread) {
      auto& committed = members_[thread].committed;
      for (; committed.size() > kLeft; committed.pop_front()) {
        for (const Copied& copy : committed.front()) copy.End();
      }
    });
  }

 private:
  struct Copied {
    float* to;
    const float* from;
    bool on;

    void End() const { *to = on ? *from : 0.0f; }
  };

  struct Member {
    float sums[kSums];
    std::vector<Copied> open;
    std::deque<std::vector<Copied>> committed;
  };

  tfc_blocks_order order_;
  std::vector<Member> members_;
  std::vector<std::function<void(int)>> steps_;  // since the last barrier
  int now_ = 0;                                  // the thread that is running
};

// Shared memory has its exact size, in two pieces, so that sanitizers see where it ends.
template <int kBundle, int kPixels>
void RunBlocks(const Job& job, int64_t blocks, int32_t shared_bytes, int32_t table_entries,
               tfc_blocks_order order) {
  const size_t floats = (shared_bytes - table_entries * sizeof(int64_t)) / sizeof(float);
  for (int64_t block = 0; block < blocks; ++block) {
    std::vector<int64_t> pixels(table_entries, -1);
    std::vector<float> shared(floats, std::numeric_limits<float>::quiet_NaN());
    HostTeam<kBundle * kPixels> team(job.warps * kWarp, order);
    RunBlock<kBundle, kPixels>(job, block, pixels.data(), shared.data(), team);
  }
}

using Function = void (*)(const Job&, int64_t, int32_t, int32_t, tfc_blocks_order);

#define TFC_BLOCKS_FUNCTION(bundle, pixels) RunBlocks<bundle, pixels>,
constexpr Function kFunctions[] = {TFC_CUDA_KERNELS(TFC_BLOCKS_FUNCTION)};
#undef TFC_BLOCKS_FUNCTION

}  // namespace

void RunOnHost(int32_t kernel, const Job& job, int64_t blocks, int32_t shared_bytes, int32_t table_entries,
               tfc_blocks_order order) {
  kFunctions[kernel](job, blocks, shared_bytes, table_entries, order);
}

}  // namespace tfc::cuda

const char* tfc_blocks_kernel_name(int32_t index) {
  return index < 0 || index >= tfc::cuda::kKernelCount ? nullptr : tfc::cuda::kKernels[index].name;
}

tfc_status tfc_blocks_run(const tfc_shape* shape, const tfc_weights* weights, const float* bias,
                          tfc_activation activation, const tfc_blocks_options* options, const float* input,
                          float* output, int32_t batch) {
  using namespace tfc::cuda;
  const Device device = {options->multiprocessors, options->shared_bytes, options->shared_bytes, 4};
  const char* kernel = options->kernel;
  Layout layout;
  if (const auto status = CheckArguments(*shape, *weights, bias, activation, kernel, options->batch)) {
    return status;
  }
  if (const auto status = MakeLayout(*shape, *weights, activation, kernel, options->batch, device, &layout)) {
    return status;
  }
  const float* given = options->values == nullptr ? weights->values : options->values;
  std::vector<float> values(layout.origins.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = Gather(layout.origins.data(), given, i);
  Job job = layout.JobOf(input, output, batch);
  job.sources = layout.sources.data();
  job.planes = layout.planes.data();
  job.first_chunks = layout.first_chunks.data();
  job.chunks = layout.chunks.data();
  job.first_quads = layout.first_quads.data();
  job.offsets = layout.offsets.data();
  job.values = values.data();
  job.bias = bias;
  RunOnHost(layout.kernel, job, job.Blocks(layout.Images(batch)), layout.shared_bytes, layout.TableEntries(),
            options->order);
  return TFC_OK;
}
