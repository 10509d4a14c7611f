// Convolutions whose lanes are filters: how a map is cut, and the blocks of weights in the order of the kernel.
#ifndef TFCOMPRESS_BLOCKS_H_
#define TFCOMPRESS_BLOCKS_H_

#include <cstdint>
#include <vector>

#include "kernel.h"
#include "shape.h"
#include "tiling.h"

namespace tfc {

struct BlockTiling {
  BlockTile tile;
  int32_t depth, words;      // input channels in a word, words of a pixel
  bool copies;               // whether rows are copied, to have zeros around them, or bytes as they are multiplied
  uint8_t flip;              // as `BlockJob` has it
  int32_t width;             // pixels of a row that is read
  int32_t bands, band_rows;  // rows of outputs that are made together; the last band has those that remain
  int32_t block_words;       // so many of each pixel are in the first-level cache at a time
  int32_t chunk_blocks;      // so many blocks of filters have weights that fit in the second-level cache

  // Threads take some rows of a band each, or columns where there is but one row.
  bool ByColumns(OutputSize size) const { return size.height == 1; }
};

// One block of input channels for one chunk of blocks of filters.
struct BlockStep {
  int64_t first_count, first_entry;
};

struct BlockChunk {
  int32_t first_block, blocks;
  std::vector<BlockStep> steps;  // at least one
};

struct BlockStream {
  std::vector<BlockChunk> chunks;
  std::vector<int32_t> counts;   // of each step in turn: how many entries its blocks of filters have
  std::vector<int32_t> offsets;  // by entry, as `BlockJob` has them
};

// The one that seems fastest; `tile.run` is NULL if none fits.
BlockTiling ChooseBlockTiling(const Kernel& kernel, const tfc_shape& shape, OutputSize size, const Work& work);
Costs BlockCounts(const BlockTiling& tiling, const tfc_shape& shape, OutputSize size, const Work& work);

// `source` gets, for the values of each entry in turn, `depth` of each filter, which of the weights given it is,
// or -1.
void FillBlockStream(const tfc_shape& shape, const tfc_weights& weights, const BlockTiling& tiling,
                     BlockStream* stream, std::vector<int32_t>* source);

}  // namespace tfc

#endif  // TFCOMPRESS_BLOCKS_H_
