#include "stream.h"

#include <algorithm>
#include <numeric>

namespace tfc {
namespace {

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

// Adds what of these filters lies in a block of planes. Those with most weights come first: the processor
// foretells the end of a loop that is as long as the one before.
void AddStep(const std::vector<Filter>& filters, const Step& block, int32_t plane_lines,
             std::vector<size_t>* done, Chunk* chunk, Stream* stream) {
  const auto ends = [&](int32_t slot) {
    size_t at = (*done)[slot];
    while (at < filters[slot].size() && filters[slot][at].plane < block.first_plane + block.planes) ++at;
    return at;
  };
  std::vector<int32_t> order(filters.size()), counts(filters.size());
  std::iota(order.begin(), order.end(), 0);
  for (const int32_t slot : order) counts[slot] = static_cast<int32_t>(ends(slot) - (*done)[slot]);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return counts[a] > counts[b]; });
  const bool last = block.first_plane + block.planes >= stream->plane_count;
  if (counts[order[0]] == 0 && !(last && chunk->steps.empty())) return;
  chunk->steps.push_back(block);
  chunk->steps.back().first_count = static_cast<int64_t>(stream->counts.size());
  chunk->steps.back().first_weight = static_cast<int64_t>(stream->lines.size());
  for (const int32_t slot : order) {
    stream->slots.push_back(slot);
    stream->counts.push_back(counts[slot]);
    for (int32_t i = 0; i < counts[slot]; ++i) {
      const Weight& weight = filters[slot][(*done)[slot]++];
      stream->lines.push_back(static_cast<uint16_t>((weight.plane - block.first_plane) * plane_lines + weight.line));
      stream->values.push_back(weight.value);
    }
  }
}

// The blocks of planes, and the channels in them.
std::vector<Step> Blocks(const Stream& stream, int32_t size) {
  std::vector<Step> blocks;
  for (int32_t channel = 0; channel < static_cast<int32_t>(stream.planes.size()); ++channel) {
    const int32_t plane = stream.planes[channel];
    if (plane < 0) continue;
    if (plane % size == 0) blocks.push_back({plane, 0, channel, channel, 0, 0});
    ++blocks.back().planes;
    blocks.back().end_channel = channel + 1;
  }
  if (blocks.empty()) blocks.push_back({});
  return blocks;
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
  const std::vector<Step> blocks = Blocks(*stream, tiling.block_channels);
  for (int32_t first = 0; first < shape.filters; first += tiling.chunk_filters) {
    Chunk chunk = {first, std::min(tiling.chunk_filters, shape.filters - first), {}};
    std::vector<Filter> filters;
    for (int32_t f = 0; f < chunk.filters; ++f) {
      filters.push_back(WeightsOf(shape, weights, tiling, *stream, first + f));
    }
    std::vector<size_t> done(chunk.filters, 0);
    for (const Step& block : blocks) {
      AddStep(filters, block, tiling.plane_lines, &done, &chunk, stream);
    }
    stream->chunks.push_back(std::move(chunk));
  }
}

}  // namespace tfc
