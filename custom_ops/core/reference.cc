// The plain loop nest.
#include <algorithm>

#include "shape.h"
#include "sparse_conv.h"

namespace {

// One output, summed in double precision.
float OutputAt(const tfc_shape& s, const float* weights, const float* image, int32_t row, int32_t column,
               int32_t filter) {
  const int32_t depth = s.channels / s.groups;
  const int32_t first = filter / (s.filters / s.groups) * depth;
  double sum = 0;
  for (int32_t r = 0; r < s.kernel_height; ++r) {
    for (int32_t c = 0; c < s.kernel_width; ++c) {
      const int64_t y = int64_t{row} * s.stride_height + int64_t{r} * s.dilation_height - s.pad_top;
      const int64_t x = int64_t{column} * s.stride_width + int64_t{c} * s.dilation_width - s.pad_left;
      if (y < 0 || y >= s.height || x < 0 || x >= s.width) continue;
      const float* pixel = image + (y * s.width + x) * s.channels + first;
      const float* tap = weights + (int64_t{r} * s.kernel_width + c) * depth * s.filters + filter;
      for (int32_t k = 0; k < depth; ++k) sum += double{pixel[k]} * tap[int64_t{k} * s.filters];
    }
  }
  return static_cast<float>(sum);
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
  const int64_t image_size = int64_t{shape->height} * shape->width * shape->channels;
  for (int32_t n = 0; n < batch; ++n) {
    for (int32_t y = 0; y < size.height; ++y) {
      for (int32_t x = 0; x < size.width; ++x) {
        for (int32_t f = 0; f < shape->filters; ++f) {
          const float sum = OutputAt(*shape, weights, input + n * image_size, y, x, f);
          *output++ = std::clamp(sum + (bias == nullptr ? 0.0f : bias[f]), range.low, range.high);
        }
      }
    }
  }
  return TFC_OK;
}
