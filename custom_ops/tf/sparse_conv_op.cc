// The TensorFlow op: takes tensors apart, checks them, calls the core.
//
//   TfcompressSparseConv2D(input, indices, values, bias) -> output
//
// input (batch, height, width, channels), output (batch, out_height, out_width, filters); indices and values
// are the weights that stay in a bank of filters (kernel_height, kernel_width, channels / groups, filters).
#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "../core/sparse_conv.h"
#include "c_api.h"

namespace {

// Attributes are lists of whole numbers, for which C has the plainest interface.
enum Size { kKernelHeight, kKernelWidth, kDepth, kFilters, kSizes };
enum Step { kStrideHeight, kStrideWidth, kDilationHeight, kDilationWidth, kSteps };

class Status {
 public:
  Status() : status_(TF_NewStatus()) {}
  ~Status() { TF_DeleteStatus(status_); }
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;

  TF_Status* get() const { return status_; }
  bool ok() const { return TF_GetCode(status_) == TF_OK; }
  void Set(TF_Code code, const std::string& message) { TF_SetStatus(status_, code, message.c_str()); }

 private:
  TF_Status* status_;
};

using Tensor = std::unique_ptr<TF_Tensor, void (*)(TF_Tensor*)>;
using Plan = std::shared_ptr<tfc_plan>;

template <typename Value>
const Value* Data(const Tensor& tensor) {
  return static_cast<const Value*>(TF_TensorData(tensor.get()));
}

template <typename Value>
bool Same(const std::vector<Value>& kept, const Tensor& tensor) {
  const auto count = static_cast<size_t>(TF_TensorElementCount(tensor.get()));
  return kept.size() == count && (count == 0 || std::memcmp(kept.data(), Data<Value>(tensor), count * sizeof(Value)) == 0);
}

template <typename Value>
void Keep(const Tensor& tensor, std::vector<Value>* kept) {
  kept->assign(Data<Value>(tensor), Data<Value>(tensor) + TF_TensorElementCount(tensor.get()));
}

// How "SAME" pads, in front and behind.
void PadSame(int32_t length, int32_t kernel, int32_t stride, int32_t dilation, int32_t* before, int32_t* after) {
  const int64_t outputs = (int64_t{length} + stride - 1) / stride;
  const int64_t needed = (outputs - 1) * stride + (int64_t{kernel} - 1) * dilation + 1 - length;
  const auto pads = static_cast<int32_t>(needed > 0 ? needed : 0);
  *before = pads / 2;
  *after = pads - pads / 2;
}

// The attributes of one node, and the plan for what it was last given. Weights are compared by content:
// optimizers change variables in place.
class SparseConv2d {
 public:
  explicit SparseConv2d(TF_OpKernelConstruction* context, Status* status) {
    TF_OpKernelConstruction_GetAttrInt32List(context, "filter_shape", sizes_, kSizes, status->get());
    if (status->ok()) TF_OpKernelConstruction_GetAttrInt32List(context, "steps", steps_, kSteps, status->get());
    same_ = ReadString(context, "padding", status) == "SAME";
    const std::string activation = ReadString(context, "activation", status);
    activation_ = activation == "relu" ? TFC_RELU : activation == "relu6" ? TFC_RELU6 : TFC_LINEAR;
  }

  void Compute(TF_OpKernelContext* context, Status* status) {
    std::vector<Tensor> inputs;
    for (int i = 0; i < 4 && status->ok(); ++i) {
      TF_Tensor* tensor = nullptr;
      TF_GetInput(context, i, &tensor, status->get());
      inputs.emplace_back(tensor, TF_DeleteTensor);
    }
    if (!status->ok()) return;
    const Tensor &input = inputs[0], &indices = inputs[1], &values = inputs[2], &bias = inputs[3];
    tfc_shape shape;
    if (!MakeShape(input, indices, values, bias, &shape, status)) return;
    int32_t height, width;
    Plan plan;
    const tfc_status made = tfc_output_size(&shape, &height, &width);
    if (Failed(made, status) || Failed(FindPlan(shape, indices, values, bias, &plan), status)) return;
    const int64_t batch = TF_Dim(input.get(), 0);
    const int64_t dims[] = {batch, height, width, shape.filters};
    const size_t bytes = sizeof(float) * static_cast<size_t>(batch * height * width * shape.filters);
    const Tensor output(TF_AllocateOutput(context, 0, TF_FLOAT, dims, 4, bytes, status->get()), TF_DeleteTensor);
    if (!status->ok()) return;
    const auto threads = static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
    Failed(tfc_plan_run(plan.get(), Data<float>(input), static_cast<float*>(TF_TensorData(output.get())),
                        static_cast<int32_t>(batch), threads),
           status);
  }

 private:
  static std::string ReadString(TF_OpKernelConstruction* context, const char* name, Status* status) {
    char value[16] = {};
    if (status->ok()) {
      TF_OpKernelConstruction_GetAttrString(context, name, value, sizeof(value) - 1, status->get());
    }
    return value;
  }

  static bool Failed(tfc_status result, Status* status) {
    if (result == TFC_OK) return false;
    const TF_Code code = result == TFC_NO_MEMORY ? TF_RESOURCE_EXHAUSTED : TF_INVALID_ARGUMENT;
    status->Set(code, std::string("TfcompressSparseConv2D: ") + tfc_status_message(result));
    return true;
  }

  bool MakeShape(const Tensor& input, const Tensor& indices, const Tensor& values, const Tensor& bias,
                 tfc_shape* shape, Status* status) const {
    const bool flat = TF_NumDims(indices.get()) == 1 && TF_NumDims(values.get()) == 1 && TF_NumDims(bias.get()) == 1;
    const bool image = TF_NumDims(input.get()) == 4;
    const bool fits = image && flat && TF_Dim(indices.get(), 0) == TF_Dim(values.get(), 0) &&
                      TF_Dim(bias.get(), 0) == sizes_[kFilters];
    const int64_t channels = image ? TF_Dim(input.get(), 3) : 0;
    if (!fits || sizes_[kDepth] < 1 || channels % sizes_[kDepth] != 0) {
      status->Set(TF_INVALID_ARGUMENT,
                  "TfcompressSparseConv2D expects input (batch, height, width, channels), indices and values of "
                  "one length, bias (filters,), and channels in multiples of the depth of the filters.");
      return false;
    }
    *shape = {};
    shape->height = static_cast<int32_t>(TF_Dim(input.get(), 1));
    shape->width = static_cast<int32_t>(TF_Dim(input.get(), 2));
    shape->channels = static_cast<int32_t>(channels);
    shape->filters = sizes_[kFilters];
    shape->kernel_height = sizes_[kKernelHeight];
    shape->kernel_width = sizes_[kKernelWidth];
    shape->stride_height = steps_[kStrideHeight];
    shape->stride_width = steps_[kStrideWidth];
    shape->dilation_height = steps_[kDilationHeight];
    shape->dilation_width = steps_[kDilationWidth];
    shape->groups = shape->channels / sizes_[kDepth];
    if (same_ && shape->stride_height > 0 && shape->stride_width > 0) {
      PadSame(shape->height, shape->kernel_height, shape->stride_height, shape->dilation_height, &shape->pad_top,
              &shape->pad_bottom);
      PadSame(shape->width, shape->kernel_width, shape->stride_width, shape->dilation_width, &shape->pad_left,
              &shape->pad_right);
    }
    return true;
  }

  tfc_status FindPlan(const tfc_shape& shape, const Tensor& indices, const Tensor& values, const Tensor& bias,
                      Plan* plan) {
    const std::lock_guard lock(mutex_);
    const bool structure = plan_ != nullptr && std::memcmp(&shape, &shape_, sizeof(shape)) == 0 && Same(indices_, indices);
    if (!structure || !Same(values_, values) || !Same(bias_, bias)) {
      tfc_plan* made = nullptr;
      const tfc_weights weights = {TF_TensorElementCount(values.get()), Data<int32_t>(indices), Data<float>(values)};
      const tfc_status status =
          structure ? tfc_plan_with_values(plan_.get(), weights.values, Data<float>(bias), &made)
                    : tfc_plan_create(&shape, &weights, Data<float>(bias), activation_, nullptr, &made);
      if (status != TFC_OK) return status;
      plan_.reset(made, tfc_plan_destroy);
      shape_ = shape;
      Keep(indices, &indices_);
      Keep(values, &values_);
      Keep(bias, &bias_);
    }
    *plan = plan_;  // others may go on with it when the next call has made a new one
    return TFC_OK;
  }

  int32_t sizes_[kSizes] = {}, steps_[kSteps] = {};
  bool same_ = false;
  tfc_activation activation_ = TFC_LINEAR;

  std::mutex mutex_;
  Plan plan_;
  tfc_shape shape_ = {};
  std::vector<int32_t> indices_;
  std::vector<float> values_, bias_;
};

void* Create(TF_OpKernelConstruction* context) {
  Status status;
  auto op = std::make_unique<SparseConv2d>(context, &status);
  if (status.ok()) return op.release();
  TF_OpKernelConstruction_Failure(context, status.get());
  return nullptr;
}

void Compute(void* op, TF_OpKernelContext* context) {
  Status status;
  try {
    static_cast<SparseConv2d*>(op)->Compute(context, &status);
  } catch (const std::bad_alloc&) {
    status.Set(TF_RESOURCE_EXHAUSTED, "TfcompressSparseConv2D: out of memory");
  }
  if (!status.ok()) TF_OpKernelContext_Failure(context, status.get());
}

void Destroy(void* op) { delete static_cast<SparseConv2d*>(op); }

// The layer knows the shape; the C interface cannot say dimensions of which only some are known.
void InferShape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

void Register() {
  constexpr const char* kName = "TfcompressSparseConv2D";
  TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(kName);
  for (const char* input : {"input: float", "indices: int32", "values: float", "bias: float"}) {
    TF_OpDefinitionBuilderAddInput(definition, input);
  }
  TF_OpDefinitionBuilderAddOutput(definition, "output: float");
  for (const char* attribute : {"filter_shape: list(int) >= 4", "steps: list(int) >= 4",
                                "padding: {'SAME', 'VALID'}", "activation: {'linear', 'relu', 'relu6'}"}) {
    TF_OpDefinitionBuilderAddAttr(definition, attribute);
  }
  TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, InferShape);
  Status status;
  TF_RegisterOpDefinition(definition, status.get());
  TF_RegisterKernelBuilder(kName, TF_NewKernelBuilder(kName, "CPU", Create, Compute, Destroy), status.get());
}

[[maybe_unused]] const bool registered = (Register(), true);

}  // namespace
