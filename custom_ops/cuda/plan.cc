// The C interface: plans are made, put on streams and destroyed here.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "layout.h"
#include "sparse_conv_cuda.h"

namespace tfc::cuda {
namespace {

struct Code {
  cudaError_t error;
  tfc_status status;
};

constexpr Code kCodes[] = {
    {cudaSuccess, TFC_OK},
    {cudaErrorMemoryAllocation, TFC_NO_MEMORY},
    {cudaErrorNoDevice, TFC_NOT_ON_THIS_CPU},
    {cudaErrorInsufficientDriver, TFC_NOT_ON_THIS_CPU},
    {cudaErrorNoKernelImageForDevice, TFC_NOT_ON_THIS_CPU},
    {cudaErrorInvalidDeviceFunction, TFC_NOT_ON_THIS_CPU},
};

tfc_status StatusOf(cudaError_t error) {
  if (error != cudaSuccess) (void)cudaGetLastError();  // so that nobody else meets it
  for (const Code& code : kCodes) {
    if (code.error == error) return code.status;
  }
  return TFC_CUDA_FAILED;
}

// Makes a device the current one, until it goes.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    status_ = StatusOf(cudaGetDevice(&before_));
    if (status_ != TFC_OK) return;
    changed_ = before_ != device;
    if (changed_) status_ = StatusOf(cudaSetDevice(device));
  }
  ~OnDevice() {
    if (changed_) (void)cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  tfc_status status() const { return status_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  tfc_status status_ = TFC_OK;
};

// Arrays in one piece of device memory, which are first all counted and then all copied.
class Arrays {
 public:
  ~Arrays() { (void)cudaFree(memory_); }
  Arrays() = default;
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;

  template <typename Entry>
  void Add(const std::vector<Entry>& array, const Entry** at) {
    parts_.push_back({array.data(), array.size() * sizeof(Entry), reinterpret_cast<const void**>(at)});
  }

  // What was added must still be there.
  cudaError_t Copy() {
    size_t bytes = 0;
    for (const Part& part : parts_) bytes += Rounded(part.bytes);
    if (const auto error = cudaMalloc(&memory_, std::max<size_t>(bytes, 1))) return error;
    char* to = static_cast<char*>(memory_);
    for (const Part& part : parts_) {
      if (const auto error = cudaMemcpy(to, part.from, part.bytes, cudaMemcpyHostToDevice)) return error;
      *part.at = to;
      to += Rounded(part.bytes);
    }
    parts_.clear();
    return cudaStreamSynchronize(nullptr);  // streams of others do not wait for a copy
  }

 private:
  struct Part {
    const void* from;
    size_t bytes;
    const void** at;
  };

  static size_t Rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

  std::vector<Part> parts_;
  void* memory_ = nullptr;
};

tfc_status Describe(int number, Device* device) {
  int major = 0;
  const struct {
    cudaDeviceAttr attribute;
    int* value;
  } wanted[] = {
      {cudaDevAttrMultiProcessorCount, &device->multiprocessors},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, &device->block_bytes},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &device->processor_bytes},
      {cudaDevAttrComputeCapabilityMajor, &major},
  };
  for (const auto& one : wanted) {
    if (const auto error = cudaDeviceGetAttribute(one.value, one.attribute, number)) return StatusOf(error);
  }
  device->multipliers = major < 9 ? 2 : 4;
  return TFC_OK;
}

}  // namespace
}  // namespace tfc::cuda

struct tfc_cuda_plan {
  tfc::cuda::Layout layout;
  int device = 0;
  tfc::cuda::Arrays arrays;
  tfc::cuda::Job job{};  // the pointers to the arrays
  const int32_t* origins = nullptr;
};

namespace tfc::cuda {
namespace {

tfc_status CopyToDevice(const float* values, const float* bias, tfc_cuda_plan* plan) {
  const Layout& layout = plan->layout;
  std::vector<float> ordered(layout.origins.size());
  for (size_t i = 0; i < ordered.size(); ++i) ordered[i] = Gather(layout.origins.data(), values, i);
  std::vector<float> biases;
  if (bias != nullptr) biases.assign(bias, bias + layout.job.filters);
  Job& job = plan->job;
  plan->arrays.Add(layout.sources, &job.sources);
  plan->arrays.Add(layout.planes, &job.planes);
  plan->arrays.Add(layout.first_chunks, &job.first_chunks);
  plan->arrays.Add(layout.chunks, &job.chunks);
  plan->arrays.Add(layout.first_quads, &job.first_quads);
  plan->arrays.Add(layout.offsets, &job.offsets);
  plan->arrays.Add(layout.origins, &plan->origins);
  plan->arrays.Add(ordered, &job.values);
  if (bias != nullptr) plan->arrays.Add(biases, &job.bias);
  return StatusOf(plan->arrays.Copy());
}

tfc_status Create(const tfc_shape& shape, const tfc_weights& weights, const float* bias,
                  tfc_activation activation, const char* kernel, int32_t batch, tfc_cuda_plan** made) {
  // Before any look at the device, so that bad arguments are the same everywhere.
  if (const auto status = CheckArguments(shape, weights, bias, activation, kernel, batch)) return status;
  auto plan = std::make_unique<tfc_cuda_plan>();
  Device device;
  if (const auto status = StatusOf(cudaGetDevice(&plan->device))) return status;
  if (const auto status = Describe(plan->device, &device)) return status;
  if (const auto status = MakeLayout(shape, weights, activation, kernel, batch, device, &plan->layout)) {
    return status;
  }
  const auto allowed = AllowSharedBytes(plan->layout.kernel, device.block_bytes);
  if (allowed != cudaSuccess) return StatusOf(allowed);
  if (const auto status = CopyToDevice(weights.values, bias, plan.get())) return status;
  *made = plan.release();
  return TFC_OK;
}

tfc_status Run(const tfc_cuda_plan& plan, const float* values, const float* bias, const float* input,
               float* output, int32_t batch, cudaStream_t stream) {
  const Layout& layout = plan.layout;
  Job job = layout.JobOf(input, output, batch);
  job.sources = plan.job.sources;
  job.planes = plan.job.planes;
  job.first_chunks = plan.job.first_chunks;
  job.chunks = plan.job.chunks;
  job.first_quads = plan.job.first_quads;
  job.offsets = plan.job.offsets;
  job.values = values;
  job.bias = bias;
  return StatusOf(Launch(layout.kernel, job, job.Blocks(layout.Images(batch)), layout.shared_bytes,
                         layout.TableEntries(), stream));
}

bool Runnable(const tfc_cuda_plan* plan, const float* input, const float* output, int32_t batch) {
  return plan != nullptr && batch >= 0 && ((input != nullptr && output != nullptr) || batch == 0);
}

}  // namespace
}  // namespace tfc::cuda

const char* tfc_cuda_status_message(tfc_status status) {
  if (status == TFC_CUDA_FAILED) return "CUDA refused a call, or a kernel that ran before failed";
  if (status == TFC_NOT_ON_THIS_CPU) return "there is no GPU that the library was compiled for";
  return tfc_status_message(status);
}

const char* tfc_cuda_kernel_name(int32_t index) {
  return index < 0 || index >= tfc::cuda::kKernelCount ? nullptr : tfc::cuda::kKernels[index].name;
}

tfc_status tfc_cuda_plan_create(const tfc_shape* shape, const tfc_weights* weights, const float* bias,
                                tfc_activation activation, const char* kernel, int32_t batch,
                                tfc_cuda_plan** plan) {
  if (shape == nullptr || weights == nullptr || plan == nullptr) return TFC_BAD_ARGUMENT;
  *plan = nullptr;
  try {
    return tfc::cuda::Create(*shape, *weights, bias, activation, kernel, batch, plan);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

tfc_status tfc_cuda_plan_run(const tfc_cuda_plan* plan, const float* input, float* output, int32_t batch,
                             void* stream) {
  if (!tfc::cuda::Runnable(plan, input, output, batch)) return TFC_BAD_ARGUMENT;
  if (batch == 0) return TFC_OK;
  const tfc::cuda::OnDevice on(plan->device);
  if (on.status() != TFC_OK) return on.status();
  return tfc::cuda::Run(*plan, plan->job.values, plan->job.bias, input, output, batch,
                        static_cast<cudaStream_t>(stream));
}

tfc_status tfc_cuda_plan_run_with_values(const tfc_cuda_plan* plan, const float* values, const float* bias,
                                         void* workspace, const float* input, float* output, int32_t batch,
                                         void* stream) {
  if (!tfc::cuda::Runnable(plan, input, output, batch)) return TFC_BAD_ARGUMENT;
  if (batch == 0) return TFC_OK;
  const auto count = static_cast<int64_t>(plan->layout.origins.size());
  if (count > 0 && (values == nullptr || workspace == nullptr)) return TFC_BAD_ARGUMENT;
  const tfc::cuda::OnDevice on(plan->device);
  if (on.status() != TFC_OK) return on.status();
  auto* ordered = static_cast<float*>(workspace);
  auto* cuda_stream = static_cast<cudaStream_t>(stream);
  const auto gathered = tfc::cuda::LaunchGather(plan->origins, values, count, ordered, cuda_stream);
  if (gathered != cudaSuccess) return tfc::cuda::StatusOf(gathered);
  return tfc::cuda::Run(*plan, ordered, bias, input, output, batch, cuda_stream);
}

int64_t tfc_cuda_plan_workspace_bytes(const tfc_cuda_plan* plan) {
  return plan == nullptr ? 0 : static_cast<int64_t>(plan->layout.origins.size() * sizeof(float));
}

void tfc_cuda_plan_destroy(tfc_cuda_plan* plan) {
  if (plan == nullptr) return;
  const tfc::cuda::OnDevice on(plan->device);
  (void)cudaDeviceSynchronize();  // kernels may still read the arrays
  delete plan;
}

const char* tfc_cuda_plan_kernel(const tfc_cuda_plan* plan) {
  return plan == nullptr ? "" : tfc::cuda::kKernels[plan->layout.kernel].name;
}
