// The int8 kernels whose lanes are parts of the map, with the dot products of ARM.
#include "kernel.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)

#include "int8_dotprod.h"
#include "vector_neon.h"

namespace tfc {
namespace {

using Word = int8x16_t;

inline Sums FillSums(int32_t value) {
  const int32x4_t part = vdupq_n_s32(value);
  return {{part, part, part, part}};
}
inline Sums AddSums(Sums a, const Sums& b) {
  for (int i = 0; i < 4; ++i) a.part[i] = vaddq_s32(a.part[i], b.part[i]);
  return a;
}
inline void StoreSums(int32_t* to, const Sums& sums) {
  for (int i = 0; i < 4; ++i) vst1q_s32(to + 4 * i, sums.part[i]);
}
inline Word LoadWord(const void* from) {
  int32_t bits;
  memcpy(&bits, from, sizeof(bits));
  return vreinterpretq_s8_s32(vdupq_n_s32(bits));
}
inline Sums DotLanes(Sums sums, const Sums& line, Word word) {
  for (int i = 0; i < 4; ++i) sums.part[i] = vdotq_s32(sums.part[i], vreinterpretq_s8_s32(line.part[i]), word);
  return sums;
}

template <typename Zip>
inline Sums EachPart(const Sums& a, const Sums& b, const Zip& zip) {
  Sums zipped;
  for (int i = 0; i < 4; ++i) zipped.part[i] = zip(a.part[i], b.part[i]);
  return zipped;
}
inline Sums FirstBytes(const Sums& a, const Sums& b) {
  return EachPart(a, b, [](int32x4_t x, int32x4_t y) {
    return vreinterpretq_s32_s8(vzip1q_s8(vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y)));
  });
}
inline Sums SecondBytes(const Sums& a, const Sums& b) {
  return EachPart(a, b, [](int32x4_t x, int32x4_t y) {
    return vreinterpretq_s32_s8(vzip2q_s8(vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y)));
  });
}
inline Sums FirstTwos(const Sums& a, const Sums& b) {
  return EachPart(a, b, [](int32x4_t x, int32x4_t y) {
    return vreinterpretq_s32_s16(vzip1q_s16(vreinterpretq_s16_s32(x), vreinterpretq_s16_s32(y)));
  });
}
inline Sums SecondTwos(const Sums& a, const Sums& b) {
  return EachPart(a, b, [](int32x4_t x, int32x4_t y) {
    return vreinterpretq_s32_s16(vzip2q_s16(vreinterpretq_s16_s32(x), vreinterpretq_s16_s32(y)));
  });
}
inline Sums AsSums(const Vector& v) {
  Sums sums;
  for (int i = 0; i < 4; ++i) sums.part[i] = vreinterpretq_s32_f32(v.part[i]);
  return sums;
}
inline Vector Prepared(const Vector& v) { return v; }

#include "int8_lanes.inl"
#include "int8_multiply.inl"
#include "tiles_of_lanes_6.inl"
#include "tiles_of_slices_6.inl"

}  // namespace

const Kernel kInt8LanesDotprod = {"int8_lanes_dotprod", Int8Supported, kRegisters, Multiply,
                                  &kLaneKernel,         nullptr,       0};
const Kernel kInt8PairsDotprod = {"int8_pairs_dotprod", Int8Supported, kRegisters, Multiply,
                                  &kPairKernel,         nullptr,       0};
const Kernel kInt8QuadsDotprod = {"int8_quads_dotprod", Int8Supported, kRegisters, Multiply,
                                  &kQuadKernel,         nullptr,       0};

}  // namespace tfc

#else

namespace tfc {
const Kernel kInt8LanesDotprod = {"int8_lanes_dotprod", nullptr, 0, nullptr, nullptr, nullptr, 0};
const Kernel kInt8PairsDotprod = {"int8_pairs_dotprod", nullptr, 0, nullptr, nullptr, nullptr, 0};
const Kernel kInt8QuadsDotprod = {"int8_quads_dotprod", nullptr, 0, nullptr, nullptr, nullptr, 0};
}  // namespace tfc

#endif
