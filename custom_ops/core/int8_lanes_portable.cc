// The int8 kernels whose lanes are parts of the map, with plain C++.
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
inline Sums DotLanes(Sums sums, const Sums& line, const Word& word) {
  int8_t bytes[kLanes * kWordBytes];
  memcpy(bytes, line.lane, sizeof(bytes));
  for (int i = 0; i < kLanes; ++i) {
    int32_t sum = 0;
    for (int k = 0; k < kWordBytes; ++k) sum += bytes[kWordBytes * i + k] * word.bytes[k];
    sums.lane[i] = static_cast<int32_t>(static_cast<uint32_t>(sums.lane[i]) + static_cast<uint32_t>(sum));
  }
  return sums;
}

// Of each quarter, from that byte on, so many of each vector in turn.
template <int size>
inline Sums Zipped(const Sums& a, const Sums& b, int from) {
  constexpr int kQuarter = 16;
  Sums zipped;
  const char* const sources[] = {reinterpret_cast<const char*>(a.lane), reinterpret_cast<const char*>(b.lane)};
  auto* to = reinterpret_cast<char*>(zipped.lane);
  for (int byte = 0; byte < kLanes * kWordBytes; ++byte) {
    const int place = byte % kQuarter, source = place / size % 2;
    to[byte] = sources[source][byte - place + from + place / (2 * size) * size + place % size];
  }
  return zipped;
}
inline Sums FirstBytes(const Sums& a, const Sums& b) { return Zipped<1>(a, b, 0); }
inline Sums SecondBytes(const Sums& a, const Sums& b) { return Zipped<1>(a, b, 8); }
inline Sums FirstTwos(const Sums& a, const Sums& b) { return Zipped<2>(a, b, 0); }
inline Sums SecondTwos(const Sums& a, const Sums& b) { return Zipped<2>(a, b, 8); }
inline Sums AsSums(const Vector& v) {
  Sums sums;
  memcpy(sums.lane, v.lane, sizeof(sums.lane));
  return sums;
}

inline Vector Prepared(const Vector& v) { return v; }

#include "int8_lanes.inl"
#include "int8_multiply.inl"
#include "tiles_of_lanes_4.inl"
#include "tiles_of_slices_6.inl"

}  // namespace

const Kernel kInt8LanesPortable = {"int8_lanes_portable", Int8Supported, kRegisters, Multiply,
                                   &kLaneKernel,          nullptr,       0};
const Kernel kInt8PairsPortable = {"int8_pairs_portable", Int8Supported, kRegisters, Multiply,
                                   &kPairKernel,          nullptr,       0};
const Kernel kInt8QuadsPortable = {"int8_quads_portable", Int8Supported, kRegisters, Multiply,
                                   &kQuadKernel,          nullptr,       0};

}  // namespace tfc
