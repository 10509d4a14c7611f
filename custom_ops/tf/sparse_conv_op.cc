// The TensorFlow ops: take tensors apart, check them, call the core.
//
//   TfcompressSparseConv2D(input, indices, values, bias) -> output
//
// input (batch, height, width, channels), output (batch, out_height, out_width, filters); indices and values
// are the weights that stay in a bank of filters (kernel_height, kernel_width, channels / groups, filters).
//
//   TfcompressUseThreads[threads]
//
// tells this process how many threads each of the others may use; 0 stands for the default.
#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "../core/sparse_conv.h"
#include "c_api.h"
#include "plans.h"
#include "tensorflow.h"
#include "thread_count.h"

namespace {

constexpr const char* kSparseConv2d = "TfcompressSparseConv2D";
constexpr const char* kUseThreads = "TfcompressUseThreads";

// Attributes are lists of whole numbers, for which C has the plainest interface.
enum Size { kKernelHeight, kKernelWidth, kDepth, kFilters, kSizes };
enum Step { kStrideHeight, kStrideWidth, kDilationHeight, kDilationWidth, kSteps };

class SparseConv2d {
 public:
  SparseConv2d(TF_OpKernelConstruction* context, Status* status) {
    ReadList(context, "filter_shape", kSizes, sizes_, status);
    ReadList(context, "steps", kSteps, steps_, status);
    same_ = ReadString(context, "padding", status) == "SAME";
    const std::string activation = ReadString(context, "activation", status);
    activation_ = activation == "relu" ? TFC_RELU : activation == "relu6" ? TFC_RELU6 : TFC_LINEAR;
  }

  void Compute(TF_OpKernelContext* context, Status* status) {
    const Tensor input = Input(context, 0, status);
    Weights weights = {Input(context, 1, status), Input(context, 2, status), Input(context, 3, status)};
    if (!status->ok()) return;
    tfc_shape shape = {};
    if (!MakeShape(input, weights, &shape)) {
      status->Set(TF_INVALID_ARGUMENT,
                  "TfcompressSparseConv2D expects input (batch, height, width, channels), indices and values of "
                  "one length, bias (filters,), and channels in multiples of the depth of the filters.");
      return;
    }
    int32_t height = 0, width = 0;
    if (Failed(tfc_output_size(&shape, &height, &width), status)) return;
    std::shared_ptr<const tfc_plan> plan;
    if (Failed(plans_.Find(shape, activation_, std::move(weights), &plan), status)) return;
    const int64_t batch = TF_Dim(input.get(), 0);
    const int64_t dims[] = {batch, height, width, shape.filters};
    const size_t bytes = sizeof(float) * static_cast<size_t>(batch * height * width * shape.filters);
    const Tensor output(TF_AllocateOutput(context, 0, TF_FLOAT, dims, 4, bytes, status->get()), TF_DeleteTensor);
    if (!status->ok()) return;
    float* made = static_cast<float*>(TF_TensorData(output.get()));
    Failed(tfc_plan_run(plan.get(), Data<float>(input), made, static_cast<int32_t>(batch), ThreadsToUse()),
           status);
  }

 private:
  static void ReadList(TF_OpKernelConstruction* context, const char* name, int32_t length, int32_t* values,
                       Status* status) {
    int32_t found = 0, bytes = 0;
    if (status->ok()) TF_OpKernelConstruction_GetAttrSize(context, name, &found, &bytes, status->get());
    if (status->ok() && found != length) {
      status->Set(TF_INVALID_ARGUMENT, std::string(kSparseConv2d) + " expects " + std::to_string(length) +
                                           " numbers in '" + name + "', got " + std::to_string(found) + ".");
    }
    if (status->ok()) TF_OpKernelConstruction_GetAttrInt32List(context, name, values, length, status->get());
  }

  static std::string ReadString(TF_OpKernelConstruction* context, const char* name, Status* status) {
    char value[16] = {};
    if (status->ok()) {
      TF_OpKernelConstruction_GetAttrString(context, name, value, sizeof(value) - 1, status->get());
    }
    return value;
  }

  static Tensor Input(TF_OpKernelContext* context, int index, Status* status) {
    TF_Tensor* tensor = nullptr;
    if (status->ok()) TF_GetInput(context, index, &tensor, status->get());
    return Tensor(tensor, TF_DeleteTensor);
  }

  bool Failed(tfc_status result, Status* status) const {
    if (result == TFC_OK) return false;
    std::string message = std::string(kSparseConv2d) + ": " + tfc_status_message(result);
    if (result == TFC_BAD_ARGUMENT) {  // all else was checked by now
      message = std::string(kSparseConv2d) +
                ": the indices must increase, each a place in the filters, at least 0 and below their size.";
    }
    status->Set(result == TFC_NO_MEMORY ? TF_RESOURCE_EXHAUSTED : TF_INVALID_ARGUMENT, message);
    return true;
  }

  // False where the tensors do not fit together.
  bool MakeShape(const Tensor& input, const Weights& weights, tfc_shape* shape) const {
    for (const Tensor* tensor : {&weights.indices, &weights.values, &weights.bias}) {
      if (TF_NumDims(tensor->get()) != 1) return false;
    }
    if (TF_NumDims(input.get()) != 4 || Count(weights.indices) != Count(weights.values) ||
        Count(weights.bias) != sizes_[kFilters]) {
      return false;
    }
    for (int axis = 0; axis < 4; ++axis) {
      if (TF_Dim(input.get(), axis) > std::numeric_limits<int32_t>::max()) return false;
    }
    const auto channels = static_cast<int32_t>(TF_Dim(input.get(), 3));
    if (sizes_[kDepth] < 1 || channels % sizes_[kDepth] != 0) return false;
    shape->height = static_cast<int32_t>(TF_Dim(input.get(), 1));
    shape->width = static_cast<int32_t>(TF_Dim(input.get(), 2));
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

  int32_t sizes_[kSizes] = {}, steps_[kSteps] = {};
  bool same_ = false;
  tfc_activation activation_ = TFC_LINEAR;
  Plans plans_;
};

// The op sets the threads when it runs, so that to build a graph changes nothing.
class ThreadSetter {
 public:
  ThreadSetter(TF_OpKernelConstruction* context, Status* status) {
    TF_OpKernelConstruction_GetAttrInt32(context, "threads", &threads_, status->get());
  }

  void Compute(TF_OpKernelContext*, Status*) { UseThreads(threads_); }

 private:
  int32_t threads_ = 0;
};

template <typename Op>
void* Create(TF_OpKernelConstruction* context) {
  Status status;
  auto op = std::make_unique<Op>(context, &status);
  if (status.ok()) return op.release();
  TF_OpKernelConstruction_Failure(context, status.get());
  return nullptr;
}

template <typename Op>
void Compute(void* op, TF_OpKernelContext* context) {
  Status status;
  try {
    static_cast<Op*>(op)->Compute(context, &status);
  } catch (const std::bad_alloc&) {
    status.Set(TF_RESOURCE_EXHAUSTED, "tfcompress: out of memory");
  }
  if (!status.ok()) TF_OpKernelContext_Failure(context, status.get());
}

template <typename Op>
void Destroy(void* op) {
  delete static_cast<Op*>(op);
}

// Shapes during inference; after an error every call does nothing.
class Inference {
 public:
  using Shape = std::unique_ptr<TF_ShapeHandle, void (*)(TF_ShapeHandle*)>;

  Inference(TF_ShapeInferenceContext* context, TF_Status* status) : context_(context), status_(status) {}

  Shape Input(int index, int64_t rank) {
    Shape shape = Unknown();
    if (ok()) TF_ShapeInferenceContextGetInput(context_, index, shape.get(), status_);
    return WithRank(shape, rank);
  }

  Shape Open(int64_t rank) { return WithRank(Unknown(), rank); }

  Shape First(const Shape& shape) {
    Shape first = Unknown();
    if (ok()) TF_ShapeInferenceContextSubshape(context_, shape.get(), 0, 1, first.get(), status_);
    return first;
  }

  Shape Joined(const Shape& a, const Shape& b) {
    Shape joined = Unknown();
    if (ok()) TF_ShapeInferenceContextConcatenateShapes(context_, a.get(), b.get(), joined.get(), status_);
    return joined;
  }

  void SetOutput(const Shape& shape) {
    if (ok()) TF_ShapeInferenceContextSetOutput(context_, 0, shape.get(), status_);
  }

 private:
  bool ok() const { return TF_GetCode(status_) == TF_OK; }

  static Shape Unknown() { return Shape(TF_NewShapeHandle(), TF_DeleteShapeHandle); }

  Shape WithRank(const Shape& shape, int64_t rank) {
    Shape ranked = Unknown();
    if (ok()) TF_ShapeInferenceContextWithRank(context_, shape.get(), rank, ranked.get(), status_);
    return ranked;
  }

  TF_ShapeInferenceContext* context_;
  TF_Status* status_;
};

// (batch, ?, ?, filters). The C interface does not show strides and the like; the layer knows the rest.
void InferShape(TF_ShapeInferenceContext* context, TF_Status* status) {
  Inference inference(context, status);
  const auto batch = inference.First(inference.Input(0, 4));
  const auto filters = inference.Input(3, 1);
  inference.SetOutput(inference.Joined(inference.Joined(batch, inference.Open(2)), filters));
}

template <typename Op>
void RegisterKernel(const char* name) {
  Status status;
  TF_RegisterKernelBuilder(name, TF_NewKernelBuilder(name, "CPU", Create<Op>, Compute<Op>, Destroy<Op>),
                           status.get());
}

void RegisterSparseConv2d() {
  TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(kSparseConv2d);
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
  RegisterKernel<SparseConv2d>(kSparseConv2d);
}

void RegisterUseThreads() {
  TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(kUseThreads);
  TF_OpDefinitionBuilderAddAttr(definition, "threads: int >= 0");
  TF_OpDefinitionBuilderSetIsStateful(definition, true);
  Status status;
  TF_RegisterOpDefinition(definition, status.get());
  RegisterKernel<ThreadSetter>(kUseThreads);
}

[[maybe_unused]] const bool registered = (RegisterSparseConv2d(), RegisterUseThreads(), true);

}  // namespace
