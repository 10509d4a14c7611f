// What follows from the shape of a convolution, and whether it is one.
#ifndef TFCOMPRESS_SHAPE_H_
#define TFCOMPRESS_SHAPE_H_

#include <cstdint>

#include "sparse_conv.h"

namespace tfc {

inline int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

struct OutputSize {
  int32_t height, width;
};

// The values an activation lets through.
struct Range {
  float low, high;
};

tfc_status CheckShape(const tfc_shape& shape, OutputSize* size);
tfc_status PadSame(tfc_shape* shape);
int64_t WeightCount(const tfc_shape& shape);  // of a valid one, pruned weights included
tfc_status CheckFinite(const float* values, int64_t count);
tfc_status CheckIndices(const tfc_shape& shape, const tfc_weights& weights);  // not its values
tfc_status CheckActivation(tfc_activation activation, Range* range);

}  // namespace tfc

#endif  // TFCOMPRESS_SHAPE_H_
