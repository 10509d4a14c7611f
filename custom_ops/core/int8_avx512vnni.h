// 16 sums in whole numbers with AVX-512 VNNI: one register. A kernel includes this in its translation unit.
#ifndef TFCOMPRESS_INT8_H_
#define TFCOMPRESS_INT8_H_

#include <immintrin.h>
#include <string.h>

#include "kernel.h"

namespace tfc {
namespace {

using Sums = __m512i;
using Weights = __m512i;

inline Sums LoadSums(const int32_t* from) { return _mm512_loadu_si512(from); }
inline Weights LoadWeights(const int8_t* from) { return _mm512_loadu_si512(from); }

constexpr uint8_t kFlip = 0x80;  // takes the sign away

// Without sign: the input; with sign: the weights.
template <uint8_t flip>
inline Sums Dot(Sums sums, const uint8_t* word, Weights weights) {
  int32_t bits;
  memcpy(&bits, word, sizeof(bits));
  __m512i input = _mm512_set1_epi32(bits);
  if constexpr (flip != 0) input = _mm512_xor_si512(input, _mm512_set1_epi8(static_cast<int8_t>(flip)));
  // The intrinsic, in gcc, copies the sums from register to register each time.
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(input), "v"(weights));
  return sums;
}

inline __m512i LoadSixteen(const int8_t* from) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

inline __m512i Added(__m512i outputs, const int8_t* residual, const Addition& by) {
  const __m512i others = _mm512_mullo_epi32(LoadSixteen(residual), _mm512_set1_epi32(by.residual_multiplier));
  outputs = _mm512_mullo_epi32(outputs, _mm512_set1_epi32(by.output_multiplier));
  const __m512i sums = _mm512_add_epi32(_mm512_add_epi32(outputs, others), _mm512_set1_epi32(by.bias));
  const __m512i scaled =
      _mm512_add_epi32(_mm512_srav_epi32(sums, _mm512_set1_epi32(by.shift)), _mm512_set1_epi32(by.zero));
  return _mm512_max_epi32(_mm512_min_epi32(scaled, _mm512_set1_epi32(by.high)), _mm512_set1_epi32(by.low));
}

inline void StoreAllScaled(int8_t* to, Sums sums, const Requantization& by, const int8_t* residual) {
  __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(by.scales));
  scaled = _mm512_min_ps(_mm512_max_ps(scaled, _mm512_set1_ps(by.low)), _mm512_set1_ps(by.high));
  __m512i rounded = _mm512_add_epi32(_mm512_cvtps_epi32(scaled), _mm512_set1_epi32(by.zero));
  if (residual != nullptr) rounded = Added(rounded, residual, by.addition);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(rounded));
}

// Clamped only where 32 bits may not hold them; bytes are clamped later.
inline __m512i Scaled(__m512i sums, __m512 scales, const Requantization& by) {
  __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scales);
  if (by.large) scaled = _mm512_min_ps(scaled, _mm512_set1_ps(by.high));
  return _mm512_cvtps_epi32(scaled);
}

// Four vectors that are scaled as bytes: in each quarter those of its lanes in the first vector, then in the
// second, ...
inline __m512i Bytes(__m512i a, __m512i b, __m512i c, __m512i d, const Requantization& by) {
  const auto bound = [&](float value) {
    return _mm512_set1_epi8(static_cast<int8_t>(value + static_cast<float>(by.zero)));
  };
  const __m512i zero = _mm512_set1_epi16(static_cast<int16_t>(by.zero));
  const __m512i ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero),
                cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero);
  return _mm512_max_epi8(_mm512_min_epi8(_mm512_packs_epi16(ab, cd), bound(by.high)), bound(by.low));
}

inline __m512i Narrowed(const Sums* sums, __m512 scales, const Requantization& by) {
  const auto scaled = [&](int i) { return Scaled(sums[i], scales, by); };
  return Bytes(scaled(0), scaled(1), scaled(2), scaled(3), by);
}

inline Sums Narrowed(const Sums* sums, float scale, const Requantization& by) {
  return Narrowed(sums, _mm512_set1_ps(scale), by);
}

inline void StoreFour(int8_t* const* to, __m512i v) {
  const auto at = [&](int i) { return reinterpret_cast<__m128i*>(to[i]); };
  _mm_storeu_si128(at(0), _mm512_castsi512_si128(v));
  _mm_storeu_si128(at(1), _mm512_extracti32x4_epi32(v, 1));
  _mm_storeu_si128(at(2), _mm512_extracti32x4_epi32(v, 2));
  _mm_storeu_si128(at(3), _mm512_extracti32x4_epi32(v, 3));
}

inline void StoreFourScaled(int8_t* const* to, const Sums* sums, const Requantization& by) {
  const __m512i fours = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  StoreFour(to, _mm512_permutexvar_epi32(fours, Narrowed(sums, _mm512_loadu_ps(by.scales), by)));
}

inline void StoreQuarters(Sums v, void* const* pixels, ptrdiff_t channel) {
  int8_t* to[4];
  for (int i = 0; i < 4; ++i) to[i] = static_cast<int8_t*>(pixels[4 * i]) + channel;
  StoreFour(to, v);
}

inline void AddSixteen(int8_t* to, const int8_t* residual, const Addition& by) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(Added(LoadSixteen(to), residual, by)));
}

inline bool Int8Supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace
}  // namespace tfc

#endif  // TFCOMPRESS_INT8_H_
