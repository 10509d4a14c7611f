#include "stream.h"

#include <algorithm>
#include <numeric>

namespace tfc {
namespace {

constexpr int32_t kChunkFilters = 128;

// The weights of one filter as (plane, line within a plane, value), by plane.
struct Weight {
  int32_t plane, line;
  float value;
};

using Filter = std::vector<Weight>;

Filter WeightsOf(const tfc_shape& s, const float* weights, const Tiling& tiling, const Stream& stream,
                 int32_t filter) {
  const int32_t depth = s.channels / s.groups;
  const int32_t first = filter / (s.filters / s.groups) * depth;
  const auto width = static_cast<int32_t>(tiling.columns.source.size());
  Filter found;
  for (int32_t k = 0; k < depth; ++k) {
    for (int32_t r = 0; r < s.kernel_height; ++r) {
      for (int32_t c = 0; c < s.kernel_width; ++c) {
        const int64_t tap = int64_t{r} * s.kernel_width + c;
        const float value = weights[(tap * depth + k) * s.filters + filter];
        if (value == 0.0f) continue;
        found.push_back({stream.planes[first + k], tiling.rows.taps[r] * width + tiling.columns.taps[c], value});
      }
    }
  }
  return found;
}

// Adds what of these filters lies in a block of planes.
void AddStep(const std::vector<Filter>& filters, const std::vector<int32_t>& order, int32_t first_plane,
             int32_t planes, int32_t plane_lines, std::vector<size_t>* done, Chunk* chunk, Stream* stream) {
  const Step step = {first_plane, static_cast<int64_t>(stream->counts.size()),
                     static_cast<int64_t>(stream->lines.size())};
  for (const int32_t slot : order) {
    size_t& at = (*done)[slot];
    const size_t begun = at;
    for (; at < filters[slot].size() && filters[slot][at].plane < first_plane + planes; ++at) {
      const Weight& weight = filters[slot][at];
      stream->lines.push_back(
          static_cast<uint16_t>((weight.plane - first_plane) * plane_lines + weight.line));
      stream->values.push_back(weight.value);
    }
    stream->counts.push_back(static_cast<int32_t>(at - begun));
  }
  const bool empty = static_cast<int64_t>(stream->lines.size()) == step.first_weight;
  if (empty && !(chunk->steps.empty() && first_plane + planes >= stream->plane_count)) {
    stream->counts.resize(step.first_count);
    return;
  }
  chunk->steps.push_back(step);
}

}  // namespace

void UsedChannels(const tfc_shape& s, const float* weights, Stream* stream, Work* work) {
  const int32_t depth = s.channels / s.groups, filters = s.filters / s.groups;
  std::vector<bool> used(s.channels, false);
  work->weights = 0;
  for (int64_t tap = 0; tap < int64_t{s.kernel_height} * s.kernel_width; ++tap) {
    for (int32_t k = 0; k < depth; ++k) {
      const float* row = weights + (tap * depth + k) * s.filters;
      for (int32_t f = 0; f < s.filters; ++f) {
        if (row[f] == 0.0f) continue;
        used[f / filters * depth + k] = true;
        ++work->weights;
      }
    }
  }
  stream->planes.resize(s.channels);
  for (int32_t k = 0; k < s.channels; ++k) stream->planes[k] = used[k] ? stream->plane_count++ : -1;
  work->channels = stream->plane_count;
}

void FillStream(const tfc_shape& shape, const float* weights, const Tiling& tiling, Stream* stream) {
  const int32_t block = BlockChannels(tiling, shape);
  for (int32_t first = 0; first < shape.filters; first += kChunkFilters) {
    Chunk chunk = {first, std::min(kChunkFilters, shape.filters - first), {}};
    std::vector<Filter> filters;
    for (int32_t f = 0; f < chunk.filters; ++f) {
      filters.push_back(WeightsOf(shape, weights, tiling, *stream, first + f));
    }
    std::vector<int32_t> order(chunk.filters);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return filters[a].size() > filters[b].size(); });
    stream->slots.insert(stream->slots.end(), order.begin(), order.end());
    std::vector<size_t> done(chunk.filters, 0);
    for (int32_t plane = 0; plane < std::max(stream->plane_count, 1); plane += block) {
      AddStep(filters, order, plane, block, tiling.plane_lines, &done, &chunk, stream);
    }
    stream->chunks.push_back(std::move(chunk));
  }
}

}  // namespace tfc
