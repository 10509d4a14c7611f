#include "kernels.h"

#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

namespace tfc::cuda {
namespace {

constexpr int64_t kMostBlocks = 1 << 20;  // more take turns
constexpr int kGatherThreads = 256;

// One of its threads; see block.h.
template <int kSums>
struct DeviceTeam {
  float sums[kSums];

  template <typename Work>
  __device__ __forceinline__ void Each(Work work) {
    work(static_cast<int>(threadIdx.x), sums);
  }
  __device__ __forceinline__ void Meet() { __syncthreads(); }
  __device__ __forceinline__ void Copy(float* to, const float* from, bool on) {
    __pipeline_memcpy_async(to, from, sizeof(float), on ? 0 : sizeof(float));  // the last: so much is zeros
  }
  __device__ __forceinline__ void Commit() { __pipeline_commit(); }
  template <int kLeft>
  __device__ __forceinline__ void Arrive() {
    __pipeline_wait_prior(kLeft);
  }
};

template <int kBundle, int kPixels>
__global__ void __launch_bounds__(kMostWarps* kWarp)
    SparseConv2dF32(const __grid_constant__ Job job, int64_t blocks, int32_t table_entries) {
  extern __shared__ int64_t shared[];
  DeviceTeam<kBundle * kPixels> team;
  float* floats = reinterpret_cast<float*>(shared + table_entries);
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    RunBlock<kBundle, kPixels>(job, block, shared, floats, team);
  }
}

__global__ void GatherValues(const int32_t* origins, const float* given, int64_t count, float* values) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    values[i] = Gather(origins, given, i);
  }
}

using Function = void (*)(Job, int64_t, int32_t);

#define TFC_CUDA_FUNCTION(bundle, pixels) SparseConv2dF32<bundle, pixels>,
constexpr Function kFunctions[] = {TFC_CUDA_KERNELS(TFC_CUDA_FUNCTION)};
#undef TFC_CUDA_FUNCTION

cudaLaunchConfig_t Configuration(int64_t blocks, int32_t threads, int32_t shared_bytes, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  return config;
}

}  // namespace

cudaError_t AllowSharedBytes(int32_t kernel, int32_t bytes) {
  return cudaFuncSetAttribute(kFunctions[kernel], cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

cudaError_t Launch(int32_t kernel, const Job& job, int64_t blocks, int32_t shared_bytes, int32_t table_entries,
                   cudaStream_t stream) {
  const cudaLaunchConfig_t config = Configuration(blocks, job.warps * kWarp, shared_bytes, stream);
  return cudaLaunchKernelEx(&config, kFunctions[kernel], job, blocks, table_entries);
}

cudaError_t LaunchGather(const int32_t* origins, const float* given, int64_t count, float* values,
                         cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const int64_t blocks = (count + kGatherThreads - 1) / kGatherThreads;
  const cudaLaunchConfig_t config = Configuration(blocks, kGatherThreads, 0, stream);
  return cudaLaunchKernelEx(&config, GatherValues, origins, given, count, values);
}

}  // namespace tfc::cuda
