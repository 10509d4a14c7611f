// 16 sums in whole numbers with AVX-VNNI: two registers. A kernel includes this in its translation unit.
#ifndef TFCOMPRESS_INT8_H_
#define TFCOMPRESS_INT8_H_

#include <cpuid.h>
#include <immintrin.h>
#include <string.h>

#include "kernel.h"

namespace tfc {
namespace {

constexpr int kRegisters = 6;

struct Sums {
  __m256i half[2];
};
using Weights = Sums;

inline __m256i LoadHalf(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
inline Sums LoadSums(const int32_t* from) { return {{LoadHalf(from), LoadHalf(from + 8)}}; }
inline Weights LoadWeights(const int8_t* from) { return {{LoadHalf(from), LoadHalf(from + 32)}}; }

constexpr uint8_t kFlip = 0x80;  // takes the sign away

// Without sign: the input; with sign: the weights.
template <uint8_t flip>
inline Sums Dot(Sums sums, const uint8_t* word, Weights weights) {
  int32_t bits;
  memcpy(&bits, word, sizeof(bits));
  __m256i input = _mm256_set1_epi32(bits);
  if constexpr (flip != 0) input = _mm256_xor_si256(input, _mm256_set1_epi8(static_cast<int8_t>(flip)));
  for (int i = 0; i < 2; ++i) {
    // The intrinsic, in gcc, copies the sums from register to register each time.
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums.half[i]) : "x"(input), "x"(weights.half[i]));
  }
  return sums;
}

inline __m256i Scaled(__m256i sums, __m256 scales, const Requantization& by) {
  __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scales);
  scaled = _mm256_min_ps(_mm256_max_ps(scaled, _mm256_set1_ps(by.low)), _mm256_set1_ps(by.high));
  return _mm256_add_epi32(_mm256_cvtps_epi32(scaled), _mm256_set1_epi32(by.zero));
}

#include "int8_add_sixteen.inl"

inline void StoreAllScaled(int8_t* to, const Sums& sums, const Requantization& by, const int8_t* residual) {
  const __m256i first = Scaled(sums.half[0], _mm256_loadu_ps(by.scales), by),
                second = Scaled(sums.half[1], _mm256_loadu_ps(by.scales + 8), by),
                words = _mm256_packs_epi32(first, second);
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
  if (residual != nullptr) AddSixteen(to, residual, by.addition);
}

#include "int8_store_four.inl"

inline Sums Narrowed(const Sums* sums, float scale, const Requantization& by) {
  const __m256 scales = _mm256_set1_ps(scale);
  Sums narrowed;
  for (int i = 0; i < 2; ++i) {
    const auto half = [&](int v) { return Scaled(sums[v].half[i], scales, by); };
    const __m256i ab = _mm256_packs_epi32(half(0), half(1)), cd = _mm256_packs_epi32(half(2), half(3));
    narrowed.half[i] = _mm256_packs_epi16(ab, cd);
  }
  return narrowed;
}

inline void StoreQuarters(const Sums& v, void* const* pixels, ptrdiff_t channel) {
  const auto to = [&](int pixel) {
    return reinterpret_cast<__m128i*>(static_cast<int8_t*>(pixels[pixel]) + channel);
  };
  _mm_storeu_si128(to(0), _mm256_castsi256_si128(v.half[0]));
  _mm_storeu_si128(to(4), _mm256_extracti128_si256(v.half[0], 1));
  _mm_storeu_si128(to(8), _mm256_castsi256_si128(v.half[1]));
  _mm_storeu_si128(to(12), _mm256_extracti128_si256(v.half[1], 1));
}

// clang's __builtin_cpu_supports does not know of it.
inline bool Int8Supported() {
  constexpr unsigned kAvxVnni = 1u << 4;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & kAvxVnni) != 0;
}

}  // namespace
}  // namespace tfc

#endif  // TFCOMPRESS_INT8_H_
