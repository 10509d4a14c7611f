// What the delegate sees in a graph: nodes it could run, as units of a convolution and what follows it.
#ifndef TFCOMPRESS_TFLITE_GRAPH_H_
#define TFCOMPRESS_TFLITE_GRAPH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "../core/sparse_conv.h"
#include "c_api.h"
#include "weights.h"

namespace tfc::tflite {

// What a convolution in int8 has besides, or instead.
struct Int8 {
  std::vector<int8_t> values;
  std::vector<int32_t> bias;
  std::vector<float> scales;
  tfc_requantization requantization;  // but its scales
  tfc_addition addition;              // where a residual is added
};

// Of a convolution, fixed when the model is read; sizes of maps follow when tensors have theirs.
struct Convolution {
  bool in_int8;          // its maps
  bool weights_in_int8;  // in the file
  bool needed;           // no other runtime runs the file's encoding of its weights
  tfc_shape shape;       // without height, width and padding
  bool same;             // padding
  bool flat;             // a dense layer: its input is (rows, channels), whatever shape the tensor has
  bool filters_last;     // in the weights of the file, as depthwise convolutions have it
  bool keep_dims;        // whether the output of a dense layer has the dimensions of the input but the last
  tfc_activation activation;
  std::vector<int32_t> indices;  // as in `tfc_weights`
  std::vector<float> values, bias;
  Int8 int8;
  tfc_weight_counts counts;
};

// A convolution and the addition that follows it, as nodes and tensors of the graph.
struct Step {
  Convolution convolution;
  std::vector<int> nodes;       // all that it stands for: what makes weights, the convolution, the addition
  int input, output, residual;  // tensors; -1 for none
  int sum;                      // what the residual is added to, or -1
  bool apart;  // whether others read that, so that the addition is a step of its own behind the convolution
};

struct Refusal {
  int node;
  std::string reason;
};

struct Graph {
  std::vector<Step> steps;  // in the order in which they run
  std::vector<Refusal> refusals;
  std::vector<std::vector<int>> readers;  // by tensor: nodes
};

TfLiteStatus ReadGraph(TfLiteContext* context, Graph* graph);

// Makes the step one of its convolution alone.
void LeaveAddition(Step* step);

// Shapes, for an input of these dimensions; TFC_BAD_SHAPE where they do not fit.
struct Sizes {
  tfc_shape shape;
  int32_t images;
  std::vector<int> output;  // dimensions
};
tfc_status FindSizes(const Convolution& convolution, const std::vector<int>& input, Sizes* sizes);

// A plan for the core, without an addition that is apart; in int8 the options do not count, but for the kernel.
tfc_status MakePlan(const Step& step, const tfc_shape& shape, const tfc_options& options, tfc_plan** plan);

std::vector<int> DimsOf(const TfLiteTensor& tensor);

}  // namespace tfc::tflite

#endif  // TFCOMPRESS_TFLITE_GRAPH_H_
