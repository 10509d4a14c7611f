// Vectors of 16 floats with AVX-512: a vector is a register. A kernel includes this in its translation unit.
#ifndef TFCOMPRESS_VECTOR_H_
#define TFCOMPRESS_VECTOR_H_

#include <immintrin.h>

#include "kernel.h"

namespace tfc {
namespace {

using Vector = __m512;
constexpr int kParts = 1;

inline Vector Load(const float* from) { return _mm512_loadu_ps(from); }
inline void Store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
inline Vector Fill(float value) { return _mm512_set1_ps(value); }
inline Vector Add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector MultiplyAdd(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
// What is not a number stays so: of two operands, one of them not a number, both instructions return the second.
inline Vector Clamp(Vector v, Vector low, Vector high) { return _mm512_min_ps(high, _mm512_max_ps(low, v)); }

struct Choice {
  __m512i lanes;
  __mmask16 mask;
};
inline Choice Choose(const int32_t lanes[16], uint32_t mask) {
  return {_mm512_loadu_si512(lanes), static_cast<__mmask16>(mask)};
}
inline Vector Merge(Vector v, Vector from, const Choice& choice) {
  return _mm512_mask_permutexvar_ps(v, choice.mask, choice.lanes, from);
}

inline void Transpose(Vector r[16]) {
  Vector t[16];
  for (int i = 0; i < 16; i += 2) {  // pairs of rows
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // fours: r[i + k] has column k of each quarter
    r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
    r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  for (int k = 0; k < 4; ++k) {  // quarters
    const Vector a = _mm512_shuffle_f32x4(r[k], r[k + 4], 0x88), b = _mm512_shuffle_f32x4(r[k], r[k + 4], 0xDD);
    const Vector c = _mm512_shuffle_f32x4(r[k + 8], r[k + 12], 0x88);
    const Vector d = _mm512_shuffle_f32x4(r[k + 8], r[k + 12], 0xDD);
    t[k] = _mm512_shuffle_f32x4(a, c, 0x88);
    t[k + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
    t[k + 8] = _mm512_shuffle_f32x4(a, c, 0xDD);
    t[k + 12] = _mm512_shuffle_f32x4(b, d, 0xDD);
  }
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

// One word of each of 16 pixels.
inline Vector Pick(const float* const* pixels, ptrdiff_t word) {
  const __m512i offset = _mm512_set1_epi64(word * kWordBytes);
  __m256 halves[2];
  for (int i = 0; i < 2; ++i) {
    const __m512i addresses = _mm512_add_epi64(_mm512_loadu_si512(pixels + 8 * i), offset);
    halves[i] = _mm512_i64gather_ps(addresses, nullptr, 1);
  }
  const __m512d low = _mm512_castpd256_pd512(_mm256_castps_pd(halves[0]));
  return _mm512_castpd_ps(_mm512_insertf64x4(low, _mm256_castps_pd(halves[1]), 1));
}

inline bool Supported() { return __builtin_cpu_supports("avx512f"); }

}  // namespace
}  // namespace tfc

#endif  // TFCOMPRESS_VECTOR_H_
