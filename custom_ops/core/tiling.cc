#include "tiling.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace tfc {
namespace {

constexpr int32_t kMostLines = 65536;          // of a block: lines are counted in 16 bits
constexpr int32_t kBlockBytes = 36 * 1024;     // of the first-level cache, which has 32 or 48 KiB
constexpr int64_t kPanelBytes = 768 * 1024;    // of the second-level cache, beyond which planes are costly
constexpr int32_t kLineBytes = 64;

// Cycles, roughly; only their proportions matter.
constexpr double kPerWeight = 1.0;   // to fetch a weight and where it applies
constexpr double kPerVector = 0.5;   // to multiply and add
constexpr double kPerSum = 1.5;      // to load or store a vector of sums
constexpr double kPerPacked = 3.5;   // to transpose a vector

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

int32_t Odd(int32_t count) { return count | 1; }

Tiling Cut(const Tile& tile, int32_t lane_rows, int32_t tile_rows, int32_t tile_columns, const tfc_shape& shape,
           OutputSize size) {
  Tiling t;
  t.tile = tile;
  t.lane_rows = lane_rows;
  t.lane_columns = kLanes / lane_rows;
  t.tile_rows = tile_rows;
  t.tile_columns = tile_columns;
  t.rows = MakeAxis(t.PartRows(), shape.kernel_height, shape.stride_height, shape.dilation_height);
  t.columns = MakeAxis(t.PartColumns(), shape.kernel_width, shape.stride_width, shape.dilation_width);
  const int64_t lines = static_cast<int64_t>(t.rows.source.size()) * t.columns.source.size();
  t.plane_lines = lines < kMostLines ? Odd(static_cast<int32_t>(lines)) : kMostLines;
  t.region_rows = CeilDiv(size.height, lane_rows * t.PartRows());
  t.region_columns = CeilDiv(size.width, t.lane_columns * t.PartColumns());
  return t;
}

double Cost(const Tiling& t, const tfc_shape& shape, Work work) {
  const double vectors = t.Vectors();
  const double tiles = double{1.0} * t.tile_rows * t.tile_columns;
  const double blocks = CeilDiv(std::max(work.channels, 1), BlockChannels(t, shape));
  const double weights = static_cast<double>(work.weights) * (kPerWeight + kPerVector * vectors);
  const double sums = shape.filters * vectors * (2 * kPerSum * blocks + kPerPacked);
  const double positions = static_cast<double>(t.rows.source.size()) * t.columns.source.size();
  double pack = positions * work.channels * kPerPacked;
  if (positions * work.channels * kLineBytes > kPanelBytes) pack *= 2;
  return t.region_rows * t.region_columns * (pack + tiles * (weights + sums));
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

int32_t BlockChannels(const Tiling& tiling, const tfc_shape& shape) {
  const Axis rows = MakeAxis(tiling.tile.rows, shape.kernel_height, shape.stride_height, shape.dilation_height);
  const Axis columns =
      MakeAxis(tiling.tile.columns, shape.kernel_width, shape.stride_width, shape.dilation_width);
  const int64_t read = static_cast<int64_t>(rows.source.size()) * columns.source.size() * kLineBytes;
  const int64_t addressable = kMostLines / tiling.plane_lines;
  return static_cast<int32_t>(std::max<int64_t>(1, std::min<int64_t>(kBlockBytes / read, addressable)));
}

Tiling ChooseTiling(const Kernel& kernel, const tfc_shape& shape, OutputSize size, Work work) {
  Tiling best{};
  double least = std::numeric_limits<double>::infinity();
  for (int32_t i = 0; i < kernel.tile_count; ++i) {
    for (int32_t lane_rows = 1; lane_rows <= kLanes; lane_rows *= 2) {
      for (const auto &[tile_rows, tile_columns] : {std::pair(1, 1), std::pair(1, 2), std::pair(2, 1), std::pair(2, 2)}) {
        const Tiling tiling = Cut(kernel.tiles[i], lane_rows, tile_rows, tile_columns, shape, size);
        if (tiling.plane_lines >= kMostLines) continue;
        const double cost = Cost(tiling, shape, work);
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
