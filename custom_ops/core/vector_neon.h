// Vectors of 16 floats with NEON: a vector is four registers. A kernel includes this in its translation unit.
#ifndef TFCOMPRESS_VECTOR_H_
#define TFCOMPRESS_VECTOR_H_

#include <arm_neon.h>

#include "kernel.h"

namespace tfc {
namespace {

struct Vector {
  float32x4_t part[4];
};
constexpr int kParts = 4;

inline Vector Load(const float* from) {
  return {{vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)}};
}
inline void Store(float* to, Vector v) {
  for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, v.part[i]);
}
inline Vector Fill(float value) {
  const float32x4_t filled = vdupq_n_f32(value);
  return {{filled, filled, filled, filled}};
}
inline Vector Add(Vector a, Vector b) {
  for (int i = 0; i < 4; ++i) a.part[i] = vaddq_f32(a.part[i], b.part[i]);
  return a;
}
inline Vector MultiplyAdd(Vector a, Vector b, Vector c) {
  for (int i = 0; i < 4; ++i) c.part[i] = vfmaq_f32(c.part[i], a.part[i], b.part[i]);
  return c;
}
inline Vector Clamp(Vector v, Vector low, Vector high) {
  for (int i = 0; i < 4; ++i) v.part[i] = vminq_f32(vmaxq_f32(v.part[i], low.part[i]), high.part[i]);
  return v;
}

// Indices of bytes; 255 for those that stay.
struct Choice {
  uint8x16_t bytes[4];
};
inline Choice Choose(const int32_t lanes[16], uint32_t mask) {
  Choice choice;
  for (int i = 0; i < 4; ++i) {
    const uint32_t bits[] = {1u << (4 * i), 2u << (4 * i), 4u << (4 * i), 8u << (4 * i)};
    const uint32x4_t chosen = vtstq_u32(vdupq_n_u32(mask), vld1q_u32(bits));
    const uint32x4_t index = vmulq_n_u32(vreinterpretq_u32_s32(vld1q_s32(lanes + 4 * i)), 0x04040404u);
    choice.bytes[i] = vreinterpretq_u8_u32(vornq_u32(vaddq_u32(index, vdupq_n_u32(0x03020100u)), chosen));
  }
  return choice;
}
// A table lookup by bytes, which leaves alone what its indices do not find.
inline Vector Merge(Vector v, Vector from, const Choice& choice) {
  const uint8x16x4_t table = {{vreinterpretq_u8_f32(from.part[0]), vreinterpretq_u8_f32(from.part[1]),
                               vreinterpretq_u8_f32(from.part[2]), vreinterpretq_u8_f32(from.part[3])}};
  for (int i = 0; i < 4; ++i) {
    v.part[i] = vreinterpretq_f32_u8(vqtbx4q_u8(vreinterpretq_u8_f32(v.part[i]), table, choice.bytes[i]));
  }
  return v;
}

inline void Transpose(Vector r[16]) {
  Vector t[16];
  for (int rows = 0; rows < 4; ++rows) {
    for (int columns = 0; columns < 4; ++columns) {
      const float32x4x2_t a = vtrnq_f32(r[4 * rows].part[columns], r[4 * rows + 1].part[columns]);
      const float32x4x2_t b = vtrnq_f32(r[4 * rows + 2].part[columns], r[4 * rows + 3].part[columns]);
      Vector* to = t + 4 * columns;
      to[0].part[rows] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
      to[1].part[rows] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
      to[2].part[rows] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
      to[3].part[rows] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
    }
  }
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

#include "pick.inl"

inline bool Supported() { return true; }

}  // namespace
}  // namespace tfc

#endif  // TFCOMPRESS_VECTOR_H_
