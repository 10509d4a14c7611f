// A plan: what is known of a convolution before any map comes.
#ifndef TFCOMPRESS_PLAN_H_
#define TFCOMPRESS_PLAN_H_

#include <memory>
#include <vector>

#include "blocks.h"
#include "outline.h"
#include "scratch.h"
#include "shape.h"
#include "sparse_conv.h"
#include "stream.h"

namespace tfc {

// All of a plan but its numbers.
struct Structure {
  Outline outline;
  Range range;
  Stream stream;                // where lanes are parts of the map
  BlockStream blocks;           // where they are filters
  int64_t weights;              // as many as were given
  std::vector<int32_t> source;  // by value of a plan: which of them it is, or -1 for a zero
  Type type;
};

}  // namespace tfc

namespace tfc {

// What an int8 plan computes with.
struct Int8Numbers {
  std::vector<int8_t, LineAllocator<int8_t>> values;  // in the order of the stream
  std::vector<int32_t> bias;  // up to a whole vector, as are scales; what the input's zero adds is in it
  std::vector<float> scales;
  tfc_requantization requantization;  // but its scales
  bool adds;                          // a residual
  Addition addition;
  bool large;  // as `Requantization` tells

  // For the filters from that one on.
  Requantization From(int32_t filter) const {
    const tfc_requantization& r = requantization;
    return {scales.data() + filter,
            static_cast<float>(r.low - r.output_zero),
            static_cast<float>(r.high - r.output_zero),
            r.output_zero,
            addition,
            large};
  }
};

}  // namespace tfc

struct tfc_plan {
  tfc_plan() { tfc::AddScratchUser(); }
  ~tfc_plan() { tfc::RemoveScratchUser(); }
  tfc_plan(const tfc_plan&) = delete;
  tfc_plan& operator=(const tfc_plan&) = delete;

  std::shared_ptr<const tfc::Structure> structure;
  // In float32:
  std::vector<float, tfc::LineAllocator<float>> values;  // in the order of the stream
  std::vector<float> bias;                               // up to a whole vector
  // Or in int8:
  tfc::Int8Numbers int8;
};

#endif  // TFCOMPRESS_PLAN_H_
