// The plain loop nest.
#include <algorithm>
#include <cmath>

#include "shape.h"
#include "sparse_conv.h"

namespace {

// Calls `add(entry of the image, weight)` for all that one output is the sum of.
template <typename Number, typename Add>
void ForEach(const tfc_shape& s, const Number* weights, const Number* image, int32_t row, int32_t column,
             int32_t filter, const Add& add) {
  const int32_t depth = s.channels / s.groups;
  const int32_t first = filter / (s.filters / s.groups) * depth;
  for (int32_t r = 0; r < s.kernel_height; ++r) {
    for (int32_t c = 0; c < s.kernel_width; ++c) {
      const int64_t y = int64_t{row} * s.stride_height + int64_t{r} * s.dilation_height - s.pad_top;
      const int64_t x = int64_t{column} * s.stride_width + int64_t{c} * s.dilation_width - s.pad_left;
      if (y < 0 || y >= s.height || x < 0 || x >= s.width) continue;
      const Number* pixel = image + (y * s.width + x) * s.channels + first;
      const Number* tap = weights + (int64_t{r} * s.kernel_width + c) * depth * s.filters + filter;
      for (int32_t k = 0; k < depth; ++k) add(pixel[k], tap[int64_t{k} * s.filters]);
    }
  }
}

// Calls `make(image, row, column, filter)` for all outputs in turn.
template <typename Number, typename Make>
void MakeAll(const tfc_shape& s, tfc::OutputSize size, const Number* input, int32_t batch, Number* output,
             const Make& make) {
  const int64_t image_size = int64_t{s.height} * s.width * s.channels;
  for (int32_t n = 0; n < batch; ++n) {
    for (int32_t y = 0; y < size.height; ++y) {
      for (int32_t x = 0; x < size.width; ++x) {
        for (int32_t f = 0; f < s.filters; ++f) *output++ = make(input + n * image_size, y, x, f);
      }
    }
  }
}

}  // namespace

tfc_status tfc_reference(const tfc_shape* shape, const float* weights, const float* bias,
                         tfc_activation activation, const float* input, float* output, int32_t batch) {
  const bool missing = shape == nullptr || weights == nullptr || input == nullptr || output == nullptr;
  if (missing || batch < 0) return TFC_BAD_ARGUMENT;
  tfc::OutputSize size;
  tfc::Range range;
  if (const auto status = tfc::CheckShape(*shape, &size)) return status;
  if (const auto status = tfc::CheckActivation(activation, &range)) return status;
  MakeAll(*shape, size, input, batch, output, [&](const float* image, int32_t y, int32_t x, int32_t f) {
    double sum = 0;
    ForEach(*shape, weights, image, y, x, f, [&](float entry, float weight) { sum += double{entry} * weight; });
    return std::clamp(static_cast<float>(sum) + (bias == nullptr ? 0.0f : bias[f]), range.low, range.high);
  });
  return TFC_OK;
}

tfc_status tfc_int8_reference(const tfc_shape* shape, const int8_t* weights, const int32_t* bias,
                              const tfc_requantization* requantization, const int8_t* input, int8_t* output,
                              int32_t batch) {
  const bool missing = shape == nullptr || weights == nullptr || requantization == nullptr ||
                       requantization->scales == nullptr || input == nullptr || output == nullptr;
  if (missing || batch < 0) return TFC_BAD_ARGUMENT;
  tfc::OutputSize size;
  if (const auto status = tfc::CheckShape(*shape, &size)) return status;
  const tfc_requantization& r = *requantization;
  MakeAll(*shape, size, input, batch, output, [&](const int8_t* image, int32_t y, int32_t x, int32_t f) {
    int64_t sum = bias == nullptr ? 0 : bias[f];
    ForEach(*shape, weights, image, y, x, f,
            [&](int8_t entry, int8_t weight) { sum += int64_t{entry - r.input_zero} * weight; });
    // As in a register of 32 bits.
    const float scaled = r.scales[f] * static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(sum)));
    const float rounded = std::nearbyint(std::clamp(scaled, -1024.0f, 1024.0f));
    return static_cast<int8_t>(std::clamp(static_cast<int32_t>(rounded) + r.output_zero, r.low, r.high));
  });
  return TFC_OK;
}
