// 16 sums in whole numbers with the dot products of ARM: four registers. A kernel includes this in its translation
// unit.
#ifndef TFCOMPRESS_INT8_H_
#define TFCOMPRESS_INT8_H_

#include <arm_neon.h>
#include <string.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "kernel.h"

namespace tfc {
namespace {

constexpr int kRegisters = 6;

struct Sums {
  int32x4_t part[4];
};
struct Weights {
  int8x16_t part[4];
};

inline Sums LoadSums(const int32_t* from) {
  return {{vld1q_s32(from), vld1q_s32(from + 4), vld1q_s32(from + 8), vld1q_s32(from + 12)}};
}
inline Weights LoadWeights(const int8_t* from) {
  return {{vld1q_s8(from), vld1q_s8(from + 16), vld1q_s8(from + 32), vld1q_s8(from + 48)}};
}

constexpr uint8_t kFlip = 0;

// Both with sign.
template <uint8_t>
inline Sums Dot(Sums sums, const uint8_t* word, Weights weights) {
  int32_t bits;
  memcpy(&bits, word, sizeof(bits));
  const int8x16_t input = vreinterpretq_s8_s32(vdupq_n_s32(bits));
  for (int i = 0; i < 4; ++i) sums.part[i] = vdotq_s32(sums.part[i], weights.part[i], input);
  return sums;
}

inline int16x4_t Scaled(int32x4_t sums, float32x4_t scales, const Requantization& by) {
  float32x4_t scaled = vmulq_f32(vcvtq_f32_s32(sums), scales);
  scaled = vminq_f32(vmaxq_f32(scaled, vdupq_n_f32(by.low)), vdupq_n_f32(by.high));
  return vqmovn_s32(vaddq_s32(vcvtnq_s32_f32(scaled), vdupq_n_s32(by.zero)));
}

#include "int8_add_sixteen.inl"

inline int8x16_t Bytes(const int16x4_t* words) {
  return vcombine_s8(vqmovn_s16(vcombine_s16(words[0], words[1])), vqmovn_s16(vcombine_s16(words[2], words[3])));
}

inline void StoreAllScaled(int8_t* to, const Sums& sums, const Requantization& by, const int8_t* residual) {
  int16x4_t words[4];
  for (int i = 0; i < 4; ++i) words[i] = Scaled(sums.part[i], vld1q_f32(by.scales + 4 * i), by);
  vst1q_s8(to, Bytes(words));
  if (residual != nullptr) AddSixteen(to, residual, by.addition);
}

#include "int8_store_four.inl"

inline Sums Narrowed(const Sums* sums, float scale, const Requantization& by) {
  Sums narrowed;
  for (int i = 0; i < 4; ++i) {
    int16x4_t words[4];
    for (int v = 0; v < 4; ++v) words[v] = Scaled(sums[v].part[i], vdupq_n_f32(scale), by);
    narrowed.part[i] = vreinterpretq_s32_s8(Bytes(words));
  }
  return narrowed;
}

inline void StoreQuarters(const Sums& v, void* const* pixels, ptrdiff_t channel) {
  for (int i = 0; i < 4; ++i) {
    vst1q_s8(static_cast<int8_t*>(pixels[4 * i]) + channel, vreinterpretq_s8_s32(v.part[i]));
  }
}

inline bool Int8Supported() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return true;  // those of Apple that there are all have them
#endif
}

}  // namespace
}  // namespace tfc

#endif  // TFCOMPRESS_INT8_H_
