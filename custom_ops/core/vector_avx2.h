// Vectors of 16 floats with AVX2 and FMA: a vector is two registers. A kernel includes this in its translation
// unit.
#ifndef TFCOMPRESS_VECTOR_H_
#define TFCOMPRESS_VECTOR_H_

#include <immintrin.h>

#include "kernel.h"

namespace tfc {
namespace {

struct Vector {
  __m256 low, high;
};
constexpr int kParts = 2;

inline Vector Load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline void Store(float* to, Vector v) {
  _mm256_storeu_ps(to, v.low);
  _mm256_storeu_ps(to + 8, v.high);
}
inline Vector Fill(float value) {
  const __m256 filled = _mm256_set1_ps(value);
  return {filled, filled};
}
inline Vector Add(Vector a, Vector b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Vector MultiplyAdd(Vector a, Vector b, Vector c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
// What is not a number stays so: of two operands, one of them not a number, both instructions return the second.
inline Vector Clamp(Vector v, Vector low, Vector high) {
  return {_mm256_min_ps(high.low, _mm256_max_ps(low.low, v.low)),
          _mm256_min_ps(high.high, _mm256_max_ps(low.high, v.high))};
}

// Eight lanes, whose sources may lie in either half.
struct HalfChoice {
  __m256i lanes;
  __m256 in_high, chosen;  // by sign
};
inline HalfChoice ChooseHalf(const int32_t lanes[8], uint32_t mask) {
  const __m256i index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes));
  const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i chosen =
      _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bits), bits);
  return {index, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)),  // bit 3 to the sign
          _mm256_castsi256_ps(chosen)};
}
inline __m256 MergeHalf(__m256 v, Vector from, const HalfChoice& choice) {
  const __m256 taken = _mm256_blendv_ps(_mm256_permutevar8x32_ps(from.low, choice.lanes),
                                        _mm256_permutevar8x32_ps(from.high, choice.lanes), choice.in_high);
  return _mm256_blendv_ps(v, taken, choice.chosen);
}

struct Choice {
  HalfChoice low, high;
};
inline Choice Choose(const int32_t lanes[16], uint32_t mask) {
  return {ChooseHalf(lanes, mask), ChooseHalf(lanes + 8, mask >> 8)};
}
inline Vector Merge(Vector v, Vector from, const Choice& choice) {
  return {MergeHalf(v.low, from, choice.low), MergeHalf(v.high, from, choice.high)};
}

inline void Transpose8(__m256 r[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  for (int k = 0; k < 4; ++k) {
    t[k] = _mm256_permute2f128_ps(r[k], r[k + 4], 0x20);
    t[k + 4] = _mm256_permute2f128_ps(r[k], r[k + 4], 0x31);
  }
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

inline void Transpose(Vector r[16]) {
  __m256 quarters[2][2][8];  // [rows][columns]
  for (int i = 0; i < 16; ++i) {
    quarters[i / 8][0][i % 8] = r[i].low;
    quarters[i / 8][1][i % 8] = r[i].high;
  }
  for (int half = 0; half < 4; ++half) Transpose8(quarters[half / 2][half % 2]);
  for (int i = 0; i < 16; ++i) r[i] = {quarters[0][i / 8][i % 8], quarters[1][i / 8][i % 8]};
}

#include "pick.inl"

inline bool Supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace
}  // namespace tfc

#endif  // TFCOMPRESS_VECTOR_H_
