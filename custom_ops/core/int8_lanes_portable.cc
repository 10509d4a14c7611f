// The int8 kernel whose lanes are parts of the map, with plain C++.
#include <string.h>

#include "int8_portable.h"
#include "vector_portable.h"

namespace tfc {
namespace {

constexpr int kRegisters = 4;

struct Word {
  int8_t bytes[kWordBytes];
};

inline Sums FillSums(int32_t value) {
  Sums sums;
  for (int32_t& lane : sums.lane) lane = value;
  return sums;
}
inline Sums AddSums(Sums a, const Sums& b) {
  for (int i = 0; i < kLanes; ++i) {
    a.lane[i] = static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) + static_cast<uint32_t>(b.lane[i]));
  }
  return a;
}
inline void StoreSums(int32_t* to, const Sums& sums) { memcpy(to, sums.lane, sizeof(sums.lane)); }
inline Word LoadWord(const void* from) {
  Word word;
  memcpy(word.bytes, from, sizeof(word.bytes));
  return word;
}
inline Sums DotLanes(Sums sums, const void* line, const Word& word) {
  const auto* bytes = static_cast<const int8_t*>(line);
  for (int i = 0; i < kLanes; ++i) {
    int32_t sum = 0;
    for (int k = 0; k < kWordBytes; ++k) sum += bytes[kWordBytes * i + k] * word.bytes[k];
    sums.lane[i] = static_cast<int32_t>(static_cast<uint32_t>(sums.lane[i]) + static_cast<uint32_t>(sum));
  }
  return sums;
}
void ScaleSquare(const float* from, ptrdiff_t plane_words, const Requantization& by, void* const* pixels,
                 ptrdiff_t channel) {
  for (int c = 0; c < kLanes; ++c, from += plane_words) {
    int32_t sums[kLanes];
    memcpy(sums, from, sizeof(sums));
    for (int lane = 0; lane < kLanes; ++lane) {
      static_cast<int8_t*>(pixels[lane])[channel + c] = Scaled(sums[lane], by.scales[c], by);
    }
  }
}
inline Vector Prepared(const Vector& v) { return v; }

#include "int8_lanes.inl"
#include "int8_multiply.inl"
#include "tiles_of_lanes_4.inl"

}  // namespace

const Kernel kInt8LanesPortable = {"int8_lanes_portable", Int8Supported, kRegisters, Multiply,
                                   &kLaneKernel,          nullptr,       0};

}  // namespace tfc
