// The CUDA kernels, run on the host: the same code, one thread after the other.
#ifndef TFCOMPRESS_TESTS_CUDA_BLOCKS_H_
#define TFCOMPRESS_TESTS_CUDA_BLOCKS_H_

#include "../core/sparse_conv.h"
#include "../cuda/block.h"

extern "C" {

// What the real order of things leaves open.
struct tfc_blocks_order {
  int32_t last_thread_first;  // between barriers
  int32_t late_copies;        // those in the background end when waited for, or else at once
};

struct tfc_blocks_options {
  const char* kernel;       // or NULL for the one that seems fastest
  int32_t multiprocessors;  // of the device to plan for
  int32_t shared_bytes;     // of a block, at most
  int32_t batch;            // to plan for
  const float* values;      // by which to replace those of the plan, or NULL
  tfc_blocks_order order;
};

TFC_EXPORT const char* tfc_blocks_kernel_name(int32_t index);

// A plan is made, run, and gone. Shared memory begins as NaN in each block.
TFC_EXPORT tfc_status tfc_blocks_run(const tfc_shape* shape, const tfc_weights* weights, const float* bias,
                                     tfc_activation activation, const tfc_blocks_options* options,
                                     const float* input, float* output, int32_t batch);

}  // extern "C"

namespace tfc::cuda {

// What a launch does, with the kernel's number.
void RunOnHost(int32_t kernel, const Job& job, int64_t blocks, int32_t shared_bytes, int32_t table_entries,
               tfc_blocks_order order);

}  // namespace tfc::cuda

#endif  // TFCOMPRESS_TESTS_CUDA_BLOCKS_H_
