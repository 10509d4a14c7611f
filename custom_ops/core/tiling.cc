#include "tiling.h"

#include <algorithm>
#include <limits>
#include <numeric>

#if defined(__unix__)
#include <unistd.h>
#endif

namespace tfc {
namespace {

constexpr int32_t kMostPlaces = 65536;  // of a block: they are counted in 16 bits
constexpr int32_t kLineBytes = 64;
// By slices, of a vector of sums, and of one that is packed.
constexpr double kJoinsOfVector[] = {0, 0, 1, 0, 2}, kJoinsOfPacked[] = {0, 0, 3, 0, 4};
constexpr double kBehind = 2.5;  // so much faster do weights come that are waited for while others are multiplied
constexpr int32_t kMostCaches = 2;  // how many times the first-level cache a block may be, where words are whole
constexpr double kMissed = 0.5;     // what a line takes that is not in that, beside what multiplying a vector does

CacheBytes ReadCacheBytes() {
  CacheBytes bytes;
#if defined(_SC_LEVEL1_DCACHE_SIZE) && defined(_SC_LEVEL2_CACHE_SIZE)
  constexpr long kLargest = 16L << 20;  // a virtual machine may say anything
  const long first = sysconf(_SC_LEVEL1_DCACHE_SIZE), second = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (first >= 16 * 1024) bytes.block = static_cast<int32_t>(std::min(first, kLargest) / 6 * 5);
  if (second >= 128 * 1024) bytes.sums = static_cast<int32_t>(std::min(second, kLargest) / 8 * 3);
  if (second >= 128 * 1024) bytes.near = std::min(second, kLargest);
#endif
  return bytes;
}

// So many as are packed at a time, or a part of that.
int32_t RoundedBlock(int32_t channels) {
  if (channels >= kLanes) return channels / kLanes * kLanes;
  int32_t power = kLanes / 2;
  while (power > channels) power /= 2;
  return std::max(1, power);
}

Tiling Cut(const LaneKernel& kernel, const Tile& tile, int32_t lane_rows, const tfc_shape& shape, OutputSize size,
           bool in_place, int32_t caches) {
  Tiling t;
  t.tile = tile;
  t.together = kernel.together;
  t.lane_rows = lane_rows;
  t.slices = kernel.slices;
  t.lane_columns = t.Lanes() / lane_rows;
  if (t.slices > 1) {
    const int32_t outputs = tile.columns * t.Lanes();
    t.strip = MakeStrip(shape, size, outputs, t.Lanes());
    t.region_rows = 1;
    t.region_columns = CeilDiv(t.strip.length, outputs);
  } else {
    t.region_rows = CeilDiv(size.height, lane_rows * tile.rows);
    t.region_columns = CeilDiv(size.width, t.lane_columns * tile.columns);
    t.rows = MakeAxis(tile.rows, shape.kernel_height, shape.stride_height, shape.dilation_height);
    t.columns = MakeAxis(tile.columns, shape.kernel_width, shape.stride_width, shape.dilation_width);
  }
  const int64_t lines = int64_t{t.Positions()} * t.slices;
  t.plane_lines = lines < kMostPlaces ? static_cast<int32_t>(lines) | (in_place ? 0 : 1) : kMostPlaces;
  const int64_t bytes = t.together == 1 ? int64_t{caches} * Caches().block : Caches().near / 8;
  const int64_t lines_of_block = std::min<int64_t>(bytes / kLineBytes, kMostPlaces / t.Places());
  t.block_channels = RoundedBlock(static_cast<int32_t>(lines_of_block / t.plane_lines));
  const int32_t most = std::max(1, Caches().sums / kLineBytes / t.Vectors() / kLanes);  // vectors of filters
  const int32_t vectors = CeilDiv(shape.filters, kLanes), chunks = CeilDiv(vectors, most);
  t.chunk_filters = CeilDiv(vectors, chunks) * kLanes;
  return t;
}

bool Wanted(const tfc_tiles& tiles, const Tile& tile, int32_t lane_rows) {
  const bool any = tiles.rows == 0 && tiles.columns == 0 && tiles.lane_rows == 0;
  return any || (tile.rows == tiles.rows && tile.columns == tiles.columns && lane_rows == tiles.lane_rows);
}

}  // namespace

const CacheBytes& Caches() {
  static const CacheBytes bytes = ReadCacheBytes();
  return bytes;
}

Axis MakeAxis(int32_t outputs, int32_t taps, int32_t stride, int32_t dilation) {
  Axis axis;
  axis.taps.resize(taps);
  // A tap reads outputs that lie `stride` apart: positions of one remainder, in which they are neighbours.
  std::vector<int32_t> order(taps);
  std::iota(order.begin(), order.end(), 0);
  const auto remainder = [=](int32_t tap) { return static_cast<int64_t>(tap) * dilation % stride; };
  const auto quotient = [=](int32_t tap) { return static_cast<int64_t>(tap) * dilation / stride; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return remainder(a) < remainder(b); });
  int64_t current = -1, end = 0;  // the remainder, and the quotient up to which there are positions
  for (const int32_t tap : order) {
    const int64_t first = quotient(tap);
    if (remainder(tap) != current || first > end) end = first;  // a new stretch
    current = remainder(tap);
    for (; end < first + outputs; ++end) {
      axis.source.push_back(static_cast<int32_t>(end * stride + current));
    }
    axis.taps[tap] = static_cast<int32_t>(axis.source.size() - (end - first));
  }
  return axis;
}

void AddBytes(double bytes, Costs* counts) {
  if (bytes <= static_cast<double>(Caches().near)) return;
  (*counts)[bytes <= kFarBytes ? kNearByte : kFarByte] += bytes;
}

Squares SquaresOf(const tfc_shape& shape, const Work& work) {
  const double taps = double(shape.kernel_height) * shape.kernel_width;
  const double places = taps * work.channels / shape.groups * CeilDiv(shape.filters, kLanes);
  const auto read = static_cast<double>(work.blocks);
  if (work.channels >= kLanes && read * kOtherSquare >= places) return {places / kLanes, 0};
  const double least = CeilDiv(shape.filters, kLanes);  // one for each 16 filters
  return {0, std::max(read / kLanes, read > 0 ? least : 0)};
}

// Of weights, each made of slices as far as they go.
double WordsOf(const Tiling& t, const Work& work, double begun) {
  const int64_t whole = t.slices == 1 ? work.weights : t.slices == 2 ? work.halves : work.quarters;
  const double filled_up = begun * (t.slices - 1) / 2;
  return (static_cast<double>(whole) + filled_up) / t.slices;
}

// The share of lines that are not in the first-level cache when they are read.
double MissedShare(const Tiling& t, const Work& work) {
  const double lines = std::min(t.block_channels, std::max(work.channels, 1)) * double(t.plane_lines);
  return std::max(0.0, 1 - Caches().block / (lines * kLineBytes));
}

Costs Counts(const Tiling& t, const tfc_shape& shape, const Work& work) {
  const double vectors = t.Vectors(), filters = shape.filters;
  const double blocks = CeilDiv(std::max(work.channels, 1), t.block_channels);
  const double weights = WordsOf(t, work, filters * blocks);
  const double planes =
      CeilDiv(shape.filters, t.chunk_filters) * t.Positions() * static_cast<double>(work.channels) * t.slices;
  // Where a block has fewer than are packed at a time, the others are packed in vain.
  const int32_t together = std::min(work.channels, kLanes);
  const bool packed = !work.in_place && !work.tiled.input;
  const double again = packed && t.block_channels < together ? double(together) / t.block_channels : 1;
  Costs counts{};
  counts[kRegion] = 1;
  if (t.together == 1) {
    counts[kFilter] = filters * blocks;
    counts[kSum] = filters * blocks * vectors;
    counts[kWeight] = weights;
    counts[kVector] = weights * vectors * (1 + kMissed * MissedShare(t, work));
    counts[kJoined] = weights * vectors * kJoinsOfVector[t.slices] + planes * kJoinsOfPacked[t.slices];
    if (!work.tiled.output) counts[kUnpacked] = filters * vectors;
  } else {
    const Squares squares = SquaresOf(shape, work);
    counts[kSquareSum] = CeilDiv(shape.filters, kLanes) * blocks * vectors;
    counts[kSquare] = squares.near + squares.any;
    counts[kSquareVector] = counts[kSquare] * vectors;
    counts[kCopiedVector] = squares.any * vectors;
  }
  counts[work.in_place ? kTouched : work.tiled.input ? kGathered : kPacked] = planes * again;
  for (double& count : counts) count *= t.Regions();
  if (shape.channels % work.depth != 0) {  // word by word
    counts[kCopied] = double(shape.height) * shape.width * CeilDiv(shape.channels, work.depth);
  }
  const double bytes = t.together == 1 ? weights * (sizeof(uint16_t) * t.slices + kWordBytes)
                                       : counts[kSquare] / t.Regions() * kLanes * kLineBytes / kBehind;
  AddBytes(bytes, &counts);  // once: they stay from region to region
  return counts;
}

double Total(const Costs& counts, const Costs& each) {
  return std::inner_product(counts.begin(), counts.end(), each.begin(), 0.0);
}

Tiling ChooseTiling(const LaneKernel& kernel, const tfc_shape& shape, OutputSize size, const Work& work) {
  Tiling best{};
  double least = std::numeric_limits<double>::infinity();
  for (int32_t i = 0; i < kernel.tile_count; ++i) {
    for (int32_t lane_rows = 1; lane_rows <= (kernel.slices > 1 ? 1 : kLanes); lane_rows *= 2) {
      if (!Wanted(work.tiles, kernel.tiles[i], lane_rows)) continue;
      for (int32_t caches = 1; caches <= (kernel.slices == 1 ? kMostCaches : 1); ++caches) {
        const Tiling tiling = Cut(kernel, kernel.tiles[i], lane_rows, shape, size, work.in_place, caches);
        if (tiling.plane_lines >= kMostPlaces / tiling.Places()) continue;
        const double cost = Total(Counts(tiling, shape, work), Typical(work.depth));
        if (cost < least) {
          least = cost;
          best = tiling;
        }
      }
    }
  }
  return best;
}

}  // namespace tfc
