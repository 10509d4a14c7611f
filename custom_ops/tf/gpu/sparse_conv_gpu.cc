// TfcompressSparseConv2D on GPUs: takes tensors apart, checks them, calls ../../cuda.
//
// The op itself is defined in ../sparse_conv_op.cc; its library must be loaded too. TensorFlow's C interface does
// not hand out the stream of a GPU, hence the C++ interface, against one minor version of which this is built.
// No header of CUDA is included here, and none of TensorFlow in ../../cuda: the two may be of different CUDAs.
//
// Indices stay in host memory, since they make the plan; input, values and bias are on the device, where the
// values of each call are put in the order of the plan. So, other than on the CPU, nobody looks whether they are
// finite. The gradient, in Python, is made of dense ops and needs nothing here.
//
// It is compiled, loaded and registered by the tests; on a GPU it has not run yet.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../../cuda/sparse_conv_cuda.h"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

constexpr const char* kName = "TfcompressSparseConv2D";

enum Input { kInput, kIndices, kValues, kBias };
enum Size { kKernelHeight, kKernelWidth, kDepth, kFilters, kSizes };
enum Step { kStrideHeight, kStrideWidth, kDilationHeight, kDilationWidth, kSteps };

using Plan = std::shared_ptr<const tfc_cuda_plan>;

absl::Status StatusOf(tfc_status status) {
  if (status == TFC_OK) return absl::OkStatus();
  const std::string message = std::string(kName) + ": " + tfc_cuda_status_message(status);
  if (status == TFC_NO_MEMORY) return absl::ResourceExhaustedError(message);
  if (status == TFC_NOT_ON_THIS_CPU) return absl::UnimplementedError(message);
  if (status == TFC_CUDA_FAILED) return absl::InternalError(message);
  return absl::InvalidArgumentError(message);
}

bool SameIndices(const Tensor& a, const Tensor& b) {
  const auto left = a.flat<int32_t>(), right = b.flat<int32_t>();
  return left.size() == right.size() && std::equal(left.data(), left.data() + left.size(), right.data());
}

// The plans of one node: made for the indices and the size of map it is called with, and kept.
class Plans {
 public:
  absl::Status Find(const tfc_shape& shape, tfc_activation activation, const Tensor& indices, int32_t batch,
                    Plan* plan) {
    const std::lock_guard lock(mutex_);
    const auto at = std::find_if(known_.begin(), known_.end(), [&](const Known& known) {
      return std::memcmp(&known.shape, &shape, sizeof(shape)) == 0 && SameIndices(known.indices, indices);
    });
    if (at != known_.end()) {
      std::rotate(known_.begin(), at, at + 1);
    } else {
      const std::vector<float> values(indices.NumElements());  // those of each call replace them
      const tfc_weights weights = {indices.NumElements(), indices.flat<int32_t>().data(), values.data()};
      tfc_cuda_plan* made = nullptr;
      const tfc_status status = tfc_cuda_plan_create(&shape, &weights, nullptr, activation, nullptr, batch, &made);
      if (status != TFC_OK) return StatusOf(status);
      if (known_.size() == kMost) known_.pop_back();
      known_.insert(known_.begin(), {shape, indices, Plan(made, [](const tfc_cuda_plan* old) {
                                       tfc_cuda_plan_destroy(const_cast<tfc_cuda_plan*>(old));
                                     })});
    }
    *plan = known_.front().plan;
    return absl::OkStatus();
  }

 private:
  struct Known {
    tfc_shape shape;
    Tensor indices;
    Plan plan;
  };

  // Outside of graphs, layers of one kind share a node; and a node may see maps of several sizes.
  static constexpr size_t kMost = 8;

  std::mutex mutex_;
  std::vector<Known> known_;  // the last used first
};

class SparseConv2dGpu : public tensorflow::OpKernel {
 public:
  explicit SparseConv2dGpu(OpKernelConstruction* context) : OpKernel(context) {
    std::string padding, activation;
    OP_REQUIRES_OK(context, context->GetAttr("filter_shape", &sizes_));
    OP_REQUIRES_OK(context, context->GetAttr("steps", &steps_));
    OP_REQUIRES_OK(context, context->GetAttr("padding", &padding));
    OP_REQUIRES_OK(context, context->GetAttr("activation", &activation));
    OP_REQUIRES(
        context, sizes_.size() == kSizes && steps_.size() == kSteps,
        absl::InvalidArgumentError(std::string(kName) + " expects 4 numbers in 'filter_shape' and 'steps'."));
    same_ = padding == "SAME";
    activation_ = activation == "relu" ? TFC_RELU : activation == "relu6" ? TFC_RELU6 : TFC_LINEAR;
  }

  void Compute(OpKernelContext* context) override {
    tfc_shape shape = {};
    int32_t height = 0, width = 0;
    OP_REQUIRES(context, MakeShape(context, &shape),
                absl::InvalidArgumentError(
                    std::string(kName) +
                    " expects input (batch, height, width, channels), indices and values of one length, "
                    "bias (filters,), and channels in multiples of the depth of the filters."));
    OP_REQUIRES_OK(context, StatusOf(tfc_output_size(&shape, &height, &width)));
    const auto batch = static_cast<int32_t>(context->input(kInput).dim_size(0));
    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, {batch, height, width, shape.filters}, &output));
    Plan plan;
    OP_REQUIRES_OK(context, plans_.Find(shape, activation_, context->input(kIndices), std::max(batch, 1), &plan));
    OP_REQUIRES_OK(context, Run(context, plan.get(), batch, output));
  }

 private:
  // False where the tensors do not fit together.
  bool MakeShape(OpKernelContext* context, tfc_shape* shape) const {
    const Tensor &input = context->input(kInput), &bias = context->input(kBias);
    const Tensor &indices = context->input(kIndices), &values = context->input(kValues);
    for (const Tensor* tensor : {&indices, &values, &bias}) {
      if (tensor->dims() != 1) return false;
    }
    if (input.dims() != 4 || indices.NumElements() != values.NumElements() ||
        bias.NumElements() != sizes_[kFilters]) {
      return false;
    }
    for (int axis = 0; axis < 4; ++axis) {
      if (input.dim_size(axis) > std::numeric_limits<int32_t>::max()) return false;
    }
    const auto channels = static_cast<int32_t>(input.dim_size(3));
    if (sizes_[kDepth] < 1 || channels % sizes_[kDepth] != 0) return false;
    shape->height = static_cast<int32_t>(input.dim_size(1));
    shape->width = static_cast<int32_t>(input.dim_size(2));
    shape->channels = channels;
    shape->filters = sizes_[kFilters];
    shape->kernel_height = sizes_[kKernelHeight];
    shape->kernel_width = sizes_[kKernelWidth];
    shape->stride_height = steps_[kStrideHeight];
    shape->stride_width = steps_[kStrideWidth];
    shape->dilation_height = steps_[kDilationHeight];
    shape->dilation_width = steps_[kDilationWidth];
    shape->groups = channels / sizes_[kDepth];
    return !same_ || tfc_pad_same(shape) == TFC_OK;
  }

  // The workspace goes back to TensorFlow's allocator at once, which hands it only to later work of the same
  // stream.
  static absl::Status Run(OpKernelContext* context, const tfc_cuda_plan* plan, int32_t batch, Tensor* output) {
    Tensor workspace;
    const tensorflow::TensorShape bytes({tfc_cuda_plan_workspace_bytes(plan)});
    if (const auto status = context->allocate_temp(tensorflow::DT_UINT8, bytes, &workspace); !status.ok()) {
      return status;
    }
    void* stream = context->op_device_context()->stream()->platform_specific_handle().stream;
    const auto floats = [&](Input which) { return context->input(which).flat<float>().data(); };
    return StatusOf(tfc_cuda_plan_run_with_values(plan, floats(kValues), floats(kBias),
                                                  workspace.flat<uint8_t>().data(), floats(kInput),
                                                  output->flat<float>().data(), batch, stream));
  }

  std::vector<int32_t> sizes_, steps_;
  bool same_ = false;
  tfc_activation activation_ = TFC_LINEAR;
  Plans plans_;
};

REGISTER_KERNEL_BUILDER(Name(kName).Device(tensorflow::DEVICE_GPU).HostMemory("indices"), SparseConv2dGpu);

}  // namespace
