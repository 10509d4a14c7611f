#include "outline.h"

#include <cstddef>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

namespace tfc {
namespace {

#define TFC_ADDRESS(name) &k##name,
constexpr const Kernel* kFloat32Kernels[] = {TFC_KERNELS(TFC_ADDRESS)};
constexpr const Kernel* kInt8Kernels[] = {TFC_INT8_KERNELS(TFC_ADDRESS)};
#undef TFC_ADDRESS

template <size_t count>
const Kernel* CompiledAt(const Kernel* const (&kernels)[count], int32_t index) {
  for (const Kernel* kernel : kernels) {
    if (kernel->supported != nullptr && index-- == 0) return kernel;
  }
  return nullptr;
}

// Whether every pixel is read by itself.
bool Pointwise(const tfc_shape& s) {
  const bool one_tap = s.kernel_height == 1 && s.kernel_width == 1,
             each = s.stride_height == 1 && s.stride_width == 1;
  return one_tap && each && s.pad_top == 0 && s.pad_bottom == 0 && s.pad_left == 0 && s.pad_right == 0;
}

// A convolution that reads every pixel by itself does not care where rows end.
void Flatten(Outline* outline) {
  outline->shape.width *= outline->shape.height;
  outline->shape.height = 1;
  outline->size = {1, outline->shape.width};
}

bool Any(const tfc_tiles& tiles) { return tiles.rows == 0 && tiles.columns == 0 && tiles.lane_rows == 0; }

// Tiles of the output serve for the input where the maps are of one size, and no tap reaches further than
// into the next region.
bool TilesFit(const Outline& o) {
  const tfc_shape& s = o.shape;
  const Tile& tile = o.tiling.tile;
  const auto reaches = [](int32_t before, int32_t span, int32_t region) {
    return before <= region && span - before <= region;
  };
  return s.stride_height == 1 && s.stride_width == 1 && s.height == o.size.height && s.width == o.size.width &&
         reaches(s.pad_top, (s.kernel_height - 1) * s.dilation_height, tile.rows * o.tiling.lane_rows) &&
         reaches(s.pad_left, (s.kernel_width - 1) * s.dilation_width, tile.columns * o.tiling.lane_columns);
}

// Whether the kernel can do it.
bool Cut(Outline* o) {
  if (o->kernel->blocks != nullptr) {
    o->block_tiling = ChooseBlockTiling(*o->kernel, o->shape, o->size, o->work);
    return o->block_tiling.tile.run != nullptr;
  }
  o->tiling = ChooseTiling(*o->kernel->lanes, o->shape, o->size, o->work);
  return o->tiling.tile.run != nullptr && (!o->work.tiled.input || TilesFit(*o));
}

}  // namespace

const Kernel* KernelAt(Type type, int32_t index) {
  return type == kInt8 ? CompiledAt(kInt8Kernels, index) : CompiledAt(kFloat32Kernels, index);
}

tfc_status FindKernels(Type type, const char* name, std::vector<const Kernel*>* found) {
  std::set<std::pair<int32_t, int32_t>> kinds;
  bool known = false;
  for (int32_t i = 0; const Kernel* kernel = KernelAt(type, i); ++i) {
    if (name != nullptr && std::strcmp(kernel->name, name) != 0) continue;
    known = true;
    const LaneKernel* lanes = kernel->lanes;
    const auto kind = lanes == nullptr ? std::pair(0, 0) : std::pair(lanes->together, lanes->slices);
    if (kinds.count(kind) != 0 || !kernel->supported()) continue;
    kinds.insert(kind);
    found->push_back(kernel);
  }
  if (!known) return TFC_BAD_ARGUMENT;
  return found->empty() ? TFC_NOT_ON_THIS_CPU : TFC_OK;
}

Costs CountsOf(const Outline& o) {
  return o.kernel->lanes != nullptr ? Counts(o.tiling, o.shape, o.work)
                                    : BlockCounts(o.block_tiling, o.shape, o.size, o.work);
}

tfc_status MakeOutline(Type type, const tfc_shape& shape, const tfc_weight_counts& counts,
                       const tfc_options& options, const Costs& each, Outline* made) {
  Outline outline{};
  if (const auto status = CheckShape(shape, &outline.size)) return status;
  std::vector<const Kernel*> kernels;
  if (const auto status = FindKernels(type, options.kernel, &kernels)) return status;
  outline.shape = shape;
  Work& work = outline.work;
  work.depth = DepthOf(type);
  work.tiled = {options.tiled_input != 0, options.tiled_residual != 0, options.tiled_output != 0};
  work.tiles = options.tiles;
  work.weights = counts.weights;
  work.halves = counts.halves;
  work.quarters = counts.quarters;
  work.blocks = counts.blocks;
  work.in_place = work.tiled.input && Pointwise(shape);
  work.channels = work.in_place ? shape.channels / work.depth : counts.channels;
  const bool plain = Any(work.tiles) && !work.tiled.Any();
  if (Pointwise(shape) && plain) Flatten(&outline);
  double least = std::numeric_limits<double>::infinity();
  for (const Kernel* kernel : kernels) {
    outline.kernel = kernel;
    if (kernel->blocks != nullptr && !plain) continue;
    if (!Cut(&outline)) continue;
    const double cost = Total(CountsOf(outline), each);
    if (cost >= least) continue;
    least = cost;
    *made = outline;
  }
  if (least < std::numeric_limits<double>::infinity()) return TFC_OK;
  return plain ? TFC_TOO_LARGE : TFC_BAD_ARGUMENT;
}

}  // namespace tfc
