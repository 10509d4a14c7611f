// 16 sums in whole numbers with plain C++. A kernel includes this in its translation unit.
#ifndef TFCOMPRESS_INT8_H_
#define TFCOMPRESS_INT8_H_

#include <math.h>
#include <string.h>

#include "kernel.h"

namespace tfc {
namespace {

struct Sums {
  int32_t lane[kLanes];
};
struct Weights {
  const int8_t* bytes;
};

inline Sums LoadSums(const int32_t* from) {
  Sums sums;
  memcpy(sums.lane, from, sizeof(sums.lane));
  return sums;
}
inline Weights LoadWeights(const int8_t* from) { return {from}; }

inline Sums Dot(Sums sums, const uint8_t* word, Weights weights) {
  for (int i = 0; i < kLanes; ++i) {
    int32_t sum = 0;
    for (int k = 0; k < kWordBytes; ++k) {
      sum += static_cast<int8_t>(word[k]) * weights.bytes[kWordBytes * i + k];
    }
    // Without sign: a sum may overflow, and come back.
    sums.lane[i] = static_cast<int32_t>(static_cast<uint32_t>(sums.lane[i]) + static_cast<uint32_t>(sum));
  }
  return sums;
}

inline int8_t Scaled(int32_t sum, float scale, const Requantization& by) {
  float scaled = static_cast<float>(sum) * scale;
  scaled = scaled < by.low ? by.low : scaled > by.high ? by.high : scaled;
  return static_cast<int8_t>(static_cast<int32_t>(nearbyintf(scaled)) + by.zero);
}

#include "int8_add_sixteen.inl"

inline void StoreAllScaled(int8_t* to, const Sums& sums, const Requantization& by, const int8_t* residual) {
  for (int i = 0; i < kLanes; ++i) to[i] = Scaled(sums.lane[i], by.scales[i], by);
  if (residual != nullptr) AddSixteen(to, residual, by.addition);
}

inline bool Int8Supported() { return true; }

}  // namespace
}  // namespace tfc

#endif  // TFCOMPRESS_INT8_H_
