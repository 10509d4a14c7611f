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

tfc_status MakeStructure(const tfc_shape& shape, const tfc_weights& weights, tfc_activation activation,
                         const tfc_options& options, std::shared_ptr<const Structure>* made) {
  OutputSize size;
  if (const auto status = CheckShape(shape, &size)) return status;
  if (const auto status = CheckIndices(shape, weights)) return status;
  auto structure = std::make_shared<Structure>();
  if (const auto status = CheckActivation(activation, &structure->range)) return status;
  structure->weights = weights.count;
  Stream& stream = structure->stream;
  AssignPlanes(shape, weights, &stream);
  Outline& outline = structure->outline;
  const tfc_weight_counts counts = {weights.count, CountBlocks(shape, weights), stream.plane_count};
  if (const auto status = MakeOutline(shape, counts, options, kTypical, &outline)) return status;
  if (outline.kernel->blocks != nullptr) {
    FillBlockStream(outline.shape, weights, outline.block_tiling, &structure->blocks, &structure->source);
  } else {
    if (outline.work.in_place) AssignAllPlanes(&stream);
    FillStream(outline.shape, weights, outline.tiling, &stream, &structure->source);
  }
  *made = std::move(structure);
  return TFC_OK;
}

tfc_status MakePlan(std::shared_ptr<const Structure> structure, const float* values, const float* bias,
                    tfc_plan** made) {
  const std::vector<int32_t>& source = structure->source;
  const int32_t filters = structure->outline.shape.filters;
  if (values == nullptr && structure->weights > 0) return TFC_BAD_ARGUMENT;
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
  const tfc::Kernel* kernel = index < 0 ? nullptr : tfc::KernelAt(index);
  return kernel == nullptr ? nullptr : kernel->name;
}

int32_t tfc_kernel_supported(int32_t index) {
  const tfc::Kernel* kernel = index < 0 ? nullptr : tfc::KernelAt(index);
  return kernel != nullptr && kernel->supported();
}

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
    if (const auto status = tfc::MakeStructure(*shape, *weights, activation, *options, &structure)) return status;
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
  return tfc_plan_run_with(plan, input, nullptr, output, batch, threads);
}

tfc_status tfc_plan_run_with(const tfc_plan* plan, const float* input, const float* residual, float* output,
                             int32_t batch, int32_t threads) {
  const bool missing = plan == nullptr || ((input == nullptr || output == nullptr) && batch > 0);
  if (missing || batch < 0 || threads < 1) return TFC_BAD_ARGUMENT;
  if (batch == 0) return TFC_OK;
  try {
    return tfc::Run(*plan, {input, residual, output}, batch, threads);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

tfc_status tfc_count_weights(const tfc_shape* shape, const tfc_weights* weights, tfc_weight_counts* counts) {
  if (shape == nullptr || weights == nullptr || counts == nullptr) return TFC_BAD_ARGUMENT;
  try {
    tfc::OutputSize size;
    if (const auto status = tfc::CheckShape(*shape, &size)) return status;
    if (const auto status = tfc::CheckIndices(*shape, *weights)) return status;
    tfc::Stream stream;
    tfc::AssignPlanes(*shape, *weights, &stream);
    *counts = {weights->count, tfc::CountBlocks(*shape, *weights), stream.plane_count};
    return TFC_OK;
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
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

void tfc_plan_destroy(tfc_plan* plan) { delete plan; }

const char* tfc_plan_kernel(const tfc_plan* plan) {
  return plan == nullptr ? "" : plan->structure->outline.kernel->name;
}
