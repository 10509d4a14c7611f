// Vectors of 16 floats with plain C++. A kernel includes this in its translation unit.
#ifndef TFCOMPRESS_VECTOR_H_
#define TFCOMPRESS_VECTOR_H_

#include "kernel.h"

namespace tfc {
namespace {

struct Vector {
  float lane[kLanes];
};
constexpr int kParts = 4;  // with the registers of most

inline Vector Load(const float* from) {
  Vector v;
  for (int i = 0; i < kLanes; ++i) v.lane[i] = from[i];
  return v;
}
inline void Store(float* to, const Vector& v) {
  for (int i = 0; i < kLanes; ++i) to[i] = v.lane[i];
}
inline Vector Fill(float value) {
  Vector v;
  for (float& lane : v.lane) lane = value;
  return v;
}
inline Vector Add(Vector a, const Vector& b) {
  for (int i = 0; i < kLanes; ++i) a.lane[i] += b.lane[i];
  return a;
}
inline Vector MultiplyAdd(const Vector& a, const Vector& b, Vector c) {
  for (int i = 0; i < kLanes; ++i) c.lane[i] += a.lane[i] * b.lane[i];
  return c;
}
inline Vector Clamp(Vector v, const Vector& low, const Vector& high) {
  for (int i = 0; i < kLanes; ++i) {
    v.lane[i] = v.lane[i] < low.lane[i] ? low.lane[i] : v.lane[i] > high.lane[i] ? high.lane[i] : v.lane[i];
  }
  return v;
}
struct Choice {
  const int32_t* lanes;
  uint32_t mask;
};
inline Choice Choose(const int32_t lanes[16], uint32_t mask) { return {lanes, mask}; }
inline Vector Merge(Vector v, const Vector& from, const Choice& choice) {
  for (int i = 0; i < kLanes; ++i) {
    if (choice.mask >> i & 1) v.lane[i] = from.lane[choice.lanes[i]];
  }
  return v;
}
inline void Transpose(Vector r[16]) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float swapped = r[i].lane[j];
      r[i].lane[j] = r[j].lane[i];
      r[j].lane[i] = swapped;
    }
  }
}

#include "pick.inl"

inline bool Supported() { return true; }

}  // namespace
}  // namespace tfc

#endif  // TFCOMPRESS_VECTOR_H_
