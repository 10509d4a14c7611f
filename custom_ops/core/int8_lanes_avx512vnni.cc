// The int8 kernels whose lanes are parts of the map, with AVX-512 VNNI.
#include "kernel.h"

#if defined(__AVX512VNNI__)

#include "int8_avx512vnni.h"
#include "vector_avx512.h"

namespace tfc {
namespace {

constexpr int kRegisters = 14;

using Word = __m512i;

inline Sums FillSums(int32_t value) { return _mm512_set1_epi32(value); }
inline Sums AddSums(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
inline void StoreSums(int32_t* to, Sums sums) { _mm512_storeu_si512(to, sums); }
inline Word LoadWord(const void* from) {
  int32_t bits;
  memcpy(&bits, from, sizeof(bits));
  return _mm512_set1_epi32(bits);
}
inline Sums DotLanes(Sums sums, Sums line, Word word) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(line), "v"(word));
  return sums;
}
inline Sums FirstBytes(Sums a, Sums b) { return _mm512_unpacklo_epi8(a, b); }
inline Sums SecondBytes(Sums a, Sums b) { return _mm512_unpackhi_epi8(a, b); }
inline Sums FirstTwos(Sums a, Sums b) { return _mm512_unpacklo_epi16(a, b); }
inline Sums SecondTwos(Sums a, Sums b) { return _mm512_unpackhi_epi16(a, b); }
inline Sums AsSums(Vector v) { return _mm512_castps_si512(v); }
inline Vector Prepared(Vector v) {  // without sign
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), _mm512_set1_epi8(-128)));
}

#include "int8_lanes.inl"
#include "int8_multiply.inl"
#include "tiles_of_lanes_14.inl"
#include "tiles_of_slices_14.inl"

}  // namespace

const Kernel kInt8LanesAvx512Vnni = {
    "int8_lanes_avx512vnni", Int8Supported, kRegisters, Multiply, &kLaneKernel, nullptr, kFlip};
const Kernel kInt8PairsAvx512Vnni = {
    "int8_pairs_avx512vnni", Int8Supported, kRegisters, Multiply, &kPairKernel, nullptr, kFlip};
const Kernel kInt8QuadsAvx512Vnni = {
    "int8_quads_avx512vnni", Int8Supported, kRegisters, Multiply, &kQuadKernel, nullptr, kFlip};

}  // namespace tfc

#else

namespace tfc {
const Kernel kInt8LanesAvx512Vnni = {"int8_lanes_avx512vnni", nullptr, 0, nullptr, nullptr, nullptr, 0};
const Kernel kInt8PairsAvx512Vnni = {"int8_pairs_avx512vnni", nullptr, 0, nullptr, nullptr, nullptr, 0};
const Kernel kInt8QuadsAvx512Vnni = {"int8_quads_avx512vnni", nullptr, 0, nullptr, nullptr, nullptr, 0};
}  // namespace tfc

#endif
