// As much of CUDA's runtime as is used here, without a GPU: device memory is memory of the host, and a kernel
// runs as in cuda_blocks.cc. Linked with it, `cuda_device` tries the C interface on any machine; times mean
// nothing.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

#include "../cuda/kernels.h"
#include "cuda_blocks.h"

namespace {

struct Attribute {
  cudaDeviceAttr attribute;
  int value;
};

constexpr Attribute kAttributes[] = {
    // of an H100
    {cudaDevAttrMultiProcessorCount, 132},
    {cudaDevAttrMaxSharedMemoryPerBlockOptin, 227 * 1024},
    {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 * 1024},
    {cudaDevAttrComputeCapabilityMajor, 9},
};
constexpr float kMilliseconds = 10;  // whatever it takes

}  // namespace

cudaError_t cudaMalloc(void** at, size_t bytes) {
  *at = std::malloc(bytes);
  return *at == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFree(void* at) {
  std::free(at);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "none");
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  for (const Attribute& known : kAttributes) {
    if (known.attribute != attribute) continue;
    *value = known.value;
    return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = nullptr;
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = kMilliseconds;
  return cudaSuccess;
}

// All is done when a call returns.
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "out of memory"; }

namespace tfc::cuda {

cudaError_t AllowSharedBytes(int32_t, int32_t) { return cudaSuccess; }

cudaError_t Launch(int32_t kernel, const Job& job, int64_t blocks, int32_t shared_bytes, int32_t table_entries,
                   cudaStream_t) {
  RunOnHost(kernel, job, blocks, shared_bytes, table_entries, {0, 1});
  return cudaSuccess;
}

cudaError_t LaunchGather(const int32_t* origins, const float* given, int64_t count, float* values, cudaStream_t) {
  for (int64_t i = 0; i < count; ++i) values[i] = Gather(origins, given, i);
  return cudaSuccess;
}

}  // namespace tfc::cuda
