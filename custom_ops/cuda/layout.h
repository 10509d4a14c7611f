// How a convolution is laid out for the blocks of block.h: tiles, and weights in the order in which they
// are met. Made on the host, without CUDA.
#ifndef TFCOMPRESS_CUDA_LAYOUT_H_
#define TFCOMPRESS_CUDA_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "../core/shape.h"
#include "../core/sparse_conv.h"
#include "block.h"

namespace tfc::cuda {

struct Kernel {
  const char* name;
  int32_t bundle, pixels;

  int32_t Sums() const { return pixels * kWarp; }  // of a filter in a tile
};

extern const Kernel kKernels[];
extern const int32_t kKernelCount;

// What the choice of a kernel depends on, besides the convolution.
struct Device {
  int32_t multiprocessors;
  int32_t block_bytes;      // of shared memory, at most
  int32_t processor_bytes;  // of shared memory in a multiprocessor
  int32_t multipliers;      // vectors of 32 that a multiprocessor multiplies and adds in a cycle
};

struct Layout {
  int32_t kernel;  // its number
  bool alone;      // each pixel by itself: the whole batch is one row
  int32_t shared_bytes;
  Job job;  // without what depends on the map, and without pointers

  // What the pointers of the job point to, but for the values of the weights.
  std::vector<Offset> sources;
  std::vector<int32_t> planes, first_chunks;
  std::vector<Chunk> chunks;
  std::vector<int32_t> first_quads, offsets;
  std::vector<int32_t> origins;  // by value: which of the weights given it is, or -1 for 0

  int32_t TableEntries() const;  // of pixels, with which shared memory begins
  int64_t Images(int32_t batch) const { return alone ? 1 : batch; }
  Job JobOf(const float* input, float* output, int32_t batch) const;  // still without pointers to the layout
};

// kernel: a name, or NULL. batch: the batch to expect. bias: may be NULL.
tfc_status CheckArguments(const tfc_shape& shape, const tfc_weights& weights, const float* bias,
                          tfc_activation activation, const char* kernel, int32_t batch);

// From arguments that passed. TFC_TOO_LARGE where no tile fits into the shared memory.
tfc_status MakeLayout(const tfc_shape& shape, const tfc_weights& weights, tfc_activation activation,
                      const char* kernel, int32_t batch, const Device& device, Layout* layout);

}  // namespace tfc::cuda

#endif  // TFCOMPRESS_CUDA_LAYOUT_H_
