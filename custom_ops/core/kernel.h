// What a backend provides. Plain data and function pointers only: the translation units of the backends are
// compiled for instructions that a processor may lack, and inline code shared with them could end up being
// theirs. For the same reason they include this header and nothing of the C++ library.
//
// A *vector* is 16 words of four bytes, one cache line, on every backend. There are two kinds of kernels. In one,
// the lanes of a vector belong to 16 parts of the map, so that moving by a tap, a stride or a dilation moves by
// whole vectors, and any weights may be zero. In the other, the lanes are 16 filters, and what is left out are
// blocks of 16 weights; maps are read and written as they are.
#ifndef TFCOMPRESS_KERNEL_H_
#define TFCOMPRESS_KERNEL_H_

#include <stddef.h>
#include <stdint.h>

namespace tfc {

constexpr int kLanes = 16;
constexpr int kWordBytes = 4;

// Maps and weights are in words of four bytes: a channel in float32, or four neighbouring ones in int8. Sums are
// words, too: floats, or whole numbers.
//
// In int8 a plane may be in 2 or 4 *slices*: a vector has two channels of a word, or one, of 32 or 64 lanes.
// Kernels take slices of any planes, as many as make a word, and join them lane by lane; so they multiply words
// that are full wherever the weights are. There the lanes are neighbours on the map, and vectors begin with any.

// What becomes of outputs and a residual in int8, as `tfc_addition` tells.
struct Addition {
  int32_t bias, output_multiplier, residual_multiplier, shift, zero, low, high;
};

// How sums become outputs in int8: times a scale, clamped to [low, high], rounded, and `zero` added.
struct Requantization {
  const float* scales;  // by channel
  float low, high;
  int32_t zero;
  Addition addition;  // where there is a residual
  bool large;         // whether a sum times its scale may be more than 32 bits hold
};

// The sums of some filters over a block of words, for one register tile of rows x columns vectors.
struct TileJob {
  // Per filter in turn: how many words of weights it has in the block, where it is within the chunk, and then
  // for each word the cache line of its input, counted from `input`, or for each of its slices the lane with which
  // its vector begins, counted from there, too; and its value.
  //
  // Where 16 filters go together: per group of them how many squares of weights it has, 16 words of each filter,
  // for 16 neighbouring planes, and how many other lines there are. A square has the line of its first plane; what
  // goes with the lines comes in squares, too, the last of which may end with zeros.
  const int32_t* counts;  // (filters,), or (groups, 2)
  const int32_t* slots;   // of each filter, or of the first one of each group
  const uint16_t* lines;
  const void* values;
  int32_t filters;

  const void* input;      // of the tile's first vector and the block's first word
  ptrdiff_t row_bytes;    // from one row of the tile to the next
  ptrdiff_t plane_bytes;  // from one plane to the next

  void* sums;         // (slots, rows * columns * slices, 16), or what `UnpackJob` tells of
  const void* begin;  // likewise, what sums begin with; may be `sums`; NULL for nothing
  const void* bias;   // by slot, which sums begin with besides; NULL for nothing; in int8, one of the two is NULL
  bool last;          // whether to clamp to [low, high], in float32
  float low, high;

  // Where 16 filters go together, and these are the last sums: where the outputs of all lanes of each vector go,
  // and which filters the slots are.
  void* const* pixels;            // (rows * columns, 16)
  const float* const* residuals;  // likewise, what is added
  int32_t first_filter, end_filter;
  Requantization requantization;  // in int8, of the first slot
};

struct Tile {
  int32_t rows, columns;
  void (*run)(const TileJob& job);
};

// Moves positions of the map from images, whose words are contiguous, to planes, one per word of a pixel, whose
// vectors hold a position in all lanes; where there are slices, all positions of one are before those of the next.
// A pointer to floats is one to words, whatever is in them.
struct PackJob {
  const float* const* pixels;  // (positions, 16 * slices)
  int32_t positions;
  const int32_t* planes;                // by word: which plane gets it; NULL where each has its own, in turn
  int32_t first_word, end_word, words;  // of a pixel, to move; in all
  int32_t first_plane, plane_count;     // those that are wanted; one more behind them takes all else
  float* to;                            // of the first plane
  ptrdiff_t plane_words;                // from one plane to the next
};

// A vector of a plane with its rim, out of the vectors of planes without: those of its own region and, across
// the border, of up to three others. Lanes that none of them fills are zero.
struct Move {
  const int32_t* lanes;  // (16,): which lane of a source each lane takes; NULL where all take their own
  struct Part {
    const float* from;  // the source of the first word
    uint32_t mask;      // the lanes that it fills
  } parts[4];
  int32_t count;  // of parts
};

// Makes planes with a rim.
struct GatherJob {
  const Move* moves;  // by position
  int32_t positions;
  int32_t first_word, words;
  ptrdiff_t from_words;  // from one word to the next
  float* to;
  ptrdiff_t plane_words;  // from one plane to the next
};

// Moves positions from planes to images, whose channels are those of their type. In float32 it is one position at
// a time, and planes have sums. In int8 tiles have made outputs of the last sums: four vectors are a line, which
// has in each quarter the bytes of the same lanes of each vector in turn.
struct UnpackJob {
  int32_t vectors;                // 1 to 4; in float32 1
  void* const* pixels;            // (vectors, 16)
  const float* const* residuals;  // likewise, what is added in int8
  int32_t first_channel, channels;
  const float* from;
  ptrdiff_t plane_words;
  Requantization requantization;  // in int8
};

struct LaneKernel {
  const Tile* tiles;
  int32_t tile_count;
  int32_t together;  // filters that read the same lines, and words that are read at a time: 1, or 16
  int32_t slices;    // of a plane: 1, 2 or 4
  void (*pack)(const PackJob& job);
  void (*gather)(const GatherJob& job);
  void (*unpack)(const UnpackJob& job);  // NULL where tiles do so
  void (*enter)();                       // before tiles, on each thread, and after them; NULL for nothing
  void (*leave)();
};

// The outputs of some blocks of 16 filters over a block of words, for one tile of rows x columns pixels.
struct BlockJob {
  // Per block of filters in turn: how many blocks of weights it has, and then for each of them how far its input
  // is from a pixel's, and its 64 bytes: a word for each filter.
  const int32_t* counts;
  const int32_t* offsets;  // in words
  const void* values;
  int32_t blocks;
  int32_t tail;  // filters of the last block, 1 to 16

  const void* input;                  // of the tile's first pixel
  ptrdiff_t input_row, input_column;  // from one output of the tile to the next, in words

  void* output;                         // of the first block of filters
  ptrdiff_t output_row, output_column;  // in numbers of the output
  const void* bias;                     // of the first block, full blocks, which sums begin with; NULL for nothing

  // In float32:
  const float* begin;  // like the output, what sums begin with besides; may be it; NULL for nothing
  bool last;           // whether to clamp to [low, high]
  float low, high;

  // In int8, where there is but one block of words:
  uint8_t flip;                   // the kernel's, if bytes of the input are not yet combined with it, or 0
  Requantization requantization;  // of the first block of filters
  const int8_t* residual;         // like the output, what is added
};

struct BlockTile {
  int32_t rows, columns;
  void (*run)(const BlockJob& job);
};

struct BlockKernel {
  const BlockTile* tiles;
  int32_t tile_count;
};

struct Kernel {
  const char* name;
  bool (*supported)();  // NULL in a build for other processors
  int32_t registers;    // vectors of sums that fit in registers
  // Multiplies and adds `registers` vectors so many times, and nothing else: the speed of a dense convolution.
  float (*multiply)(int32_t times);
  const LaneKernel* lanes;  // one of the two
  const BlockKernel* blocks;
  uint8_t flip;  // what the bytes of an int8 input are combined with, exclusively or, before they are multiplied
};

// Every kernel there is, best first, by the type of maps. A new one is a file, and a line here and in the build.
#define TFC_KERNELS(X) \
  X(LanesAvx512)       \
  X(BlocksAvx512)      \
  X(LanesAvx2)         \
  X(BlocksAvx2)        \
  X(LanesNeon)         \
  X(BlocksNeon)        \
  X(LanesPortable)     \
  X(BlocksPortable)

#define TFC_INT8_KERNELS(X) \
  X(Int8LanesAvx512Amx)     \
  X(Int8LanesAvx512Vnni)    \
  X(Int8PairsAvx512Vnni)    \
  X(Int8QuadsAvx512Vnni)    \
  X(Int8BlocksAvx512Vnni)   \
  X(Int8LanesAvxVnni)       \
  X(Int8PairsAvxVnni)       \
  X(Int8QuadsAvxVnni)       \
  X(Int8BlocksAvxVnni)      \
  X(Int8LanesDotprod)       \
  X(Int8PairsDotprod)       \
  X(Int8QuadsDotprod)       \
  X(Int8BlocksDotprod)      \
  X(Int8LanesPortable)      \
  X(Int8PairsPortable)      \
  X(Int8QuadsPortable)      \
  X(Int8BlocksPortable)

#define TFC_DECLARE(name) extern const Kernel k##name;
TFC_KERNELS(TFC_DECLARE)
TFC_INT8_KERNELS(TFC_DECLARE)
#undef TFC_DECLARE

}  // namespace tfc

#endif  // TFCOMPRESS_KERNEL_H_
