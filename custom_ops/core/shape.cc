#include "shape.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <limits>

namespace tfc {
namespace {

constexpr int64_t kLargest = int64_t{1} << 30;  // entries of a map or a filter bank, pixels of a padded side
constexpr int32_t kMostTaps = 65535;            // no tile has room for more
constexpr int32_t kMostChannels = 1 << 22;      // or filters: a plan has something of each, weights or not

// Along one axis; 0 where the dilated kernel does not fit.
int64_t OutputLength(int64_t length, int64_t kernel, int64_t stride, int64_t dilation, int64_t pads) {
  const int64_t span = (kernel - 1) * dilation + 1;
  return length + pads < span ? 0 : (length + pads - span) / stride + 1;
}

// Whether the product of counts, each at least 1, stays below the limit.
template <typename... Counts>
bool Addressable(Counts... counts) {
  int64_t product = 1;
  for (const int64_t count : {static_cast<int64_t>(counts)...}) {
    if (count > kLargest / product) return false;
    product *= count;
  }
  return product < kLargest;
}

// What "SAME" adds in front and behind, so that there are as many outputs as strides fit in. False where that is
// no number of pixels.
bool Pad(int64_t length, int64_t kernel, int64_t stride, int64_t dilation, int32_t* before, int32_t* after) {
  if (length < 1 || kernel < 1 || stride < 1 || dilation < 1) return false;
  const int64_t outputs = (length + stride - 1) / stride;
  const int64_t pads = std::max<int64_t>(0, (outputs - 1) * stride + (kernel - 1) * dilation + 1 - length);
  if (pads > std::numeric_limits<int32_t>::max()) return false;
  *before = static_cast<int32_t>(pads / 2);
  *after = static_cast<int32_t>(pads - pads / 2);
  return true;
}

}  // namespace

tfc_status PadSame(tfc_shape* s) {
  const bool padded =
      Pad(s->height, s->kernel_height, s->stride_height, s->dilation_height, &s->pad_top, &s->pad_bottom) &&
      Pad(s->width, s->kernel_width, s->stride_width, s->dilation_width, &s->pad_left, &s->pad_right);
  return padded ? TFC_OK : TFC_BAD_SHAPE;
}

tfc_status CheckShape(const tfc_shape& s, OutputSize* size) {
  for (const int32_t count : {s.height, s.width, s.channels, s.filters, s.kernel_height, s.kernel_width,
                              s.stride_height, s.stride_width, s.dilation_height, s.dilation_width, s.groups}) {
    if (count < 1) return TFC_BAD_SHAPE;
  }
  for (const int32_t pad : {s.pad_top, s.pad_bottom, s.pad_left, s.pad_right}) {
    if (pad < 0) return TFC_BAD_SHAPE;
  }
  if (s.channels % s.groups != 0 || s.filters % s.groups != 0) return TFC_BAD_SHAPE;
  const int64_t height = OutputLength(s.height, s.kernel_height, s.stride_height, s.dilation_height,
                                      int64_t{s.pad_top} + s.pad_bottom);
  const int64_t width =
      OutputLength(s.width, s.kernel_width, s.stride_width, s.dilation_width, int64_t{s.pad_left} + s.pad_right);
  if (height < 1 || width < 1) return TFC_BAD_SHAPE;
  const bool fits = Addressable(s.height, s.width, s.channels) && Addressable(height, width, s.filters) &&
                    Addressable(s.kernel_height, s.kernel_width, s.channels / s.groups, s.filters) &&
                    Addressable(int64_t{s.height} + s.pad_top + s.pad_bottom) &&
                    Addressable(int64_t{s.width} + s.pad_left + s.pad_right) &&
                    int64_t{s.kernel_height} * s.kernel_width <= kMostTaps &&
                    std::max(s.channels, s.filters) <= kMostChannels;
  if (!fits) return TFC_TOO_LARGE;
  *size = {static_cast<int32_t>(height), static_cast<int32_t>(width)};
  return TFC_OK;
}

int64_t WeightCount(const tfc_shape& s) {
  return int64_t{s.kernel_height} * s.kernel_width * (s.channels / s.groups) * s.filters;
}

tfc_status CheckFinite(const float* values, int64_t count) {
  if (values == nullptr && count > 0) return TFC_BAD_ARGUMENT;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) return TFC_NOT_FINITE;
  }
  return TFC_OK;
}

tfc_status CheckIndices(const tfc_shape& shape, const tfc_weights& weights) {
  if (weights.count < 0 || (weights.count > 0 && weights.indices == nullptr)) return TFC_BAD_ARGUMENT;
  const int64_t end = WeightCount(shape);
  int64_t before = -1;
  for (int64_t i = 0; i < weights.count; ++i) {
    if (weights.indices[i] <= before || weights.indices[i] >= end) return TFC_BAD_ARGUMENT;
    before = weights.indices[i];
  }
  return TFC_OK;
}

tfc_status CheckActivation(tfc_activation activation, Range* range) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  switch (activation) {
    case TFC_LINEAR: *range = {-kInfinity, kInfinity}; return TFC_OK;
    case TFC_RELU: *range = {0.0f, kInfinity}; return TFC_OK;
    case TFC_RELU6: *range = {0.0f, 6.0f}; return TFC_OK;
  }
  return TFC_BAD_ARGUMENT;
}

}  // namespace tfc
