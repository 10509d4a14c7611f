// How a map is cut into regions, and a region into the tiles of 16 lanes, or into lines of neighbours.
#ifndef TFCOMPRESS_TILING_H_
#define TFCOMPRESS_TILING_H_

#include <array>
#include <cstdint>
#include <vector>

#include "kernel.h"
#include "shape.h"
#include "strip.h"

namespace tfc {

// Along one axis, what of the input the tile of a lane reads. Where a stride or a dilation leaves gaps,
// positions that no tap reads are left out, and those one tap reads from output to output are neighbours.
struct Axis {
  std::vector<int32_t> source;  // by position in the plane: where it is in the input, from the tile's first
  std::vector<int32_t> taps;    // by tap: the position it reads for the tile's first output
};

Axis MakeAxis(int32_t outputs, int32_t taps, int32_t stride, int32_t dilation);

struct Tiling {
  Tile tile;
  int32_t together;                     // filters that read the same words, as the kernel says
  int32_t slices;                       // of a plane, likewise
  int32_t lane_rows, lane_columns;      // as many lanes in all
  int32_t region_rows, region_columns;  // regions of a map
  Axis rows, columns;                   // where there are no slices
  Strip strip;                          // where there are
  int32_t plane_lines;     // cache lines of a plane, all slices: odd, so that planes fall into different sets
  int32_t block_channels;  // so many planes are in the first-level cache at a time
  int32_t chunk_filters;   // so many filters' sums are in the second-level cache at a time

  int32_t LaneRow(int lane) const { return lane / lane_columns; }
  int32_t LaneColumn(int lane) const { return lane % lane_columns; }
  int32_t Regions() const { return region_rows * region_columns; }
  int32_t Lanes() const { return kLanes * slices; }
  int32_t Vectors() const { return tile.rows * tile.columns * slices; }  // of sums
  int32_t Positions() const {
    return slices > 1 ? strip.lines : static_cast<int32_t>(rows.source.size() * columns.source.size());
  }
  // How many places of a line vectors may begin at; and where those for the first output do, from the plane's
  // first.
  int32_t Places() const { return slices > 1 ? Lanes() : 1; }
  int32_t PlaceOfTap(int32_t row, int32_t column) const {
    return slices > 1 ? strip.taps[row * strip.kernel_width + column]
                      : rows.taps[row] * static_cast<int32_t>(columns.source.size()) + columns.taps[column];
  }
};

// Which maps are in tiles.
struct Tiled {
  bool input, residual, output;

  bool Any() const { return input || residual || output; }
};

// A square of weights for any 16 lines, which are copied, takes so many times as long as one for neighbouring
// planes.
constexpr double kOtherSquare = 2.25;

// What the choice of a tiling depends on, besides the shape.
struct Work {
  int32_t depth;     // channels in a word
  int64_t weights;   // words of them that are not zero
  int64_t halves;    // or halves of words
  int64_t quarters;  // or quarters
  int64_t blocks;    // of 16 filters, with any weight at a tap of a word
  int32_t channels;  // words of the input that any of them reads
  tfc_tiles tiles;   // those to take; zeros for any
  Tiled tiled;
  bool in_place;  // whether planes are read where they are in the input
};

// What a plan does, step by step; `Counts` says how often, a machine how long.
enum Cost {
  kRegion,    // begin with a region of the map
  kFilter,    // begin with a filter in a block of channels
  kSum,       // load and store a vector of sums
  kWeight,    // fetch a weight and where it applies
  kVector,    // multiply and add a vector
  kPacked,    // make a vector out of 16 pixels
  kGathered,  // make a vector out of vectors of tiles
  kTouched,   // bring a vector in place into the nearest cache
  kUnpacked,  // hand out a vector to 16 pixels
  kJoined,    // put half of two vectors into one, to make words of slices, or slices of words
  // Where lanes are filters:
  kBlock,        // begin with a block of filters in a block of channels
  kBlockSum,     // load and store a vector of sums
  kEntry,        // fetch a block of weights and where it applies
  kEntryVector,  // multiply and add a vector
  kCopied,       // copy a vector
  // Where squares of weights are multiplied:
  kSquareSum,     // load, store and hand out a square of sums
  kSquare,        // fetch one of weights
  kSquareVector,  // multiply and add one
  kCopiedVector,  // copy the lines for it, besides
  // Of any:
  kNearByte,  // bring a byte of the weights from a cache that all cores share
  kFarByte,   // or from memory
  kWake,      // let other threads begin that look for something to do
  kSleeper,   // or that sleep
  kCosts
};
using Costs = std::array<double, kCosts>;

// Cycles, roughly; only their proportions matter for the choice of a tiling.
constexpr Costs kTypicalFloat32 = {500, 10,   2.5, 1, 0.5, 3.5, 2, 2,    3.5,  0,    15,   2,
                                   2,   0.55, 1.5, 0, 0,   0,   0, 0.12, 0.25, 5000, 50000};
constexpr Costs kTypicalInt8 = {1000, 10,   2.5, 0.8, 0.65, 5.5, 0,  0,    6,    0.6,  15,   8,
                                2,    0.55, 2.2, 140, 10,   28,  45, 0.12, 0.25, 5000, 50000};

// Of maps with so many channels in a word.
inline const Costs& Typical(int32_t depth) { return depth == 1 ? kTypicalFloat32 : kTypicalInt8; }

// So much of a processor's caches is filled.
struct CacheBytes {
  int32_t block = 26 * 1024;  // of the first level, where nothing is known of it
  int32_t sums = 96 * 1024;   // of the second level
  int64_t near = 256 * 1024;  // weights beyond this come from further away than the second level
};
const CacheBytes& Caches();

// How many squares of weights there are, of neighbouring planes and of any lines, if they are spread evenly.
struct Squares {
  double near, any;
};
Squares SquaresOf(const tfc_shape& shape, const Work& work);

Costs Counts(const Tiling& tiling, const tfc_shape& shape, const Work& work);

constexpr int64_t kFarBytes = 32 << 20;      // weights beyond this come from memory
void AddBytes(double bytes, Costs* counts);  // so many of weights, all of them once

double Total(const Costs& counts, const Costs& each);

// The one that seems fastest; `tile.run` is NULL if none can be addressed.
Tiling ChooseTiling(const LaneKernel& kernel, const tfc_shape& shape, OutputSize size, const Work& work);

}  // namespace tfc

#endif  // TFCOMPRESS_TILING_H_
