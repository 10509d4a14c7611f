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

constexpr uint8_t kFlip = 0;

template <uint8_t>
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

#include "int8_store_four.inl"

inline Sums Narrowed(const Sums* sums, float scale, const Requantization& by) {
  constexpr int kFours = 4;
  int8_t bytes[kLanes * kWordBytes];
  for (int byte = 0; byte < kLanes * kWordBytes; ++byte) {
    const int quarter = byte / kLanes, vector = byte / kFours % kFours;
    bytes[byte] = Scaled(sums[vector].lane[quarter * kFours + byte % kFours], scale, by);
  }
  Sums narrowed;
  memcpy(narrowed.lane, bytes, sizeof(bytes));
  return narrowed;
}

inline void StoreQuarters(const Sums& v, void* const* pixels, ptrdiff_t channel) {
  for (int q = 0; q < 4; ++q) memcpy(static_cast<int8_t*>(pixels[4 * q]) + channel, v.lane + 4 * q, kLanes);
}

inline bool Int8Supported() { return true; }

}  // namespace
}  // namespace tfc

#endif  // TFCOMPRESS_INT8_H_
