#include "graph.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>

namespace tfc::tflite {
namespace {

struct Node {
  int index;
  const TfLiteNode* node;
  int code;
};

bool ActivationOf(TfLiteFusedActivation given, tfc_activation* activation) {
  switch (given) {
    case kTfLiteActNone: *activation = TFC_LINEAR; return true;
    case kTfLiteActRelu: *activation = TFC_RELU; return true;
    case kTfLiteActRelu6: *activation = TFC_RELU6; return true;
  }
  return false;
}

// Increasing places of (filters, rows, columns, depth) as `tfc_weights` wants them, (rows, columns, depth,
// filters).
template <typename Number>
void Reorder(const Entries& entries, int32_t filters, int64_t per_filter, std::vector<int32_t>* indices,
             std::vector<Number>* values) {
  std::vector<size_t> next(per_filter + 1);  // by what is left without the filter: where its entries go
  for (const int64_t place : entries.places) ++next[place % per_filter + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  indices->resize(entries.places.size());
  values->resize(entries.places.size());
  for (size_t i = 0; i < entries.places.size(); ++i) {
    const int64_t filter = entries.places[i] / per_filter, rest = entries.places[i] % per_filter;
    const size_t at = next[rest]++;
    (*indices)[at] = static_cast<int32_t>(rest * filters + filter);
    (*values)[at] = static_cast<Number>(entries.values[i]);
  }
}

class Reader {
 public:
  Reader(TfLiteContext* context, Graph* graph) : context_(context), graph_(*graph) {}

  TfLiteStatus Read() {
    if (ReadNodes() != kTfLiteOk) return kTfLiteError;
    for (const Node& node : nodes_) ReadNode(node);
    for (const Node& node : nodes_) {
      if (node.code == kTfLiteBuiltinAdd) JoinAddition(node);
    }
    return kTfLiteOk;
  }

 private:
  TfLiteStatus ReadNodes() {
    TfLiteIntArray* plan = nullptr;
    if (context_->GetExecutionPlan(context_, &plan) != kTfLiteOk || plan == nullptr) return kTfLiteError;
    const std::vector<int> order(plan->data, plan->data + plan->size);  // later calls may change the array
    graph_.readers.resize(context_->tensors_size);
    for (const int index : order) {
      TfLiteNode* node = nullptr;
      TfLiteRegistration* registration = nullptr;
      if (context_->GetNodeAndRegistration(context_, index, &node, &registration) != kTfLiteOk)
        return kTfLiteError;
      nodes_.push_back({index, node, registration->builtin_code});
      for (int i = 0; i < node->inputs->size; ++i) {
        if (InRange(node->inputs->data[i])) graph_.readers[node->inputs->data[i]].push_back(index);
      }
      for (int i = 0; i < node->outputs->size; ++i) {
        if (InRange(node->outputs->data[i])) makers_[node->outputs->data[i]] = nodes_.size() - 1;
      }
    }
    for (size_t tensor = 0; tensor < context_->tensors_size; ++tensor) {
      const bool input = makers_.count(static_cast<int>(tensor)) == 0 && !graph_.readers[tensor].empty();
      open_inputs_ += input && !OpenAxes(static_cast<int>(tensor)).empty();
    }
    return kTfLiteOk;
  }

  bool InRange(int tensor) const { return tensor >= 0 && tensor < static_cast<int>(context_->tensors_size); }

  const TfLiteTensor& Tensor(int index) const { return context_->tensors[index]; }

  // ------------------------------------------------------------ convolutions

  void ReadNode(const Node& node) {
    static const std::map<int, const char* (Reader::*)(const Node&, Convolution*)> kReaders = {
        {kTfLiteBuiltinConv2d, &Reader::ReadConv2d},
        {kTfLiteBuiltinDepthwiseConv2d, &Reader::ReadDepthwise},
        {kTfLiteBuiltinFullyConnected, &Reader::ReadFullyConnected},
    };
    const auto reader = kReaders.find(node.code);
    if (reader == kReaders.end()) return;
    Step step = {};
    const char* problem = ReadTensors(node, &step);
    if (problem == nullptr) problem = (this->*reader->second)(node, &step.convolution);
    if (problem == nullptr) problem = ReadWeights(node, &step);
    if (problem != nullptr) {
      graph_.refusals.push_back({node.index, problem});
      return;
    }
    step_of_[step.output] = graph_.steps.size();
    graph_.steps.push_back(std::move(step));
  }

  const char* ReadTensors(const Node& node, Step* step) const {
    const TfLiteIntArray *inputs = node.node->inputs, *outputs = node.node->outputs;
    if (node.node->builtin_data == nullptr) return "it has no parameters";
    if (inputs->size < 2 || outputs->size != 1) return "it has too few inputs or several outputs";
    if (!InRange(inputs->data[0]) || !InRange(inputs->data[1]) || !InRange(outputs->data[0])) {
      return "a tensor is missing";
    }
    *step = {{}, {node.index}, inputs->data[0], outputs->data[0], -1, -1, false};
    const TfLiteType type = Tensor(step->input).type;
    if ((type != kTfLiteFloat32 && type != kTfLiteInt8) || Tensor(step->output).type != type) {
      return "it does not compute with float32 or int8";
    }
    step->convolution.in_int8 = type == kTfLiteInt8;
    return nullptr;
  }

  const char* ReadConv2d(const Node& node, Convolution* made) {
    const auto& params = *static_cast<const TfLiteConvParams*>(node.node->builtin_data);
    const std::vector<int> filter = DimsOf(Tensor(node.node->inputs->data[1]));
    const std::vector<int> input = DimsOf(Tensor(node.node->inputs->data[0]));
    if (filter.size() != 4 || input.size() != 4 || filter[3] < 1) return "its tensors are not of rank 4";
    if (input[3] % filter[3] != 0) return "its channels are no multiple of the depth of its filters";
    if (!ActivationOf(params.activation, &made->activation)) return "its activation is not relu or relu6";
    SetSteps(params, made);
    made->shape.channels = input[3];
    made->shape.filters = filter[0];
    made->shape.kernel_height = filter[1];
    made->shape.kernel_width = filter[2];
    made->shape.groups = input[3] / filter[3];
    return nullptr;
  }

  const char* ReadDepthwise(const Node& node, Convolution* made) {
    const auto& params = *static_cast<const TfLiteDepthwiseConvParams*>(node.node->builtin_data);
    const std::vector<int> filter = DimsOf(Tensor(node.node->inputs->data[1]));
    const std::vector<int> input = DimsOf(Tensor(node.node->inputs->data[0]));
    if (filter.size() != 4 || input.size() != 4 || filter[0] != 1) return "its tensors are not of rank 4";
    if (!ActivationOf(params.activation, &made->activation)) return "its activation is not relu or relu6";
    SetSteps(params, made);
    made->shape.channels = made->shape.groups = input[3];
    made->shape.filters = filter[3];
    made->shape.kernel_height = filter[1];
    made->shape.kernel_width = filter[2];
    made->filters_last = true;
    return nullptr;
  }

  template <typename Params>
  static void SetSteps(const Params& params, Convolution* made) {
    made->same = params.padding == kTfLitePaddingSame;
    made->shape.stride_height = params.stride_height;
    made->shape.stride_width = params.stride_width;
    made->shape.dilation_height = params.dilation_height_factor;
    made->shape.dilation_width = params.dilation_width_factor;
  }

  const char* ReadFullyConnected(const Node& node, Convolution* made) {
    const auto& params = *static_cast<const TfLiteFullyConnectedParams*>(node.node->builtin_data);
    const std::vector<int> weights = DimsOf(Tensor(node.node->inputs->data[1]));
    if (weights.size() != 2 || params.weights_format != 0) return "its weights are not a plain matrix";
    if (!ActivationOf(params.activation, &made->activation)) return "its activation is not relu or relu6";
    made->flat = true;
    made->keep_dims = params.keep_num_dims;
    made->shape.channels = weights[1];
    made->shape.filters = weights[0];
    made->shape.kernel_height = made->shape.kernel_width = made->shape.groups = 1;
    made->shape.stride_height = made->shape.stride_width = 1;
    made->shape.dilation_height = made->shape.dilation_width = 1;
    return nullptr;
  }

  // ------------------------------------------------------------ weights

  const char* ReadWeights(const Node& node, Step* step) {
    Convolution* made = &step->convolution;
    tfc_shape check = made->shape;
    check.height = check.width = 1;
    int32_t height, width;
    if (tfc_pad_same(&check) != TFC_OK || tfc_output_size(&check, &height, &width) != TFC_OK)
      return "its sizes make no convolution";
    Entries entries;
    if (const char* problem = ReadEntries(node, node.node->inputs->data[1], step, &entries)) return problem;
    if (const char* problem = ReadBias(node, step)) return problem;
    if (!Finite(entries.values) || !Finite(made->bias)) return "a weight or bias is infinite or not a number";
    const int64_t count = int64_t{check.kernel_height} * check.kernel_width * (check.channels / check.groups);
    // Where filters are the last axis already, all is as if there were one.
    const int32_t filters = made->filters_last ? 1 : check.filters;
    const int64_t per_filter = made->filters_last ? count * check.filters : count;
    tfc_status status;
    if (made->in_int8) {
      if (const char* problem = ReadQuantization(node, step)) return problem;
      Reorder(entries, filters, per_filter, &made->indices, &made->int8.values);
      const tfc_int8_weights weights = {static_cast<int64_t>(made->indices.size()), made->indices.data(),
                                        made->int8.values.data()};
      status = tfc_int8_count_weights(&check, &weights, &made->counts);
    } else {
      Reorder(entries, filters, per_filter, &made->indices, &made->values);
      const tfc_weights weights = {static_cast<int64_t>(made->indices.size()), made->indices.data(),
                                   made->values.data()};
      status = tfc_count_weights(&check, &weights, &made->counts);
    }
    return status == TFC_OK ? nullptr : "its weights are not in order";
  }

  template <typename Number>
  static bool Finite(const std::vector<Number>& values) {
    return std::all_of(values.begin(), values.end(), [](Number value) { return std::isfinite(value); });
  }

  // ------------------------------------------------------------ int8

  // Scales along an axis, of so many slices, all with the same zero; or one for all. NULL, or what is wrong.
  const char* ReadScales(int tensor, int axis, int count, std::vector<float>* scales, int32_t* zero) const {
    const TfLiteQuantization& quantization = Tensor(tensor).quantization;
    const auto* params = static_cast<const TfLiteAffineQuantization*>(quantization.params);
    if (quantization.type != kTfLiteAffineQuantization || params == nullptr) return "a tensor has no scale";
    const TfLiteFloatArray* scale = params->scale;
    const TfLiteIntArray* zeros = params->zero_point;
    if (scale == nullptr || zeros == nullptr || zeros->size < 1) return "a tensor has no scale";
    const bool each = scale->size == count && (count == 1 || params->quantized_dimension == axis);
    if (scale->size != 1 && !each) return "its scales are not those of filters";
    for (int i = 0; i < zeros->size; ++i) {
      if (zeros->data[i] != zeros->data[0]) return "its filters have different zeros";
    }
    *zero = zeros->data[0];
    for (int i = 0; i < count; ++i) scales->push_back(scale->data[each ? i : 0]);
    const auto positive = [](float value) { return std::isfinite(value) && value > 0; };
    return std::all_of(scales->begin(), scales->end(), positive) ? nullptr : "a scale is not above 0";
  }

  const char* ReadQuantization(const Node& node, Step* step) const {
    Convolution* made = &step->convolution;
    Int8& int8 = made->int8;
    std::vector<float> input, output;
    int32_t filter_zero = 0;
    tfc_requantization& r = int8.requantization;
    const int weights = node.node->inputs->data[1], axis = made->filters_last ? 3 : 0;
    if (const char* problem = ReadScales(step->input, 0, 1, &input, &r.input_zero)) return problem;
    if (const char* problem = ReadScales(step->output, 0, 1, &output, &r.output_zero)) return problem;
    const char* problem = ReadScales(weights, axis, made->shape.filters, &int8.scales, &filter_zero);
    if (problem != nullptr) return problem;
    if (filter_zero != 0) return "the zero of its weights is not 0";
    if (!Byte(r.input_zero) || !Byte(r.output_zero)) return "a zero is not in the range of int8";
    // In the order of XNNPACK.
    for (float& scale : int8.scales) scale = input[0] * scale / output[0];
    if (!Finite(int8.scales)) return "a scale is not finite";
    SetBounds(made->activation, output[0], r.output_zero, &r.low, &r.high);
    return nullptr;
  }

  static bool Byte(int32_t zero) { return zero >= -128 && zero <= 127; }

  static void SetBounds(tfc_activation activation, float scale, int32_t zero, int32_t* low, int32_t* high) {
    *low = activation == TFC_LINEAR ? -128 : zero;
    const float six = 6.0f / scale + static_cast<float>(zero);
    *high = activation == TFC_RELU6 && six < 127.0f ? static_cast<int32_t>(std::lrint(six)) : 127;
  }

  // Follows nodes that only make weights dense or float32, each before its reader, to the constant that they
  // begin with.
  const char* ReadEntries(const Node& reader, int tensor, Step* step, Entries* entries) {
    const int given = tensor;
    bool ours = true;  // whether nothing else reads what these nodes make
    const Node* last = &reader;
    for (auto maker = makers_.find(tensor); maker != makers_.end(); maker = makers_.find(tensor)) {
      const Node& node = nodes_[maker->second];
      const bool converts = node.code == kTfLiteBuiltinDensify || node.code == kTfLiteBuiltinDequantize;
      if (!converts || &node >= last || node.node->inputs->size < 1) return "its weights are computed";
      ours = ours && graph_.readers[tensor].size() == 1;
      if (ours) step->nodes.insert(step->nodes.begin(), node.index);
      const int from = node.node->inputs->data[0];
      if (!InRange(from)) return "a tensor is missing";
      if (DimsOf(Tensor(from)) != DimsOf(Tensor(tensor))) return "its weights change their shape on the way";
      tensor = from;
      last = &node;
    }
    const TfLiteTensor& found = Tensor(tensor);
    if (!Constant(found)) return "its weights are not constants of float32, float16 or int8";
    Convolution* made = &step->convolution;
    const bool bias = given != reader.node->inputs->data[1], in_int8 = found.type == kTfLiteInt8;
    const bool whole = in_int8 || found.type == kTfLiteInt32;
    const bool fits =
        bias ? (found.type == kTfLiteInt32) == made->in_int8 && !in_int8 : in_int8 || (!whole && !made->in_int8);
    if (!fits) return "its weights are of another type than its maps";
    const char* problem = found.sparsity == nullptr ? ReadDense(found, entries) : ReadSparse(found, entries);
    if (problem != nullptr || !in_int8) return problem;
    made->weights_in_int8 = Tensor(given).type == kTfLiteInt8;  // not where a node makes float32 of them
    made->needed = found.sparsity != nullptr;
    return made->in_int8 ? nullptr : Dequantize(tensor, *made, entries);
  }

  // Weights in int8 of a convolution of maps in float32.
  const char* Dequantize(int tensor, const Convolution& made, Entries* entries) const {
    const int filters = made.shape.filters;
    std::vector<float> scales;
    int32_t zero = 0;
    const char* problem = ReadScales(tensor, made.filters_last ? 3 : 0, filters, &scales, &zero);
    if (problem != nullptr) return problem;
    if (zero != 0) return "the zero of its weights is not 0";
    const std::vector<int> dims = DimsOf(Tensor(tensor));
    const int64_t all = std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>());
    for (size_t i = 0; i < entries->places.size(); ++i) {
      const int64_t place = entries->places[i];
      entries->values[i] *= scales[made.filters_last ? place % filters : place / (all / filters)];
    }
    return nullptr;
  }

  static bool Constant(const TfLiteTensor& tensor) {
    const bool fixed = tensor.allocation_type == kTfLiteMmapRo || tensor.allocation_type == kTfLitePersistentRo;
    const bool known = tensor.type == kTfLiteFloat32 || tensor.type == kTfLiteFloat16 ||
                       tensor.type == kTfLiteInt8 || tensor.type == kTfLiteInt32;
    return fixed && known && tensor.data != nullptr && tensor.dims != nullptr;
  }

  const char* ReadBias(const Node& node, Step* step) {
    Convolution* made = &step->convolution;
    const int tensor = node.node->inputs->size < 3 ? kTfLiteOptionalTensor : node.node->inputs->data[2];
    made->bias.assign(made->in_int8 ? 0 : made->shape.filters, 0.0f);
    made->int8.bias.assign(made->in_int8 ? made->shape.filters : 0, 0);
    if (tensor == kTfLiteOptionalTensor) return nullptr;
    if (!InRange(tensor) || DimsOf(Tensor(tensor)) != std::vector<int>{made->shape.filters}) {
      return "its bias has another size than its filters";
    }
    Entries entries;
    if (const char* problem = ReadEntries(node, tensor, step, &entries)) return problem;
    for (size_t i = 0; i < entries.places.size(); ++i) {
      if (made->in_int8) {
        made->int8.bias[entries.places[i]] = static_cast<int32_t>(entries.values[i]);
      } else {
        made->bias[entries.places[i]] = static_cast<float>(entries.values[i]);
      }
    }
    return nullptr;
  }

  // ------------------------------------------------------------ additions

  // Joins an addition of two maps to the later of the convolutions that make them, if nothing else reads that.
  void JoinAddition(const Node& node) {
    const TfLiteIntArray* inputs = node.node->inputs;
    tfc_activation activation;
    if (inputs->size != 2 || node.node->outputs->size != 1 || node.node->builtin_data == nullptr) return;
    const auto& params = *static_cast<const TfLiteAddParams*>(node.node->builtin_data);
    if (!ActivationOf(params.activation, &activation)) return;
    const int a = inputs->data[0], b = inputs->data[1];
    if (a == b || !InRange(a) || !InRange(b) || !OfOneShape(a, b)) return;
    if (Constant(Tensor(a)) || Constant(Tensor(b)) || makers_.count(a) + makers_.count(b) == 0) return;
    const bool first = makers_.count(b) == 0 || (makers_.count(a) != 0 && makers_[a] > makers_[b]);
    const int made = first ? a : b, other = first ? b : a;
    const auto found = step_of_.find(made);
    if (found == step_of_.end() || graph_.readers[made].size() != 1) return;
    Step& step = graph_.steps[found->second];
    if (step.residual >= 0 || step.convolution.activation != TFC_LINEAR) return;
    const int sum = node.node->outputs->data[0];
    if (!InRange(sum) || Tensor(other).type != Tensor(made).type || Tensor(sum).type != Tensor(made).type) return;
    if (step.convolution.in_int8 && !ReadAddition(made, other, sum, activation, &step.convolution.int8.addition))
      return;
    step.nodes.push_back(node.index);
    step.residual = other;
    step.sum = made;
    step.output = sum;
    step.convolution.activation = activation;
    step_of_[step.output] = found->second;
    step_of_.erase(made);
  }

  // As XNNPACK adds maps in int8: multipliers of 21 bits, of which the larger has them all. False where it would
  // not.
  bool ReadAddition(int made, int other, int sum, tfc_activation activation, tfc_addition* addition) const {
    std::vector<float> scales;  // of the three
    int32_t made_zero = 0, other_zero = 0, zero = 0;
    if (ReadScales(made, 0, 1, &scales, &made_zero) != nullptr) return false;
    if (ReadScales(other, 0, 1, &scales, &other_zero) != nullptr) return false;
    if (ReadScales(sum, 0, 1, &scales, &zero) != nullptr || !Byte(made_zero) || !Byte(other_zero) || !Byte(zero)) {
      return false;
    }
    const float of_made = scales[0] / scales[2], of_other = scales[1] / scales[2];
    const auto usual = [](float ratio) { return ratio >= 0x1.0p-10f && ratio < 0x1.0p+8f; };
    if (!usual(of_made) || !usual(of_other)) return false;
    const int32_t shift = 20 - std::ilogb(std::max(of_made, of_other));
    const auto multiplier = [=](float ratio) {
      return static_cast<int32_t>(std::lrint(std::ldexp(ratio, shift)));
    };
    addition->output_multiplier = multiplier(of_made);
    addition->residual_multiplier = multiplier(of_other);
    addition->shift = shift;
    addition->bias =
        (1 << (shift - 1)) - addition->output_multiplier * made_zero - addition->residual_multiplier * other_zero;
    addition->zero = zero;
    SetBounds(activation, scales[2], zero, &addition->low, &addition->high);
    return true;
  }

  // Whether two maps have the same dimensions, and will when the inputs are resized: those that are open are
  // batches, of the one input that has an open one.
  bool OfOneShape(int a, int b) const {
    const std::vector<int> dims = DimsOf(Tensor(a));
    if (dims.empty() || dims != DimsOf(Tensor(b))) return false;
    const std::vector<int> open = OpenAxes(a), others = OpenAxes(b);
    const bool fixed = open.empty() && others.empty();
    return fixed || (open == std::vector<int>{0} && others == open && open_inputs_ == 1);
  }

  std::vector<int> OpenAxes(int tensor) const {
    std::vector<int> axes;
    const TfLiteIntArray* signature = Tensor(tensor).dims_signature;
    for (int axis = 0; signature != nullptr && axis < signature->size; ++axis) {
      if (signature->data[axis] < 0) axes.push_back(axis);
    }
    return axes;
  }

  TfLiteContext* context_;
  Graph& graph_;
  std::vector<Node> nodes_;
  int open_inputs_ = 0;            // inputs of the graph of which an axis is open
  std::map<int, size_t> makers_;   // by tensor: which of `nodes_`
  std::map<int, size_t> step_of_;  // by output
};

}  // namespace

std::vector<int> DimsOf(const TfLiteTensor& tensor) {
  if (tensor.dims == nullptr) return {};
  return std::vector<int>(tensor.dims->data, tensor.dims->data + tensor.dims->size);
}

TfLiteStatus ReadGraph(TfLiteContext* context, Graph* graph) { return Reader(context, graph).Read(); }

void LeaveAddition(Step* step) {
  step->nodes.pop_back();
  step->output = step->sum;
  step->residual = step->sum = -1;
  step->convolution.activation = TFC_LINEAR;
}

tfc_status FindSizes(const Convolution& c, const std::vector<int>& input, Sizes* sizes) {
  if (input.empty() || std::any_of(input.begin(), input.end(), [](int size) { return size < 0; }))
    return TFC_BAD_SHAPE;
  tfc_shape* s = &sizes->shape;
  *s = c.shape;
  if (c.flat) {
    const int64_t count = std::accumulate(input.begin(), input.end(), int64_t{1}, std::multiplies<>());
    if (count % s->channels != 0 || count / s->channels > INT32_MAX) return TFC_BAD_SHAPE;
    const auto rows = static_cast<int32_t>(count / s->channels);
    s->height = 1;
    s->width = std::max(rows, 1);
    sizes->images = rows == 0 ? 0 : 1;
    sizes->output = c.keep_dims ? std::vector<int>(input.begin(), input.end() - 1) : std::vector<int>{rows};
    sizes->output.push_back(s->filters);
    return TFC_OK;
  }
  if (input.size() != 4 || input[3] != s->channels) return TFC_BAD_SHAPE;
  s->height = input[1];
  s->width = input[2];
  if (c.same && tfc_pad_same(s) != TFC_OK) return TFC_BAD_SHAPE;
  int32_t height, width;
  if (const auto status = tfc_output_size(s, &height, &width)) return status;
  sizes->images = input[0];
  sizes->output = {input[0], height, width, s->filters};
  return TFC_OK;
}

tfc_status MakePlan(const Step& step, const tfc_shape& shape, const tfc_options& options, tfc_plan** plan) {
  const Convolution& c = step.convolution;
  const auto count = static_cast<int64_t>(c.indices.size());
  if (!c.in_int8) {
    const tfc_weights weights = {count, c.indices.data(), c.values.data()};
    const tfc_activation activation = step.apart ? TFC_LINEAR : c.activation;
    return tfc_plan_create_with(&shape, &weights, c.bias.data(), activation, &options, plan);
  }
  const tfc_int8_weights weights = {count, c.indices.data(), c.int8.values.data()};
  tfc_requantization requantization = c.int8.requantization;
  requantization.scales = c.int8.scales.data();
  const tfc_addition* addition = step.residual < 0 || step.apart ? nullptr : &c.int8.addition;
  return tfc_int8_plan_create(&shape, &weights, c.int8.bias.data(), &requantization, addition, options.kernel,
                              plan);
}

}  // namespace tfc::tflite
