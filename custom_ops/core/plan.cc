// The C interface: plans are made, run and destroyed here.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "kernel.h"
#include "scratch.h"
#include "shape.h"
#include "sparse_conv.h"
#include "stream.h"
#include "threads.h"
#include "tiling.h"

namespace tfc {

// All of a plan but its numbers.
struct Structure {
  const Kernel* kernel;
  tfc_shape shape;
  OutputSize size;
  Range range;
  Tiling tiling;
  Stream stream;
};

}  // namespace tfc

struct tfc_plan {
  tfc_plan() { tfc::AddScratchUser(); }
  ~tfc_plan() { tfc::RemoveScratchUser(); }
  tfc_plan(const tfc_plan&) = delete;
  tfc_plan& operator=(const tfc_plan&) = delete;

  std::shared_ptr<const tfc::Structure> structure;
  std::vector<float> values;  // in the order of the stream
  std::vector<float> bias;
};

namespace tfc {
namespace {

constexpr const Kernel* kKernels[] = {
#define TFC_ADDRESS(name) &k##name,
    TFC_KERNELS(TFC_ADDRESS)
#undef TFC_ADDRESS
};

bool Compiled(const Kernel& kernel) { return kernel.supported != nullptr; }

// The kernels that are in this build.
std::vector<const Kernel*> Kernels() {
  std::vector<const Kernel*> found;
  std::copy_if(std::begin(kKernels), std::end(kKernels), std::back_inserter(found),
               [](const Kernel* kernel) { return Compiled(*kernel); });
  return found;
}

tfc_status FindKernel(const char* name, const Kernel** found) {
  for (const Kernel* kernel : Kernels()) {
    if (name != nullptr && std::strcmp(kernel->name, name) != 0) continue;
    if (kernel->supported()) {
      *found = kernel;
      return TFC_OK;
    }
    if (name != nullptr) return TFC_NOT_ON_THIS_CPU;
  }
  return TFC_BAD_ARGUMENT;
}

// A convolution that reads every pixel by itself does not care where rows end.
void Flatten(tfc_shape* s, OutputSize* size) {
  const bool alone = s->kernel_height == 1 && s->kernel_width == 1 && s->stride_height == 1 &&
                     s->stride_width == 1 && s->pad_top + s->pad_bottom + s->pad_left + s->pad_right == 0;
  if (!alone) return;
  s->width *= s->height;
  s->height = 1;
  *size = {1, s->width};
}

tfc_status MakeStructure(const tfc_shape& shape, const tfc_weights& weights, tfc_activation activation,
                         const char* kernel, std::shared_ptr<const Structure>* made) {
  auto structure = std::make_shared<Structure>();
  structure->shape = shape;
  if (const auto status = CheckShape(shape, &structure->size)) return status;
  if (const auto status = CheckIndices(shape, weights)) return status;
  if (const auto status = CheckActivation(activation, &structure->range)) return status;
  if (const auto status = FindKernel(kernel, &structure->kernel)) return status;
  Flatten(&structure->shape, &structure->size);
  AssignPlanes(structure->shape, weights, &structure->stream);
  const Work work = {weights.count, structure->stream.plane_count};
  structure->tiling = ChooseTiling(*structure->kernel, structure->shape, structure->size, work);
  if (structure->tiling.tile.run == nullptr) return TFC_TOO_LARGE;
  FillStream(structure->shape, weights, structure->tiling, &structure->stream);
  *made = std::move(structure);
  return TFC_OK;
}

tfc_status MakePlan(std::shared_ptr<const Structure> structure, const float* values, const float* bias,
                    tfc_plan** made) {
  const std::vector<int32_t>& source = structure->stream.source;
  const int32_t filters = structure->shape.filters;
  if (values == nullptr && !source.empty()) return TFC_BAD_ARGUMENT;
  if (const auto status = CheckFinite(values, static_cast<int64_t>(source.size()))) return status;
  if (bias != nullptr) {
    if (const auto status = CheckFinite(bias, filters)) return status;
  }
  auto plan = std::make_unique<tfc_plan>();
  plan->values.reserve(source.size());
  for (const int32_t place : source) plan->values.push_back(values[place]);
  plan->bias.assign(filters, 0.0f);
  if (bias != nullptr) std::copy_n(bias, filters, plan->bias.begin());
  plan->structure = std::move(structure);
  *made = plan.release();
  return TFC_OK;
}

// ---------------------------------------------------------------- running

// One region of one image, for some of the chunks.
struct Task {
  int32_t image, region_row, region_column;
  int32_t first_chunk, chunks;
};

// What one thread does and the memory it does it in: the planes of a block, the sums of a chunk, and zeros,
// which stand in for pixels off the map.
class Runner {
 public:
  Runner(const tfc_plan& plan, const float* input, float* output)
      : plan_(plan),
        structure_(*plan.structure),
        tiling_(structure_.tiling),
        input_(input),
        output_(output),
        plane_floats_(static_cast<ptrdiff_t>(tiling_.plane_lines) * kLanes),
        sum_floats_(static_cast<ptrdiff_t>(tiling_.Vectors()) * kLanes),
        pixels_(static_cast<size_t>(tiling_.Positions()) * kLanes),
        scratch_(PlaneFloats() + SumFloats() + structure_.shape.channels),
        planes_(scratch_.data()),
        sums_(planes_ + PlaneFloats()),
        zeros_(sums_ + SumFloats()) {
    if (planes_ != nullptr) std::fill_n(zeros_, structure_.shape.channels, 0.0f);
  }

  bool Ready() const { return planes_ != nullptr; }

  void Run(const Task& task) {
    task_ = task;
    FindPixels();
    for (int32_t c = 0; c < task.chunks; ++c) {
      const Chunk& chunk = structure_.stream.chunks[task.first_chunk + c];
      for (const Step& step : chunk.steps) {
        PackBlock(step);
        SumBlock(chunk, step);
      }
      UnpackTile(chunk);
    }
  }

 private:
  size_t PlaneFloats() const { return plane_floats_ * (tiling_.block_channels + 1); }
  size_t SumFloats() const { return sum_floats_ * structure_.stream.chunks.front().filters; }

  // The first output of a lane's tile.
  int32_t TileRow(int lane) const {
    return (task_.region_row * tiling_.lane_rows + lane / tiling_.lane_columns) * tiling_.tile.rows;
  }
  int32_t TileColumn(int lane) const {
    return (task_.region_column * tiling_.lane_columns + lane % tiling_.lane_columns) * tiling_.tile.columns;
  }

  void FindPixels() {
    const tfc_shape& s = structure_.shape;
    const float* image = input_ + task_.image * int64_t{s.height} * s.width * s.channels;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t top = int64_t{TileRow(lane)} * s.stride_height - s.pad_top;
      const int64_t left = int64_t{TileColumn(lane)} * s.stride_width - s.pad_left;
      const float** to = pixels_.data() + lane;
      for (const int32_t row : tiling_.rows.source) {
        const int64_t y = top + row;
        for (const int32_t column : tiling_.columns.source) {
          const int64_t x = left + column;
          const bool on = y >= 0 && y < s.height && x >= 0 && x < s.width;
          *to = on ? image + (y * s.width + x) * s.channels : zeros_;
          to += kLanes;
        }
      }
    }
  }

  void PackBlock(const Step& step) {
    structure_.kernel->pack({pixels_.data(), tiling_.Positions(), structure_.stream.planes.data(), step.first_channel,
                        step.end_channel, structure_.shape.channels, step.first_plane, step.planes, planes_, plane_floats_});
  }

  void SumBlock(const Chunk& chunk, const Step& step) {
    const Stream& stream = structure_.stream;
    TileJob job;
    job.counts = stream.counts.data() + step.first_count;
    job.slots = stream.slots.data() + step.first_count;
    job.lines = stream.lines.data() + step.first_weight;
    job.values = plan_.values.data() + step.first_weight;
    job.filters = chunk.filters;
    job.input = planes_;
    job.row_bytes = static_cast<ptrdiff_t>(tiling_.columns.source.size()) * kLanes * sizeof(float);
    job.sums = sums_;
    job.bias = &step == &chunk.steps.front() ? plan_.bias.data() + chunk.first_filter : nullptr;
    job.last = &step == &chunk.steps.back();
    job.low = structure_.range.low;
    job.high = structure_.range.high;
    tiling_.tile.run(job);
  }

  void UnpackTile(const Chunk& chunk) {
    const OutputSize size = structure_.size;
    float* image = output_ + task_.image * int64_t{size.height} * size.width * structure_.shape.filters;
    for (int32_t r = 0; r < tiling_.tile.rows; ++r) {
      for (int32_t c = 0; c < tiling_.tile.columns; ++c) {
        float* pixels[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
          const int64_t y = TileRow(lane) + r, x = TileColumn(lane) + c;
          const bool on = y < size.height && x < size.width;
          pixels[lane] =
              on ? image + (y * size.width + x) * structure_.shape.filters + chunk.first_filter : nullptr;
        }
        const float* from = sums_ + (r * tiling_.tile.columns + c) * kLanes;
        structure_.kernel->unpack({pixels, chunk.filters, from, sum_floats_});
      }
    }
  }

  const tfc_plan& plan_;
  const Structure& structure_;
  const Tiling& tiling_;
  const float* input_;
  float* output_;
  ptrdiff_t plane_floats_, sum_floats_;
  std::vector<const float*> pixels_;  // (positions, lanes)
  Scratch scratch_;
  float *planes_, *sums_, *zeros_;
  Task task_;
};

tfc_status Run(const tfc_plan& plan, const float* input, float* output, int32_t batch, int32_t threads) {
  const Tiling& tiling = plan.structure->tiling;
  const auto chunks = static_cast<int32_t>(plan.structure->stream.chunks.size());
  const int64_t regions = int64_t{batch} * tiling.region_rows * tiling.region_columns;
  // Few regions are shared out by chunks of filters; each thread then packs its own copy.
  const auto parts = static_cast<int32_t>(
      std::clamp<int64_t>(regions >= 2 * threads ? 1 : 2 * threads / std::max<int64_t>(regions, 1), 1, chunks));
  const int64_t tasks = regions * parts;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  RunOnThreads(static_cast<int32_t>(std::min<int64_t>(threads, std::max<int64_t>(tasks, 1))), [&](int32_t) {
    Runner runner(plan, input, output);
    if (!runner.Ready()) {
      failed = true;
      return;
    }
    for (int64_t i = next++; i < tasks; i = next++) {
      const int64_t region = i / parts;
      const auto part = static_cast<int32_t>(i % parts);
      const int32_t first = part * chunks / parts;
      runner.Run({static_cast<int32_t>(region / (tiling.region_rows * tiling.region_columns)),
                  static_cast<int32_t>(region / tiling.region_columns % tiling.region_rows),
                  static_cast<int32_t>(region % tiling.region_columns), first,
                  (part + 1) * chunks / parts - first});
    }
  });
  return failed && next < tasks ? TFC_NO_MEMORY : TFC_OK;
}

}  // namespace
}  // namespace tfc

const char* tfc_status_message(tfc_status status) {
  switch (status) {
    case TFC_OK: return "no error";
    case TFC_BAD_ARGUMENT: return "an argument is missing, unknown or out of range";
    case TFC_BAD_SHAPE: return "these sizes make no convolution";
    case TFC_NOT_FINITE: return "a weight or bias is infinite or not a number";
    case TFC_TOO_LARGE: return "the convolution is too large";
    case TFC_NOT_ON_THIS_CPU: return "this processor lacks the instructions that the kernel needs";
    case TFC_NO_MEMORY: return "out of memory";
  }
  return "unknown status";
}

const char* tfc_kernel_name(int32_t index) {
  const auto kernels = tfc::Kernels();
  return index < 0 || index >= static_cast<int32_t>(kernels.size()) ? nullptr : kernels[index]->name;
}

int32_t tfc_kernel_supported(int32_t index) {
  const auto kernels = tfc::Kernels();
  return index >= 0 && index < static_cast<int32_t>(kernels.size()) && kernels[index]->supported();
}

tfc_status tfc_output_size(const tfc_shape* shape, int32_t* out_height, int32_t* out_width) {
  if (shape == nullptr || out_height == nullptr || out_width == nullptr) return TFC_BAD_ARGUMENT;
  tfc::OutputSize size;
  if (const auto status = tfc::CheckShape(*shape, &size)) return status;
  *out_height = size.height;
  *out_width = size.width;
  return TFC_OK;
}

tfc_status tfc_plan_create(const tfc_shape* shape, const tfc_weights* weights, const float* bias,
                           tfc_activation activation, const char* kernel, tfc_plan** plan) {
  if (shape == nullptr || weights == nullptr || plan == nullptr) return TFC_BAD_ARGUMENT;
  *plan = nullptr;
  try {
    std::shared_ptr<const tfc::Structure> structure;
    if (const auto status = tfc::MakeStructure(*shape, *weights, activation, kernel, &structure)) return status;
    return tfc::MakePlan(std::move(structure), weights->values, bias, plan);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

tfc_status tfc_plan_with_values(const tfc_plan* plan, const float* values, const float* bias, tfc_plan** other) {
  if (plan == nullptr || other == nullptr) return TFC_BAD_ARGUMENT;
  *other = nullptr;
  try {
    return tfc::MakePlan(plan->structure, values, bias, other);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

tfc_status tfc_plan_run(const tfc_plan* plan, const float* input, float* output, int32_t batch, int32_t threads) {
  const bool missing = plan == nullptr || ((input == nullptr || output == nullptr) && batch > 0);
  if (missing || batch < 0 || threads < 1) return TFC_BAD_ARGUMENT;
  if (batch == 0) return TFC_OK;
  try {
    return tfc::Run(*plan, input, output, batch, threads);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

void tfc_plan_destroy(tfc_plan* plan) { delete plan; }

const char* tfc_plan_kernel(const tfc_plan* plan) { return plan == nullptr ? "" : plan->structure->kernel->name; }
