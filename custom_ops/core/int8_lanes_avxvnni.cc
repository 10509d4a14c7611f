// The int8 kernels whose lanes are parts of the map, with AVX-VNNI.
#include "kernel.h"

#if defined(__AVXVNNI__)

#include "int8_avxvnni.h"
#include "vector_avx2.h"

namespace tfc {
namespace {

using Word = __m256i;

inline Sums FillSums(int32_t value) { return {{_mm256_set1_epi32(value), _mm256_set1_epi32(value)}}; }
inline Sums AddSums(const Sums& a, const Sums& b) {
  return {{_mm256_add_epi32(a.half[0], b.half[0]), _mm256_add_epi32(a.half[1], b.half[1])}};
}
inline void StoreSums(int32_t* to, const Sums& sums) {
  for (int i = 0; i < 2; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8 * i), sums.half[i]);
}
inline Word LoadWord(const void* from) {
  int32_t bits;
  memcpy(&bits, from, sizeof(bits));
  return _mm256_set1_epi32(bits);
}
inline Sums DotLanes(Sums sums, const Sums& line, Word word) {
  for (int i = 0; i < 2; ++i) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums.half[i]) : "x"(line.half[i]), "x"(word));
  }
  return sums;
}
inline Sums FirstBytes(const Sums& a, const Sums& b) {
  return {{_mm256_unpacklo_epi8(a.half[0], b.half[0]), _mm256_unpacklo_epi8(a.half[1], b.half[1])}};
}
inline Sums SecondBytes(const Sums& a, const Sums& b) {
  return {{_mm256_unpackhi_epi8(a.half[0], b.half[0]), _mm256_unpackhi_epi8(a.half[1], b.half[1])}};
}
inline Sums FirstTwos(const Sums& a, const Sums& b) {
  return {{_mm256_unpacklo_epi16(a.half[0], b.half[0]), _mm256_unpacklo_epi16(a.half[1], b.half[1])}};
}
inline Sums SecondTwos(const Sums& a, const Sums& b) {
  return {{_mm256_unpackhi_epi16(a.half[0], b.half[0]), _mm256_unpackhi_epi16(a.half[1], b.half[1])}};
}
inline Sums AsSums(const Vector& v) { return {{_mm256_castps_si256(v.low), _mm256_castps_si256(v.high)}}; }
inline __m256 WithoutSign(__m256 half) {
  return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_castps_si256(half), _mm256_set1_epi8(-128)));
}
inline Vector Prepared(const Vector& v) { return {WithoutSign(v.low), WithoutSign(v.high)}; }

#include "int8_lanes.inl"
#include "int8_multiply.inl"
#include "tiles_of_lanes_6.inl"
#include "tiles_of_slices_6.inl"

}  // namespace

const Kernel kInt8LanesAvxVnni = {"int8_lanes_avxvnni", Int8Supported, kRegisters, Multiply,
                                  &kLaneKernel,         nullptr,       kFlip};
const Kernel kInt8PairsAvxVnni = {"int8_pairs_avxvnni", Int8Supported, kRegisters, Multiply,
                                  &kPairKernel,         nullptr,       kFlip};
const Kernel kInt8QuadsAvxVnni = {"int8_quads_avxvnni", Int8Supported, kRegisters, Multiply,
                                  &kQuadKernel,         nullptr,       kFlip};

}  // namespace tfc

#else

namespace tfc {
const Kernel kInt8LanesAvxVnni = {"int8_lanes_avxvnni", nullptr, 0, nullptr, nullptr, nullptr, 0};
const Kernel kInt8PairsAvxVnni = {"int8_pairs_avxvnni", nullptr, 0, nullptr, nullptr, nullptr, 0};
const Kernel kInt8QuadsAvxVnni = {"int8_quads_avxvnni", nullptr, 0, nullptr, nullptr, nullptr, 0};
}  // namespace tfc

#endif
