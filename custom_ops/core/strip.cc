#include "strip.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

namespace tfc {
namespace {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

int32_t Limited(int64_t count) { return static_cast<int32_t>(std::min(count, kMost)); }

// A tap along one axis: it reads so many strides and a remainder from where outputs are.
struct Offset {
  int64_t steps;
  int32_t remainder;
};

std::vector<Offset> OffsetsOf(int32_t taps, int32_t stride, int32_t dilation) {
  std::vector<Offset> offsets;
  for (int64_t tap = 0; tap < taps; ++tap) {
    offsets.push_back({tap * dilation / stride, static_cast<int32_t>(tap * dilation % stride)});
  }
  return offsets;
}

// The first multiple of the stride that lies so far or further.
int64_t StepsTo(int64_t distance, int64_t stride) {
  return distance >= 0 ? (distance + stride - 1) / stride : -(-distance / stride);
}

// With at least this pitch, a tap reads nothing of the next row; or what it reads there is off the map, as it is
// in its own row.
int64_t LeastPitch(const tfc_shape& s, int64_t outputs, const Offset& tap) {
  const int64_t end = outputs + tap.steps, pad = s.pad_left - tap.remainder;
  return std::min(end, std::max(StepsTo(s.width + pad, s.stride_width), end - StepsTo(pad, s.stride_width)));
}

}  // namespace

Strip MakeStrip(const tfc_shape& s, OutputSize size, int32_t outputs, int32_t line_places) {
  const std::vector<Offset> rows = OffsetsOf(s.kernel_height, s.stride_height, s.dilation_height),
                            columns = OffsetsOf(s.kernel_width, s.stride_width, s.dilation_width);
  int64_t pitch = size.width;
  for (const Offset& tap : columns) pitch = std::max(pitch, LeastPitch(s, size.width, tap));
  std::map<std::pair<int32_t, int32_t>, int64_t> furthest;  // by remainders of rows and columns
  for (const Offset& down : rows) {
    for (const Offset& right : columns) {
      int64_t& place = furthest[{down.remainder, right.remainder}];
      place = std::max(place, down.steps * pitch + right.steps);
    }
  }
  Strip strip{};
  strip.pitch = Limited(pitch);
  strip.length = Limited((size.height - 1) * pitch + size.width);
  strip.kernel_width = s.kernel_width;
  std::map<std::pair<int32_t, int32_t>, int64_t> first;
  int64_t lines = 0;
  for (const auto& [phase, place] : furthest) {
    const int64_t more = (outputs + place + line_places - 1) / line_places;
    strip.phases.push_back({phase.first, phase.second, Limited(lines), Limited(more)});
    first[phase] = lines * line_places;
    lines += more;
  }
  strip.lines = Limited(lines);
  for (const Offset& down : rows) {
    for (const Offset& right : columns) {
      const int64_t place = first[{down.remainder, right.remainder}] + down.steps * pitch + right.steps;
      strip.taps.push_back(Limited(place));
    }
  }
  return strip;
}

}  // namespace tfc
