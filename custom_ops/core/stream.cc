#include "stream.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <tuple>

namespace tfc {
namespace {

// Where a word of weights, or a slice of one, is in a plane, and where those it is made of are told: as many of
// each filter as it has.
struct Weight {
  int32_t plane, line;
  int64_t source;
};

using Weights = std::vector<Weight>;

// The words, or slices, that filters read, so many of them `together`, by plane. Weights come tap by tap, channel
// by channel: those of a word are not all next to each other, but nothing of its filters is between them.
std::vector<Weights> WeightsOfGroups(const tfc_shape& s, const tfc_weights& weights, int32_t depth,
                                     const Tiling& tiling, const Stream& stream, std::vector<int32_t>* source) {
  const int32_t together = tiling.together, size = depth / tiling.slices;
  std::vector<Weights> groups(CeilDiv(s.filters, together));
  for (int64_t i = 0; i < weights.count; ++i) {
    const Place at = PlaceOf(s, weights.indices[i]);
    const int32_t slice = at.channel % depth / size;
    const int32_t line = slice * tiling.Positions() * tiling.Places() + tiling.PlaceOfTap(at.row, at.column);
    const int32_t plane = stream.planes[at.channel / depth];
    Weights& group = groups[at.filter / together];
    if (group.empty() || group.back().plane != plane || group.back().line != line) {
      group.push_back({plane, line, static_cast<int64_t>(source->size())});
      source->resize(source->size() + together * size, -1);
    }
    const int64_t place = group.back().source + at.filter % together * size + at.channel % size;
    (*source)[place] = static_cast<int32_t>(i);
  }
  for (Weights& group : groups) {
    std::stable_sort(group.begin(), group.end(),
                     [](const Weight& a, const Weight& b) { return a.plane < b.plane; });
  }
  return groups;
}

// Puts the weights of a block of planes into a stream.
class Filler {
 public:
  // `places` gets, for each slice of a plan's words, or for 16 words of all filters that go together, its source.
  Filler(const Tiling& tiling, Stream* stream, std::vector<int64_t>* places)
      : tiling_(tiling), stream_(stream), places_(places) {}

  Step::Start Here() const {
    return {static_cast<int64_t>(stream_->slots.size()), static_cast<int64_t>(stream_->counts.size()),
            static_cast<int64_t>(stream_->lines.size()),
            static_cast<int64_t>(places_->size()) * tiling_.together / tiling_.slices};
  }

  void Add(int32_t slot, const Weight* begin, const Weight* end, int32_t first_plane) {
    stream_->slots.push_back(slot);
    first_plane_ = first_plane;
    if (tiling_.together > 1) return AddSquares({begin, end});
    const auto slices = static_cast<int32_t>(end - begin), words = CeilDiv(slices, tiling_.slices);
    stream_->counts.push_back(words);
    for (; begin != end; ++begin) AddWord(*begin);
    for (int32_t more = words * tiling_.slices - slices; more > 0; --more) {  // zeros, for any line
      stream_->lines.push_back(stream_->lines.back());
      places_->push_back(-1);
    }
  }

 private:
  int32_t Near(const Weight& weight) const { return (weight.plane - first_plane_) / kLanes; }

  void AddLine(int32_t plane, int32_t line) {
    const int32_t first = (plane - first_plane_) * tiling_.plane_lines * tiling_.Places();
    stream_->lines.push_back(static_cast<uint16_t>(first + line));
  }

  void AddWord(const Weight& weight) {
    AddLine(weight.plane, weight.line);
    places_->push_back(weight.source);
  }

  void AddSquares(Weights weights) {
    const auto key = [&](const Weight& w) { return std::make_tuple(Near(w), w.line, w.plane); };
    std::sort(weights.begin(), weights.end(), [&](const Weight& a, const Weight& b) { return key(a) < key(b); });
    std::vector<Weights> runs;  // of lines of neighbouring planes
    for (const Weight& weight : weights) {
      const bool more =
          !runs.empty() && Near(runs.back()[0]) == Near(weight) && runs.back()[0].line == weight.line;
      if (!more) runs.emplace_back();
      runs.back().push_back(weight);
    }
    // Longest first; those whose planes are not all in memory last.
    const auto length = [&](const Weights& run) {
      const bool whole = (Near(run[0]) + 1) * kLanes <= tiling_.block_channels;
      return whole ? run.size() : 0;
    };
    std::stable_sort(runs.begin(), runs.end(),
                     [&](const Weights& a, const Weights& b) { return length(a) > length(b); });
    const size_t near = NearRuns(runs, weights.size(), length);
    Weights others;
    for (size_t i = 0; i < runs.size(); ++i) {
      if (i < near) {
        AddNearSquare(runs[i], &others);
      } else {
        others.insert(others.end(), runs[i].begin(), runs[i].end());
      }
    }
    std::stable_sort(others.begin(), others.end(),
                     [](const Weight& a, const Weight& b) { return a.plane < b.plane; });
    stream_->counts.push_back(static_cast<int32_t>(near));
    stream_->counts.push_back(static_cast<int32_t>(others.size()));
    for (const Weight& weight : others) AddWord(weight);
    places_->resize((places_->size() + kLanes - 1) / kLanes * kLanes, -1);
  }

  // How many of the runs are best read as they lie, where all others are read line by line.
  template <typename Length>
  static size_t NearRuns(const std::vector<Weights>& runs, size_t lines, const Length& length) {
    size_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (size_t near = 0; near <= runs.size(); ++near) {
      const double cost =
          static_cast<double>(near) + kOtherSquare * static_cast<double>((lines + kLanes - 1) / kLanes);
      if (cost < least) {
        least = cost;
        best = near;
      }
      if (near == runs.size() || length(runs[near]) == 0) break;
      lines -= runs[near].size();
    }
    return best;
  }

  // Of lines that stand twice at a place, one.
  void AddNearSquare(const Weights& run, Weights* others) {
    AddLine(first_plane_ + Near(run[0]) * kLanes, run[0].line);
    const size_t first = places_->size();
    places_->resize(first + kLanes, -1);
    for (const Weight& weight : run) {
      int64_t& place = (*places_)[first + (weight.plane - first_plane_) % kLanes];
      if (place < 0) {
        place = weight.source;
      } else {
        others->push_back(weight);
      }
    }
  }

  const Tiling& tiling_;
  Stream* stream_;
  std::vector<int64_t>* places_;
  int32_t first_plane_ = 0;
};

// Adds what of these groups lies in a block of planes. Of a share those with most weights come first: the
// processor foretells the end of a loop that is as long as the one before.
void AddStep(const Weights* groups, const Step& block, int32_t together, std::vector<size_t>* done, Chunk* chunk,
             bool last, Filler* filler) {
  const auto ends = [&](int32_t group) {
    size_t at = (*done)[group];
    while (at < groups[group].size() && groups[group][at].plane < block.first_plane + block.planes) ++at;
    return at;
  };
  std::vector<int32_t> order(done->size()), counts(done->size());
  std::iota(order.begin(), order.end(), 0);
  for (const int32_t group : order) counts[group] = static_cast<int32_t>(ends(group) - (*done)[group]);
  const bool empty = std::all_of(counts.begin(), counts.end(), [](int32_t count) { return count == 0; });
  if (empty && !(last && chunk->steps.empty())) return;
  Step step = block;
  for (int32_t share = 0; share < kShares; ++share) {
    const auto begin = order.begin() + CeilDiv(ShareBegin(chunk->filters, share), together),
               end = order.begin() + CeilDiv(ShareBegin(chunk->filters, share + 1), together);
    std::stable_sort(begin, end, [&](int32_t a, int32_t b) { return counts[a] > counts[b]; });
    step.starts[share] = filler->Here();
    for (auto group = begin; group != end; ++group) {
      const Weight* first = groups[*group].data() + (*done)[*group];
      filler->Add(*group * together, first, first + counts[*group], block.first_plane);
      (*done)[*group] += counts[*group];
    }
  }
  chunk->steps.push_back(step);
}

// The blocks of planes, and the channels in them.
std::vector<Step> Blocks(const Stream& stream, int32_t size) {
  std::vector<Step> blocks;
  for (int32_t channel = 0; channel < static_cast<int32_t>(stream.planes.size()); ++channel) {
    const int32_t plane = stream.planes[channel];
    if (plane < 0) continue;
    if (plane % size == 0) blocks.push_back({plane, 0, channel, channel, {}});
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
  const int32_t together = tiling.together;
  std::vector<int32_t> unsorted;
  std::vector<int64_t> places;
  const std::vector<Weights> groups = WeightsOfGroups(shape, weights, depth, tiling, *stream, &unsorted);
  const std::vector<Step> blocks = Blocks(*stream, tiling.block_channels);
  Filler filler(tiling, stream, &places);
  for (int32_t first = 0; first < shape.filters; first += tiling.chunk_filters) {
    Chunk chunk = {first, std::min(tiling.chunk_filters, shape.filters - first), {}};
    std::vector<size_t> done(CeilDiv(chunk.filters, together), 0);
    for (const Step& block : blocks) {
      const bool last = &block == &blocks.back();
      AddStep(groups.data() + first / together, block, together, &done, &chunk, last, &filler);
    }
    stream->chunks.push_back(std::move(chunk));
  }
  const int32_t size = depth / tiling.slices;
  source->reserve(places.size() * together * size);
  for (size_t word = 0; word < places.size(); word += together) {  // one, or a row of each filter
    for (int32_t filter = 0; filter < together; ++filter) {
      for (int32_t i = 0; i < together; ++i) {
        const int64_t place = places[word + i] + filter * size;
        for (int32_t d = 0; d < size; ++d) {
          source->push_back(places[word + i] < 0 ? -1 : unsorted[place + d]);
        }
      }
    }
  }
}

}  // namespace tfc
