// Convolutions to try: the same ones for the same seed, on every machine.
#ifndef TFCOMPRESS_TESTS_CONVOLUTIONS_H_
#define TFCOMPRESS_TESTS_CONVOLUTIONS_H_

#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

#include "../core/sparse_conv.h"

namespace tfc_tests {

// Not the distributions of the C++ library, which differ from one to another.
class Random {
 public:
  explicit Random(uint64_t seed) : bits_(seed) {}

  int32_t Between(int32_t low, int32_t high) { return low + static_cast<int32_t>(bits_() % (high - low + 1)); }
  int32_t Pick(std::initializer_list<int32_t> from) { return from.begin()[bits_() % from.size()]; }
  bool Chance(int32_t percent) { return Between(1, 100) <= percent; }
  float Value() { return static_cast<float>(Between(-1000, 1000)) / 512.0f; }

  std::vector<float> Values(size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = Value();
    return values;
  }

 private:
  std::mt19937_64 bits_;
};

inline tfc_shape Shape(int32_t height, int32_t width, int32_t channels, int32_t filters, int32_t kernel,
                       int32_t pad, int32_t stride = 1, int32_t dilation = 1, int32_t groups = 1) {
  return {height,   width,    channels, filters, kernel, kernel, stride, stride,
          dilation, dilation, pad,      pad,     pad,    pad,    groups};
}

// A convolution with all that a run needs; buffers are as long as they must be, so that a step over their
// end is one that a sanitizer sees.
struct Convolution {
  Convolution(const tfc_shape& shape, int32_t batch, int32_t percent_kept, Random* random)
      : shape(shape), batch(batch) {
    const int32_t rows = shape.kernel_height * shape.kernel_width * (shape.channels / shape.groups);
    dense.assign(static_cast<size_t>(rows) * shape.filters, 0.0f);
    std::vector<bool> empty(shape.filters);  // filters without a weight
    for (int32_t f = 0; f < shape.filters; ++f) empty[f] = percent_kept < 100 && random->Chance(20);
    for (size_t i = 0; i < dense.size(); ++i) {
      if (empty[i % shape.filters] || !random->Chance(percent_kept)) continue;
      dense[i] = random->Value();
      indices.push_back(static_cast<int32_t>(i));
      values.push_back(dense[i]);
    }
    if (random->Chance(70)) bias = random->Values(shape.filters);
    activation = static_cast<tfc_activation>(random->Between(TFC_LINEAR, TFC_RELU6));
    input = random->Values(size_t{1} * batch * shape.height * shape.width * shape.channels);
    int32_t height = 0, width = 0;
    tfc_output_size(&shape, &height, &width);
    outputs = size_t{1} * batch * height * width * shape.filters;
  }

  const float* Bias() const { return bias.empty() ? nullptr : bias.data(); }
  tfc_weights Weights() const { return {static_cast<int64_t>(values.size()), indices.data(), values.data()}; }

  tfc_shape shape;
  int32_t batch;
  std::vector<float> dense, values, bias, input;
  std::vector<int32_t> indices;
  tfc_activation activation;
  size_t outputs;  // 0 where the shape makes no convolution
};

// Small enough for the plain loops.
inline tfc_shape RandomShape(Random* random) {
  const int32_t groups = random->Pick({1, 1, 1, 2, 3});
  tfc_shape s = {};
  s.height = random->Between(1, 34);
  s.width = random->Between(1, 34);
  s.channels = groups * random->Pick({1, 3, 8, 15, 16, 17, 33});
  s.filters = groups * random->Pick({1, 5, 15, 16, 17, 40});
  s.kernel_height = random->Between(1, 5);
  s.kernel_width = random->Between(1, 5);
  for (int32_t* size : {&s.stride_height, &s.stride_width, &s.dilation_height, &s.dilation_width}) {
    *size = random->Pick({1, 1, 2, 3});
  }
  for (int32_t* pad : {&s.pad_top, &s.pad_bottom, &s.pad_left, &s.pad_right}) *pad = random->Between(0, 4);
  s.groups = groups;
  return s;
}

}  // namespace tfc_tests

#endif  // TFCOMPRESS_TESTS_CONVOLUTIONS_H_
