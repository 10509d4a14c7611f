#include "outline.h"

#include <cstring>

namespace tfc {
namespace {

constexpr const Kernel* kKernels[] = {
#define TFC_ADDRESS(name) &k##name,
    TFC_KERNELS(TFC_ADDRESS)
#undef TFC_ADDRESS
};

// Whether every pixel is read by itself.
bool Pointwise(const tfc_shape& s) {
  const bool one_tap = s.kernel_height == 1 && s.kernel_width == 1, each = s.stride_height == 1 && s.stride_width == 1;
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

}  // namespace

const Kernel* KernelAt(int32_t index) {
  for (const Kernel* kernel : kKernels) {
    if (kernel->supported != nullptr && index-- == 0) return kernel;
  }
  return nullptr;
}

tfc_status FindKernel(const char* name, const Kernel** found) {
  for (int32_t i = 0; const Kernel* kernel = KernelAt(i); ++i) {
    if (name != nullptr && std::strcmp(kernel->name, name) != 0) continue;
    if (kernel->supported()) {
      *found = kernel;
      return TFC_OK;
    }
    if (name != nullptr) return TFC_NOT_ON_THIS_CPU;
  }
  return TFC_BAD_ARGUMENT;
}

tfc_status MakeOutline(const tfc_shape& shape, int64_t weights, int32_t channels, const tfc_options& options,
                       Outline* made) {
  if (const auto status = CheckShape(shape, &made->size)) return status;
  if (const auto status = FindKernel(options.kernel, &made->kernel)) return status;
  made->shape = shape;
  Work& work = made->work;
  work.tiled = {options.tiled_input != 0, options.tiled_residual != 0, options.tiled_output != 0};
  work.tiles = options.tiles;
  work.weights = weights;
  work.in_place = work.tiled.input && Pointwise(shape);
  work.channels = work.in_place ? shape.channels : channels;
  if (Pointwise(shape) && Any(work.tiles) && !work.tiled.Any()) Flatten(made);
  made->tiling = ChooseTiling(*made->kernel, made->shape, made->size, work);
  if (made->tiling.tile.run == nullptr) return Any(work.tiles) ? TFC_TOO_LARGE : TFC_BAD_ARGUMENT;
  return work.tiled.input && !TilesFit(*made) ? TFC_BAD_ARGUMENT : TFC_OK;
}

}  // namespace tfc
