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

// Without sign: the input; with sign: the weights.
inline Sums Dot(Sums sums, const uint8_t* word, Weights weights) {
  int32_t bits;
  memcpy(&bits, word, sizeof(bits));
  // The intrinsic, in gcc, copies the sums from register to register each time.
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(_mm512_set1_epi32(bits)), "v"(weights));
  return sums;
}

inline void StoreAllScaled(int8_t* to, Sums sums, const Requantization& by) {
  __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(by.scales));
  scaled = _mm512_min_ps(_mm512_max_ps(scaled, _mm512_set1_ps(by.low)), _mm512_set1_ps(by.high));
  const __m512i rounded = _mm512_add_epi32(_mm512_cvtps_epi32(scaled), _mm512_set1_epi32(by.zero));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(rounded));
}

inline bool Int8Supported() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"); }

}  // namespace
}  // namespace tfc

#endif  // TFCOMPRESS_INT8_H_
