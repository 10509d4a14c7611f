// How a map is cut into regions, a region into the parts of 16 lanes, and a part into register tiles.
#ifndef TFCOMPRESS_TILING_H_
#define TFCOMPRESS_TILING_H_

#include <cstdint>
#include <vector>

#include "kernel.h"
#include "shape.h"

namespace tfc {

// Along one axis, what of the input the part of a lane reads. Where a stride or a dilation leaves gaps,
// positions that no tap reads are left out, and those one tap reads from output to output are neighbours.
struct Axis {
  std::vector<int32_t> source;  // by position in the plane: where it is in the input, from the part's first
  std::vector<int32_t> taps;    // by tap: the position it reads for the part's first output
};

Axis MakeAxis(int32_t outputs, int32_t taps, int32_t stride, int32_t dilation);

struct Tiling {
  Tile tile;
  int32_t lane_rows, lane_columns;    // 16 in all
  int32_t tile_rows, tile_columns;    // tiles of a lane's part
  Axis rows, columns;
  int32_t plane_lines;                // cache lines of a plane: odd, so that planes fall into different sets
  int32_t region_rows, region_columns;  // regions of a map

  int32_t PartRows() const { return tile_rows * tile.rows; }
  int32_t PartColumns() const { return tile_columns * tile.columns; }
  int32_t Vectors() const { return tile.rows * tile.columns; }
};

// What the choice of a tiling depends on, besides the shape.
struct Work {
  int64_t weights;   // that are not zero
  int32_t channels;  // that any of them reads
};

// The one that seems fastest; `tile.run` is NULL if none can be addressed.
Tiling ChooseTiling(const Kernel& kernel, const tfc_shape& shape, OutputSize size, Work work);

// How many channels one block has, so that what a tile reads of them stays in the first-level cache.
int32_t BlockChannels(const Tiling& tiling, const tfc_shape& shape);

}  // namespace tfc

#endif  // TFCOMPRESS_TILING_H_
