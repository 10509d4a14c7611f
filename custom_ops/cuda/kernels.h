// The kernels, as they are launched.
#ifndef TFCOMPRESS_CUDA_KERNELS_H_
#define TFCOMPRESS_CUDA_KERNELS_H_

#include <cuda_runtime_api.h>

#include "block.h"

namespace tfc::cuda {

// Lets the kernel with this number have so much shared memory, on the current device.
cudaError_t AllowSharedBytes(int32_t kernel, int32_t bytes);
cudaError_t Launch(int32_t kernel, const Job& job, int64_t blocks, int32_t shared_bytes, int32_t table_entries,
                   cudaStream_t stream);
cudaError_t LaunchGather(const int32_t* origins, const float* given, int64_t count, float* values,
                         cudaStream_t stream);

}  // namespace tfc::cuda

#endif  // TFCOMPRESS_CUDA_KERNELS_H_
