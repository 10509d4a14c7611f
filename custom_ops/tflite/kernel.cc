#include "kernel.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

namespace tfc::tflite {
namespace {

constexpr int64_t kLine = 16;  // floats of a cache line

int64_t Numbers(const std::vector<int>& dims) {
  return std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>());
}

// An addition by itself.
void Add(const float* a, const float* b, int64_t count, tfc_activation activation, float* sum) {
  const float low = activation == TFC_LINEAR ? -std::numeric_limits<float>::infinity() : 0.0f;
  const float high = activation == TFC_RELU6 ? 6.0f : std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < count; ++i) sum[i] = std::min(std::max(a[i] + b[i], low), high);
}

void AddInt8(const int8_t* a, const int8_t* b, int64_t count, const tfc_addition& by, int8_t* sum) {
  for (int64_t i = 0; i < count; ++i) {
    const int32_t all = (by.bias + by.output_multiplier * a[i] + by.residual_multiplier * b[i]) >> by.shift;
    sum[i] = static_cast<int8_t>(std::min(std::max(all + by.zero, by.low), by.high));
  }
}

const int8_t* AsInt8(const float* map) { return reinterpret_cast<const int8_t*>(map); }
int8_t* AsInt8(float* map) { return reinterpret_cast<int8_t*>(map); }

TfLiteStatus Resize(TfLiteContext* context, int index, const std::vector<int>& dims) {
  TfLiteTensor* tensor = &context->tensors[index];
  if (DimsOf(*tensor) == dims) return kTfLiteOk;
  // TFLite takes the array, and gives it back to the allocator of C.
  auto* array = static_cast<TfLiteIntArray*>(std::malloc(sizeof(int) * (dims.size() + 1)));
  if (array == nullptr) return kTfLiteError;
  array->size = static_cast<int>(dims.size());
  std::copy(dims.begin(), dims.end(), array->data);
  return context->ResizeTensor(context, tensor, array);
}

bool SameShape(const Sizes& a, const Sizes& b) {
  return std::memcmp(&a.shape, &b.shape, sizeof(a.shape)) == 0 && a.images == b.images && a.output == b.output;
}

}  // namespace

Kernel::Kernel(std::vector<Step> steps, const std::vector<int>& outputs, const Setting& setting)
    : outputs_(outputs), setting_(setting) {
  for (Step& step : steps) {
    step.apart = step.residual >= 0 && Visible(step.sum);
    steps_.push_back(std::move(step));
  }
}

bool Kernel::Visible(int tensor) const { return std::count(outputs_.begin(), outputs_.end(), tensor) > 0; }

// ---------------------------------------------------------------- preparing

TfLiteStatus Kernel::Prepare(TfLiteContext* context) {
  std::vector<Sizes> sizes;
  if (const auto status = Measure(context, &sizes)) return Fail(context, status);
  if (ResizeOutputs(context, sizes) != kTfLiteOk) return kTfLiteError;
  const bool same =
      sizes.size() == sizes_.size() && std::equal(sizes.begin(), sizes.end(), sizes_.begin(), SameShape);
  if (same) return kTfLiteOk;
  sizes_.clear();
  if (const auto status = MakePlans(sizes)) return Fail(context, status);
  PlaceBuffers(sizes);
  if (memory_floats_ > 0 && memory_ == nullptr) return Fail(context, TFC_NO_MEMORY);
  sizes_ = std::move(sizes);
  return kTfLiteOk;
}

// The sizes of all maps, from those of the tensors that come from outside.
tfc_status Kernel::Measure(TfLiteContext* context, std::vector<Sizes>* sizes) {
  std::map<int, std::vector<int>> dims;
  for (const Step& step : steps_) {
    const auto inner = dims.find(step.input);
    const std::vector<int> input = inner != dims.end() ? inner->second : DimsOf(context->tensors[step.input]);
    sizes->emplace_back();
    if (const auto status = FindSizes(step.convolution, input, &sizes->back())) return status;
    if (step.residual >= 0) {
      const auto other = dims.find(step.residual);
      const auto residual = other != dims.end() ? other->second : DimsOf(context->tensors[step.residual]);
      if (residual != sizes->back().output) return TFC_BAD_SHAPE;
    }
    dims[step.output] = sizes->back().output;
  }
  return TFC_OK;
}

TfLiteStatus Kernel::ResizeOutputs(TfLiteContext* context, const std::vector<Sizes>& sizes) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    for (const int tensor : {steps_[i].output, steps_[i].apart ? steps_[i].sum : steps_[i].output}) {
      if (Visible(tensor) && Resize(context, tensor, sizes[i].output) != kTfLiteOk) return kTfLiteError;
    }
  }
  return kTfLiteOk;
}

tfc_status Kernel::MakePlans(const std::vector<Sizes>& sizes) {
  const std::vector<Unit> units = UnitsOf(steps_, sizes);
  int32_t tensors = 0;
  for (const Unit& unit : units) tensors = std::max({tensors, unit.input + 1, unit.output + 1, unit.residual + 1});
  std::vector<bool> visible(tensors, false);
  for (const int tensor : outputs_) {
    if (tensor < tensors) visible[tensor] = true;
  }
  for (const Step& step : steps_) {
    if (step.apart && step.residual < tensors) visible[step.residual] = true;
  }
  Formats formats = PlanFormats(units, visible, setting_);
  choices_ = std::move(formats.choices);
  threads_ = formats.threads;
  plans_.clear();
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Choice& choice = choices_[i];
    const bool tiled = choice.tiled_input || choice.tiled_residual || choice.tiled_output;
    const tfc_options options = {choice.kernel, tiled ? choice.tiles : tfc_tiles{}, choice.tiled_input,
                                 choice.tiled_residual, choice.tiled_output};
    tfc_plan* plan = nullptr;
    const auto status = MakePlan(steps_[i], sizes[i].shape, options, &plan);
    if (status != TFC_OK) return status;
    plans_.emplace_back(plan);
  }
  return TFC_OK;
}

// Gives inner maps places in one piece of memory, where none overlaps another that lives at the same time.
void Kernel::PlaceBuffers(const std::vector<Sizes>& sizes) {
  buffers_.clear();
  for (size_t i = 0; i < steps_.size(); ++i) {
    for (const int read : {steps_[i].input, steps_[i].residual}) {
      const auto found = buffers_.find(read);
      if (found != buffers_.end()) found->second.last = i;
    }
    if (Visible(steps_[i].output)) continue;
    int64_t floats = Numbers(sizes[i].output);
    if (steps_[i].convolution.in_int8) floats = (floats + 3) / 4;  // as much memory
    if (choices_[i].tiled_output) {
      const tfc_shape& shape = sizes[i].shape;
      int32_t height = 0, width = 0;
      tfc_output_size(&shape, &height, &width);
      floats = tfc_tiled_floats(&choices_[i].tiles, height, width, shape.filters) * sizes[i].images;
    }
    buffers_[steps_[i].output] = {(floats + kLine - 1) / kLine * kLine, i, i, 0};
  }
  int64_t end = 0;
  std::vector<const Buffer*> placed;  // by offset
  for (auto& [tensor, buffer] : buffers_) {
    buffer.offset = 0;
    for (const Buffer* other : placed) {
      const bool together = other->first <= buffer.last && buffer.first <= other->last;
      const bool overlap =
          other->offset < buffer.offset + buffer.floats && buffer.offset < other->offset + other->floats;
      if (together && overlap) buffer.offset = other->offset + other->floats;
    }
    end = std::max(end, buffer.offset + buffer.floats);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &buffer,
                                   [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; }),
                  &buffer);
  }
  if (end > memory_floats_ || memory_ == nullptr) {
    memory_.reset(
        static_cast<float*>(std::aligned_alloc(kLine * sizeof(float), std::max(end, kLine) * sizeof(float))));
  }
  memory_floats_ = end;
}

// ---------------------------------------------------------------- running

float* Kernel::Map(TfLiteContext* context, int tensor) const {
  const auto buffer = buffers_.find(tensor);
  if (buffer != buffers_.end()) return memory_.get() + buffer->second.offset;
  return static_cast<float*>(context->tensors[tensor].data);
}

TfLiteStatus Kernel::Invoke(TfLiteContext* context) {
  tfc_series_begin();
  const TfLiteStatus status = Run(context);
  tfc_series_end();
  return status;
}

TfLiteStatus Kernel::Run(TfLiteContext* context) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    const Convolution& c = step.convolution;
    const float* input = Map(context, step.input);
    const float* residual = step.residual < 0 ? nullptr : Map(context, step.residual);
    const float* added = step.apart ? nullptr : residual;
    float* output = Map(context, step.output);
    float* sum = step.apart ? Map(context, step.sum) : output;
    const int32_t images = sizes_[i].images;
    const auto status =
        c.in_int8 ? tfc_int8_plan_run(plans_[i].get(), AsInt8(input), AsInt8(added), AsInt8(sum), images, threads_)
                  : tfc_plan_run_with(plans_[i].get(), input, added, sum, images, threads_);
    if (status != TFC_OK) return Fail(context, status);
    if (!step.apart) continue;
    const int64_t count = Numbers(sizes_[i].output);
    if (c.in_int8) {
      AddInt8(AsInt8(sum), AsInt8(residual), count, c.int8.addition, AsInt8(output));
    } else {
      Add(sum, residual, count, c.activation, output);
    }
  }
  return kTfLiteOk;
}

TfLiteStatus Kernel::Fail(TfLiteContext* context, tfc_status status) {
  context->ReportError(context, "tfcompress: %s", tfc_status_message(status));
  return kTfLiteError;
}

std::vector<Unit> UnitsOf(const std::vector<Step>& steps, const std::vector<Sizes>& sizes) {
  std::vector<Unit> units;
  for (size_t i = 0; i < steps.size(); ++i) {
    const Step& step = steps[i];
    const Convolution& c = step.convolution;
    units.push_back({c.in_int8, c.weights_in_int8, c.needed, i > 0, sizes[i].shape, c.counts, step.input,
                     step.apart ? step.sum : step.output, step.apart ? -1 : step.residual, sizes[i].images});
  }
  return units;
}

}  // namespace tfc::tflite
