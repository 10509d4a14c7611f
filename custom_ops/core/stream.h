// The weights in the order in which a kernel meets them.
#ifndef TFCOMPRESS_STREAM_H_
#define TFCOMPRESS_STREAM_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "shape.h"
#include "tiling.h"

namespace tfc {

// The parts of a place in the bank of filters.
struct Place {
  int32_t row, column, channel, filter;  // the channel counted through all groups
};

Place PlaceOf(const tfc_shape& shape, int32_t index);

// Threads take some of the filters of a chunk each: so many shares of it, of whole vectors or nothing.
constexpr int32_t kShares = 8;

inline int32_t ShareBegin(int32_t filters, int32_t share) {
  return std::min(filters, (filters * share / kShares + kLanes - 1) / kLanes * kLanes);
}

// One block of words of the input for one chunk of filters.
struct Step {
  int32_t first_plane, planes;
  int32_t first_word, end_word;  // the words that they hold
  // By share: where it begins in what a stream has, and in the words of a plan's values.
  struct Start {
    int64_t slot, count, line, value;
  };
  std::array<Start, kShares> starts;
};

struct Chunk {
  int32_t first_filter, filters;
  std::vector<Step> steps;  // at least one; those without weights are left out
};

struct Stream {
  std::vector<int32_t> planes;  // by word of the input: which plane it gets, or -1 where no weight reads it;
  int32_t plane_count = 0;
  std::vector<Chunk> chunks;
  std::vector<int32_t> slots, counts;  // of each step in turn, as `TileJob` has them
  std::vector<uint16_t> lines;
};

// At how many places, of a tap, a word of `depth` channels and so many filters, there is any weight.
int64_t CountWords(const tfc_shape& shape, const tfc_weights& weights, int32_t filters, int32_t depth);

// Gives planes to the words that some weight reads; then to all.
void AssignPlanes(const tfc_shape& shape, const tfc_weights& weights, int32_t depth, Stream* stream);
void AssignAllPlanes(Stream* stream);
// `source` gets, for the `depth` weights of each word of a plan's values in turn, which of those given they are,
// or -1. Words may be made of slices.
void FillStream(const tfc_shape& shape, const tfc_weights& weights, int32_t depth, const Tiling& tiling,
                Stream* stream, std::vector<int32_t>* source);

}  // namespace tfc

#endif  // TFCOMPRESS_STREAM_H_
