#include "stream.h"

#include <algorithm>
#include <numeric>

namespace tfc {
namespace {

// Where a word of weights is in a plane, and where those it is made of are told.
struct Weight {
  int32_t plane, line;
  int64_t source;
};

using Filter = std::vector<Weight>;

// The words of each filter, by plane; `source` gets `depth` places for each. Weights come tap by tap and channel
// by channel, so that those of a word follow each other in their filter.
std::vector<Filter> Filters(const tfc_shape& s, const tfc_weights& weights, int32_t depth, const Tiling& tiling,
                            const Stream& stream, std::vector<int32_t>* source) {
  std::vector<Filter> filters(s.filters);
  const auto width = static_cast<int32_t>(tiling.columns.source.size());
  for (int64_t i = 0; i < weights.count; ++i) {
    const Place at = PlaceOf(s, weights.indices[i]);
    const int32_t line = tiling.rows.taps[at.row] * width + tiling.columns.taps[at.column];
    const int32_t plane = stream.planes[at.channel / depth];
    Filter& filter = filters[at.filter];
    if (filter.empty() || filter.back().plane != plane || filter.back().line != line) {
      filter.push_back({plane, line, static_cast<int64_t>(source->size())});
      source->resize(source->size() + depth, -1);
    }
    (*source)[filter.back().source + at.channel % depth] = static_cast<int32_t>(i);
  }
  for (Filter& filter : filters) {
    std::stable_sort(filter.begin(), filter.end(),
                     [](const Weight& a, const Weight& b) { return a.plane < b.plane; });
  }
  return filters;
}

// Adds what of these filters lies in a block of planes. Of a share those with most weights come first: the
// processor foretells the end of a loop that is as long as the one before.
void AddStep(const Filter* filters, const Step& block, int32_t plane_lines, std::vector<size_t>* done,
             Chunk* chunk, Stream* stream, std::vector<int64_t>* places) {
  const auto ends = [&](int32_t slot) {
    size_t at = (*done)[slot];
    while (at < filters[slot].size() && filters[slot][at].plane < block.first_plane + block.planes) ++at;
    return at;
  };
  std::vector<int32_t> order(chunk->filters), counts(chunk->filters);
  std::iota(order.begin(), order.end(), 0);
  for (const int32_t slot : order) counts[slot] = static_cast<int32_t>(ends(slot) - (*done)[slot]);
  const bool last = block.first_plane + block.planes >= stream->plane_count;
  const bool empty = std::all_of(counts.begin(), counts.end(), [](int32_t count) { return count == 0; });
  if (empty && !(last && chunk->steps.empty())) return;
  Step step = block;
  for (int32_t share = 0; share < kShares; ++share) {
    const auto begin = order.begin() + ShareBegin(chunk->filters, share),
               end = order.begin() + ShareBegin(chunk->filters, share + 1);
    std::stable_sort(begin, end, [&](int32_t a, int32_t b) { return counts[a] > counts[b]; });
    step.first_count[share] = static_cast<int64_t>(stream->counts.size());
    step.first_weight[share] = static_cast<int64_t>(stream->lines.size());
    for (auto slot = begin; slot != end; ++slot) {
      stream->slots.push_back(*slot);
      stream->counts.push_back(counts[*slot]);
      for (int32_t i = 0; i < counts[*slot]; ++i) {
        const Weight& weight = filters[*slot][(*done)[*slot]++];
        stream->lines.push_back(
            static_cast<uint16_t>((weight.plane - block.first_plane) * plane_lines + weight.line));
        places->push_back(weight.source);
      }
    }
  }
  step.first_count[kShares] = static_cast<int64_t>(stream->counts.size());
  step.first_weight[kShares] = static_cast<int64_t>(stream->lines.size());
  chunk->steps.push_back(step);
}

// The blocks of planes, and the channels in them.
std::vector<Step> Blocks(const Stream& stream, int32_t size) {
  std::vector<Step> blocks;
  for (int32_t channel = 0; channel < static_cast<int32_t>(stream.planes.size()); ++channel) {
    const int32_t plane = stream.planes[channel];
    if (plane < 0) continue;
    if (plane % size == 0) blocks.push_back({plane, 0, channel, channel, {}, {}});
    ++blocks.back().planes;
    blocks.back().end_word = channel + 1;
  }
  if (blocks.empty()) blocks.push_back({});
  return blocks;
}

}  // namespace

Place PlaceOf(const tfc_shape& s, int32_t index) {
  const int32_t depth = s.channels / s.groups, filter = index % s.filters;
  const int32_t tap = index / s.filters / depth;
  const int32_t first = filter / (s.filters / s.groups) * depth;
  return {tap / s.kernel_width, tap % s.kernel_width, first + index / s.filters % depth, filter};
}

int64_t CountWords(const tfc_shape& shape, const tfc_weights& weights, int32_t filters, int32_t depth) {
  int64_t count = 0;
  const int64_t words = (shape.channels + depth - 1) / depth;
  std::vector<int64_t> last((shape.filters + filters - 1) / filters, -1);
  for (int64_t i = 0; i < weights.count; ++i) {
    const Place at = PlaceOf(shape, weights.indices[i]);
    const int64_t tap = int64_t{at.row} * shape.kernel_width + at.column;
    const int64_t place = tap * words + at.channel / depth;
    count += last[at.filter / filters] != place;
    last[at.filter / filters] = place;
  }
  return count;
}

void AssignPlanes(const tfc_shape& shape, const tfc_weights& weights, int32_t depth, Stream* stream) {
  stream->planes.assign((shape.channels + depth - 1) / depth, -1);
  for (int64_t i = 0; i < weights.count; ++i) {
    stream->planes[PlaceOf(shape, weights.indices[i]).channel / depth] = 0;
  }
  for (int32_t& plane : stream->planes) plane = plane < 0 ? -1 : stream->plane_count++;
}

void AssignAllPlanes(Stream* stream) {
  std::iota(stream->planes.begin(), stream->planes.end(), 0);
  stream->plane_count = static_cast<int32_t>(stream->planes.size());
}

void FillStream(const tfc_shape& shape, const tfc_weights& weights, int32_t depth, const Tiling& tiling,
                Stream* stream, std::vector<int32_t>* source) {
  std::vector<int32_t> unsorted;
  std::vector<int64_t> places;
  const std::vector<Filter> filters = Filters(shape, weights, depth, tiling, *stream, &unsorted);
  const std::vector<Step> blocks = Blocks(*stream, tiling.block_channels);
  for (int32_t first = 0; first < shape.filters; first += tiling.chunk_filters) {
    Chunk chunk = {first, std::min(tiling.chunk_filters, shape.filters - first), {}};
    std::vector<size_t> done(chunk.filters, 0);
    for (const Step& block : blocks) {
      AddStep(filters.data() + first, block, tiling.plane_lines, &done, &chunk, stream, &places);
    }
    stream->chunks.push_back(std::move(chunk));
  }
  source->reserve(unsorted.size());
  for (const int64_t place : places) {
    source->insert(source->end(), unsorted.begin() + place, unsorted.begin() + place + depth);
  }
}

}  // namespace tfc
