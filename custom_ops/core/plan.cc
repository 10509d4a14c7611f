// The C interface: plans are made, run and destroyed here.
#include "plan.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "run.h"

namespace tfc {
namespace {

// Of a stream whose planes are assigned.
tfc_weight_counts WeightCountsOf(const tfc_shape& shape, const tfc_weights& weights, int32_t depth,
                                 const Stream& stream) {
  const auto words = [&](int32_t filters, int32_t channels) {
    return CountWords(shape, weights, filters, channels);
  };
  const bool sliced = depth > 1;
  return {words(1, depth), sliced ? words(1, depth / 2) : 0, sliced ? words(1, depth / 4) : 0,
          words(kLanes, depth), stream.plane_count};
}

// The values of the weights are not looked at.
tfc_status MakeStructure(Type type, const tfc_shape& shape, const tfc_weights& weights, tfc_activation activation,
                         const tfc_options& options, std::shared_ptr<const Structure>* made) {
  OutputSize size;
  if (const auto status = CheckShape(shape, &size)) return status;
  if (const auto status = CheckIndices(shape, weights)) return status;
  auto structure = std::make_shared<Structure>();
  if (const auto status = CheckActivation(activation, &structure->range)) return status;
  structure->type = type;
  structure->weights = weights.count;
  Stream& stream = structure->stream;
  const int32_t depth = DepthOf(type);
  AssignPlanes(shape, weights, depth, &stream);
  Outline& outline = structure->outline;
  const tfc_weight_counts counts = WeightCountsOf(shape, weights, depth, stream);
  if (const auto status = MakeOutline(type, shape, counts, options, Typical(depth), &outline)) return status;
  if (outline.kernel->blocks != nullptr) {
    FillBlockStream(outline.shape, weights, outline.block_tiling, &structure->blocks, &structure->source);
  } else {
    if (outline.work.in_place) AssignAllPlanes(&stream);
    FillStream(outline.shape, weights, depth, outline.tiling, &stream, &structure->source);
  }
  *made = std::move(structure);
  return TFC_OK;
}

tfc_status MakePlan(std::shared_ptr<const Structure> structure, const float* values, const float* bias,
                    tfc_plan** made) {
  const std::vector<int32_t>& source = structure->source;
  const int32_t filters = structure->outline.shape.filters;
  if (const auto status = CheckFinite(values, structure->weights)) return status;
  if (bias != nullptr) {
    if (const auto status = CheckFinite(bias, filters)) return status;
  }
  auto plan = std::make_unique<tfc_plan>();
  plan->values.reserve(source.size());
  for (const int32_t place : source) plan->values.push_back(place < 0 ? 0.0f : values[place]);
  plan->bias.assign((filters + kLanes - 1) / kLanes * kLanes, 0.0f);
  if (bias != nullptr) std::copy_n(bias, filters, plan->bias.begin());
  plan->structure = std::move(structure);
  *made = plan.release();
  return TFC_OK;
}

// The values of the weights are not looked at.
tfc_status CountWeights(Type type, const tfc_shape* shape, const tfc_weights* weights, tfc_weight_counts* counts) {
  if (shape == nullptr || weights == nullptr || counts == nullptr) return TFC_BAD_ARGUMENT;
  try {
    OutputSize size;
    if (const auto status = CheckShape(*shape, &size)) return status;
    if (const auto status = CheckIndices(*shape, *weights)) return status;
    Stream stream;
    AssignPlanes(*shape, *weights, DepthOf(type), &stream);
    *counts = WeightCountsOf(*shape, *weights, DepthOf(type), stream);
    return TFC_OK;
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

const char* NameAt(Type type, int32_t index) {
  const Kernel* kernel = index < 0 ? nullptr : KernelAt(type, index);
  return kernel == nullptr ? nullptr : kernel->name;
}

int32_t SupportedAt(Type type, int32_t index) {
  const Kernel* kernel = index < 0 ? nullptr : KernelAt(type, index);
  return kernel != nullptr && kernel->supported();
}

bool IsByte(int32_t value) { return value >= -128 && value <= 127; }

tfc_status CheckRequantization(const tfc_requantization& r, int32_t filters) {
  if (!IsByte(r.input_zero) || !IsByte(r.output_zero) || !IsByte(r.low) || !IsByte(r.high) || r.low > r.high) {
    return TFC_BAD_ARGUMENT;
  }
  if (const auto status = CheckFinite(r.scales, filters)) return status;
  const auto positive = [](float scale) { return scale > 0.0f; };
  return std::all_of(r.scales, r.scales + filters, positive) ? TFC_OK : TFC_BAD_ARGUMENT;
}

bool Within(int32_t value, int32_t most) { return value >= -most && value <= most; }

tfc_status CheckAddition(const tfc_addition& a) {
  constexpr int32_t kMostBias = (1 << 30) - 1, kMostMultiplier = 1 << 22;  // so that no sum overflows
  const bool fits = Within(a.bias, kMostBias) && Within(a.output_multiplier, kMostMultiplier) &&
                    Within(a.residual_multiplier, kMostMultiplier) && a.shift >= 1 && a.shift < 32;
  const bool bytes = IsByte(a.zero) && IsByte(a.low) && IsByte(a.high) && a.low <= a.high;
  return fits && bytes ? TFC_OK : TFC_BAD_ARGUMENT;
}

tfc_status MakeInt8Plan(std::shared_ptr<const Structure> structure, const tfc_int8_weights& weights,
                        const int32_t* bias, const tfc_requantization& requantization,
                        const tfc_addition* addition, tfc_plan** made) {
  const std::vector<int32_t>& source = structure->source;
  const tfc_shape& shape = structure->outline.shape;
  const int32_t padded = (shape.filters + kLanes - 1) / kLanes * kLanes;
  auto plan = std::make_unique<tfc_plan>();
  Int8Numbers& numbers = plan->int8;
  numbers.values.reserve(source.size());
  for (const int32_t place : source) numbers.values.push_back(place < 0 ? int8_t{0} : weights.values[place]);
  numbers.bias.assign(padded, 0);
  if (bias != nullptr) std::copy_n(bias, shape.filters, numbers.bias.begin());
  // Where the kernel wants inputs without a sign, they are read as so much more.
  const int32_t zero = requantization.input_zero + structure->outline.kernel->flip;
  for (int64_t i = 0; i < weights.count; ++i) {
    int32_t& sum = numbers.bias[weights.indices[i] % shape.filters];
    // Sums may overflow, and come back.
    sum = static_cast<int32_t>(static_cast<uint32_t>(sum) - static_cast<uint32_t>(zero * weights.values[i]));
  }
  numbers.scales.assign(padded, 1.0f);
  std::copy_n(requantization.scales, shape.filters, numbers.scales.begin());
  numbers.requantization = requantization;
  numbers.requantization.scales = nullptr;
  constexpr float kMostScale = 0.5f;  // of sums, which are at most 2^31
  numbers.large = *std::max_element(numbers.scales.begin(), numbers.scales.begin() + shape.filters) > kMostScale;
  numbers.adds = addition != nullptr;
  numbers.addition = {};
  if (addition != nullptr) {
    const tfc_addition& a = *addition;
    numbers.addition = {a.bias, a.output_multiplier, a.residual_multiplier, a.shift, a.zero, a.low, a.high};
  }
  plan->structure = std::move(structure);
  *made = plan.release();
  return TFC_OK;
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

const char* tfc_kernel_name(int32_t index) { return tfc::NameAt(tfc::kFloat32, index); }
int32_t tfc_kernel_supported(int32_t index) { return tfc::SupportedAt(tfc::kFloat32, index); }
const char* tfc_int8_kernel_name(int32_t index) { return tfc::NameAt(tfc::kInt8, index); }
int32_t tfc_int8_kernel_supported(int32_t index) { return tfc::SupportedAt(tfc::kInt8, index); }

tfc_status tfc_output_size(const tfc_shape* shape, int32_t* out_height, int32_t* out_width) {
  if (shape == nullptr || out_height == nullptr || out_width == nullptr) return TFC_BAD_ARGUMENT;
  tfc::OutputSize size;
  if (const auto status = tfc::CheckShape(*shape, &size)) return status;
  *out_height = size.height;
  *out_width = size.width;
  return TFC_OK;
}

tfc_status tfc_pad_same(tfc_shape* shape) { return shape == nullptr ? TFC_BAD_ARGUMENT : tfc::PadSame(shape); }

tfc_status tfc_plan_create(const tfc_shape* shape, const tfc_weights* weights, const float* bias,
                           tfc_activation activation, const char* kernel, tfc_plan** plan) {
  tfc_options options = {};
  options.kernel = kernel;
  return tfc_plan_create_with(shape, weights, bias, activation, &options, plan);
}

tfc_status tfc_plan_create_with(const tfc_shape* shape, const tfc_weights* weights, const float* bias,
                                tfc_activation activation, const tfc_options* options, tfc_plan** plan) {
  if (shape == nullptr || weights == nullptr || options == nullptr || plan == nullptr) return TFC_BAD_ARGUMENT;
  *plan = nullptr;
  try {
    std::shared_ptr<const tfc::Structure> structure;
    const auto status = tfc::MakeStructure(tfc::kFloat32, *shape, *weights, activation, *options, &structure);
    if (status != TFC_OK) return status;
    return tfc::MakePlan(std::move(structure), weights->values, bias, plan);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

tfc_status tfc_plan_with_values(const tfc_plan* plan, const float* values, const float* bias, tfc_plan** other) {
  if (plan == nullptr || other == nullptr) return TFC_BAD_ARGUMENT;
  *other = nullptr;
  if (plan->structure->type != tfc::kFloat32) return TFC_BAD_ARGUMENT;
  try {
    return tfc::MakePlan(plan->structure, values, bias, other);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

tfc_status tfc_plan_run(const tfc_plan* plan, const float* input, float* output, int32_t batch, int32_t threads) {
  return tfc_plan_run_with(plan, input, nullptr, output, batch, threads);
}

tfc_status tfc_plan_run_with(const tfc_plan* plan, const float* input, const float* residual, float* output,
                             int32_t batch, int32_t threads) {
  const bool missing = plan == nullptr || ((input == nullptr || output == nullptr) && batch > 0);
  if (missing || batch < 0 || threads < 1 || plan->structure->type != tfc::kFloat32) return TFC_BAD_ARGUMENT;
  if (batch == 0) return TFC_OK;
  try {
    return tfc::Run(*plan, {input, residual, output}, batch, threads);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

tfc_status tfc_int8_plan_create(const tfc_shape* shape, const tfc_int8_weights* weights, const int32_t* bias,
                                const tfc_requantization* requantization, const tfc_addition* addition,
                                const char* kernel, tfc_plan** plan) {
  const bool missing = shape == nullptr || weights == nullptr || requantization == nullptr || plan == nullptr;
  if (missing) return TFC_BAD_ARGUMENT;
  *plan = nullptr;
  if (weights->count > 0 && weights->values == nullptr) return TFC_BAD_ARGUMENT;
  const tfc_weights places = {weights->count, weights->indices, nullptr};
  tfc_options options = {};
  options.kernel = kernel;
  try {
    std::shared_ptr<const tfc::Structure> structure;
    const auto status = tfc::MakeStructure(tfc::kInt8, *shape, places, TFC_LINEAR, options, &structure);
    if (status != TFC_OK) return status;
    if (const auto wrong = tfc::CheckRequantization(*requantization, shape->filters)) return wrong;
    if (addition != nullptr) {
      if (const auto wrong = tfc::CheckAddition(*addition)) return wrong;
    }
    return tfc::MakeInt8Plan(std::move(structure), *weights, bias, *requantization, addition, plan);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

tfc_status tfc_int8_plan_run(const tfc_plan* plan, const int8_t* input, const int8_t* residual, int8_t* output,
                             int32_t batch, int32_t threads) {
  const bool missing = plan == nullptr || ((input == nullptr || output == nullptr) && batch > 0);
  if (missing || batch < 0 || threads < 1 || plan->structure->type != tfc::kInt8) return TFC_BAD_ARGUMENT;
  if (batch == 0) return TFC_OK;
  if (plan->int8.adds != (residual != nullptr)) return TFC_BAD_ARGUMENT;
  try {
    return tfc::Run(*plan, {input, residual, output}, batch, threads);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

tfc_status tfc_count_weights(const tfc_shape* shape, const tfc_weights* weights, tfc_weight_counts* counts) {
  return tfc::CountWeights(tfc::kFloat32, shape, weights, counts);
}

tfc_status tfc_int8_count_weights(const tfc_shape* shape, const tfc_int8_weights* weights,
                                  tfc_weight_counts* counts) {
  if (weights == nullptr) return TFC_BAD_ARGUMENT;
  const tfc_weights places = {weights->count, weights->indices, nullptr};
  return tfc::CountWeights(tfc::kInt8, shape, &places, counts);
}

tfc_tiles tfc_plan_tiles(const tfc_plan* plan) {
  if (plan == nullptr || plan->structure->outline.kernel->lanes == nullptr) return {};
  const tfc::Tiling& tiling = plan->structure->outline.tiling;
  return {tiling.tile.rows, tiling.tile.columns, tiling.lane_rows};
}

int64_t tfc_tiled_floats(const tfc_tiles* tiles, int32_t height, int32_t width, int32_t channels) {
  if (tiles == nullptr || tiles->rows < 1 || tiles->columns < 1 || tiles->lane_rows < 1) return 0;
  const int64_t rows = int64_t{tiles->rows} * tiles->lane_rows;
  const int64_t columns = int64_t{tiles->columns} * std::max(1, tfc::kLanes / tiles->lane_rows);
  const int64_t regions = ((height + rows - 1) / rows) * ((width + columns - 1) / columns);
  return regions * channels * tiles->rows * tiles->columns * tfc::kLanes;
}

void tfc_series_begin(void) { tfc::Series::Begin(); }

void tfc_series_end(void) { tfc::Series::End(); }

void tfc_plan_destroy(tfc_plan* plan) { delete plan; }

const char* tfc_plan_kernel(const tfc_plan* plan) {
  return plan == nullptr ? "" : plan->structure->outline.kernel->name;
}
