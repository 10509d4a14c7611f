#include "blocks.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "stream.h"

namespace tfc {
namespace {

constexpr double kFlipping = 1.1;  // so many times as long a vector takes whose bytes are combined first

// Along one axis, pixels that outputs read.
int64_t Span(int64_t outputs, int64_t stride, int64_t taps, int64_t dilation) {
  return (outputs - 1) * stride + (taps - 1) * dilation + 1;
}

int64_t RowsRead(const tfc_shape& s, int64_t outputs) {
  return Span(outputs, s.stride_height, s.kernel_height, s.dilation_height);
}

// All of an image that fits in a part of the second-level cache, but whole tiles.
void CutBands(const tfc_shape& s, OutputSize size, BlockTiling* t) {
  const int64_t row_bytes = int64_t{t->width} * t->words * kWordBytes;
  int32_t rows = t->tile.rows;
  while (rows + t->tile.rows <= size.height && RowsRead(s, rows + t->tile.rows) * row_bytes <= Caches().sums) {
    rows += t->tile.rows;
  }
  t->bands = std::max(1, size.height / rows);
  t->band_rows = t->bands == 1 ? size.height : rows;
}

bool Cut(const Kernel& kernel, const BlockTile& tile, const tfc_shape& s, OutputSize size, const Work& work,
         bool copies, BlockTiling* t) {
  if (tile.rows > size.height || tile.columns > size.width) return false;
  t->tile = tile;
  t->depth = work.depth;
  t->words = CeilDiv(s.channels, work.depth);
  const bool padded = s.pad_top + int64_t{s.pad_bottom} + s.pad_left + s.pad_right > 0;
  const bool must = padded || s.channels % work.depth != 0, may = must || kernel.flip != 0;
  if (copies ? !may : must) return false;
  t->copies = copies;
  t->flip = copies ? 0 : kernel.flip;
  const int64_t width =
      padded ? std::max<int64_t>(Span(size.width, s.stride_width, s.kernel_width, s.dilation_width), 1) : s.width;
  const int64_t tile_words = RowsRead(s, tile.rows) * width * t->words;
  if (tile_words > std::numeric_limits<int32_t>::max() / 2) return false;
  t->width = static_cast<int32_t>(width);
  CutBands(s, size, t);
  const int64_t window =
      RowsRead(s, tile.rows) * Span(tile.columns, s.stride_width, s.kernel_width, s.dilation_width);
  const int64_t words = Caches().block / kWordBytes / window / kLanes * kLanes;
  // Sums of int8 stay in registers, from the first channel to the last.
  t->block_words = work.depth > 1
                       ? t->words
                       : static_cast<int32_t>(std::clamp<int64_t>(words, kLanes, std::max(t->words, kLanes)));
  const int32_t blocks = CeilDiv(s.filters, kLanes);
  const double bytes_per_block = static_cast<double>(work.blocks) * kLanes * kWordBytes / blocks;
  t->chunk_blocks = std::clamp(static_cast<int32_t>(Caches().sums / std::max(bytes_per_block, 1.0)), 1, blocks);
  return true;
}

// An entry of the stream before it is in its place.
struct Entry {
  int32_t block, word, offset;
  int64_t source;  // where its values begin
};

// Weights come tap by tap, channel by channel: those of an entry are not all next to each other, but nothing of
// its block of filters is between them.
std::vector<Entry> Entries(const tfc_shape& s, const tfc_weights& weights, const BlockTiling& t,
                           std::vector<int32_t>* source) {
  std::vector<Entry> entries;
  std::vector<int64_t> last(CeilDiv(s.filters, kLanes), -1);  // entry of each block of filters
  for (int64_t i = 0; i < weights.count; ++i) {
    const Place at = PlaceOf(s, weights.indices[i]);
    const int32_t block = at.filter / kLanes, word = at.channel / t.depth;
    const int32_t pixel = at.row * s.dilation_height * t.width + at.column * s.dilation_width;
    const int32_t offset = pixel * t.words + word;
    if (last[block] < 0 || entries[last[block]].offset != offset) {
      last[block] = static_cast<int64_t>(entries.size());
      entries.push_back({block, word, offset, static_cast<int64_t>(source->size())});
      source->resize(source->size() + kLanes * t.depth, -1);
    }
    const int64_t place = entries[last[block]].source + at.filter % kLanes * t.depth + at.channel % t.depth;
    (*source)[place] = static_cast<int32_t>(i);
  }
  return entries;
}

}  // namespace

Costs BlockCounts(const BlockTiling& t, const tfc_shape& s, OutputSize size, const Work& work) {
  const double tiles = double(CeilDiv(size.height, t.tile.rows)) * CeilDiv(size.width, t.tile.columns);
  const double steps = CeilDiv(t.words, t.block_words), blocks = CeilDiv(s.filters, kLanes);
  const double pixels = t.tile.rows * t.tile.columns, entries = static_cast<double>(work.blocks);
  Costs counts{};
  counts[kRegion] = t.bands;
  counts[kBlock] = tiles * steps * blocks;
  counts[kBlockSum] = counts[kBlock] * pixels;
  counts[kEntry] = tiles * entries;
  counts[kEntryVector] = counts[kEntry] * pixels * (t.flip != 0 ? kFlipping : 1);
  AddBytes(entries * (sizeof(int32_t) + kLanes * kWordBytes), &counts);
  if (t.copies) counts[kCopied] = double(t.bands) * RowsRead(s, t.band_rows) * t.width * t.words / kLanes;
  return counts;
}

BlockTiling ChooseBlockTiling(const Kernel& kernel, const tfc_shape& shape, OutputSize size, const Work& work) {
  BlockTiling best{}, tiling{};
  double least = std::numeric_limits<double>::infinity();
  for (int32_t i = 0; i < kernel.blocks->tile_count; ++i) {
    for (const bool copies : {false, true}) {
      if (!Cut(kernel, kernel.blocks->tiles[i], shape, size, work, copies, &tiling)) continue;
      const double cost = Total(BlockCounts(tiling, shape, size, work), Typical(work.depth));
      if (cost >= least) continue;
      least = cost;
      best = tiling;
    }
  }
  return best;
}

void FillBlockStream(const tfc_shape& shape, const tfc_weights& weights, const BlockTiling& tiling,
                     BlockStream* stream, std::vector<int32_t>* source) {
  std::vector<int32_t> unsorted;
  std::vector<Entry> entries = Entries(shape, weights, tiling, &unsorted);
  const auto step_of = [&](const Entry& entry) { return entry.word / tiling.block_words; };
  const auto chunk_of = [&](const Entry& entry) { return entry.block / tiling.chunk_blocks; };
  std::stable_sort(entries.begin(), entries.end(), [&](const Entry& a, const Entry& b) {
    return std::make_tuple(chunk_of(a), step_of(a), a.block) < std::make_tuple(chunk_of(b), step_of(b), b.block);
  });
  const int32_t blocks = CeilDiv(shape.filters, kLanes), steps = CeilDiv(tiling.words, tiling.block_words);
  auto entry = entries.begin();
  for (int32_t first = 0; first < blocks; first += tiling.chunk_blocks) {
    BlockChunk chunk = {first, std::min(tiling.chunk_blocks, blocks - first), {}};
    for (int32_t step = 0; step < steps; ++step) {
      const auto begin = entry;
      const auto counts = static_cast<int64_t>(stream->counts.size());
      for (int32_t block = first; block < first + chunk.blocks; ++block) {
        const auto start = entry;
        while (entry != entries.end() && entry->block == block && step_of(*entry) == step) ++entry;
        stream->counts.push_back(static_cast<int32_t>(entry - start));
      }
      const bool needed = entry != begin || (step + 1 == steps && chunk.steps.empty());
      if (needed) {
        chunk.steps.push_back({counts, begin - entries.begin()});
      } else {
        stream->counts.resize(counts);
      }
    }
    stream->chunks.push_back(std::move(chunk));
  }
  for (const Entry& each : entries) {
    stream->offsets.push_back(each.offset);
    const auto values = unsorted.begin() + each.source;
    source->insert(source->end(), values, values + kLanes * tiling.depth);
  }
}

}  // namespace tfc
