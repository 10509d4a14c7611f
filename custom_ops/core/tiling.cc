#include "tiling.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace tfc {
namespace {

constexpr int32_t kMostLines = 65536;  // of a block: lines are counted in 16 bits
constexpr int32_t kLineBytes = 64;
constexpr int32_t kBlockBytes = 40 * 1024;  // of the first-level cache, which has 32 or 48 KiB
constexpr int32_t kSumBytes = 384 * 1024;   // of the second-level cache

// Cycles, roughly; only their proportions matter.
constexpr double kPerWeight = 1.0;   // to fetch a weight and where it applies
constexpr double kPerVector = 0.5;   // to multiply and add
constexpr double kPerSum = 1.5;      // to load or store a vector of sums
constexpr double kPerPacked = 3.5;   // to transpose a vector

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

// So many as are packed at a time, or a part of that.
int32_t RoundedBlock(int32_t channels) {
  if (channels >= kLanes) return channels / kLanes * kLanes;
  int32_t power = kLanes / 2;
  while (power > channels) power /= 2;
  return std::max(1, power);
}

Tiling Cut(const Tile& tile, int32_t lane_rows, const tfc_shape& shape, OutputSize size) {
  Tiling t;
  t.tile = tile;
  t.lane_rows = lane_rows;
  t.lane_columns = kLanes / lane_rows;
  t.region_rows = CeilDiv(size.height, lane_rows * tile.rows);
  t.region_columns = CeilDiv(size.width, t.lane_columns * tile.columns);
  t.rows = MakeAxis(tile.rows, shape.kernel_height, shape.stride_height, shape.dilation_height);
  t.columns = MakeAxis(tile.columns, shape.kernel_width, shape.stride_width, shape.dilation_width);
  const int64_t lines = static_cast<int64_t>(t.rows.source.size()) * t.columns.source.size();
  t.plane_lines = lines < kMostLines ? static_cast<int32_t>(lines) | 1 : kMostLines;
  t.block_channels = RoundedBlock(kBlockBytes / kLineBytes / t.plane_lines);
  t.chunk_filters = std::max(1, kSumBytes / kLineBytes / t.Vectors() / kLanes) * kLanes;
  return t;
}

double Cost(const Tiling& t, const tfc_shape& shape, Work work) {
  const double vectors = t.Vectors();
  const double blocks = CeilDiv(std::max(work.channels, 1), t.block_channels);
  const double chunks = CeilDiv(shape.filters, t.chunk_filters);
  const double weights = static_cast<double>(work.weights) * (kPerWeight + kPerVector * vectors);
  const double sums = shape.filters * vectors * (2 * kPerSum * blocks + kPerPacked);
  const double pack = chunks * t.Positions() * work.channels * kPerPacked;
  return t.region_rows * t.region_columns * (pack + weights + sums);
}

}  // namespace

Axis MakeAxis(int32_t outputs, int32_t taps, int32_t stride, int32_t dilation) {
  Axis axis;
  axis.taps.resize(taps);
  // A tap reads outputs that lie `stride` apart: positions of one remainder, in which they are neighbours.
  std::vector<int32_t> order(taps);
  std::iota(order.begin(), order.end(), 0);
  const auto remainder = [=](int32_t tap) { return static_cast<int64_t>(tap) * dilation % stride; };
  const auto quotient = [=](int32_t tap) { return static_cast<int64_t>(tap) * dilation / stride; };
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return remainder(a) < remainder(b); });
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

Tiling ChooseTiling(const Kernel& kernel, const tfc_shape& shape, OutputSize size, Work work) {
  Tiling best{};
  double least = std::numeric_limits<double>::infinity();
  for (int32_t i = 0; i < kernel.tile_count; ++i) {
    for (int32_t lane_rows = 1; lane_rows <= kLanes; lane_rows *= 2) {
      const Tiling tiling = Cut(kernel.tiles[i], lane_rows, shape, size);
      if (tiling.plane_lines >= kMostLines) continue;
      const double cost = Cost(tiling, shape, work);
      if (cost < least) {
        least = cost;
        best = tiling;
      }
    }
  }
  return best;
}

}  // namespace tfc
