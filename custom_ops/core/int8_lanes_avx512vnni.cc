// The int8 kernel whose lanes are parts of the map, with AVX-512 VNNI.
#include "kernel.h"

#if defined(__AVX512VNNI__)

#include "vector_avx512.h"

#include "int8_avx512vnni.h"

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
inline Sums DotLanes(Sums sums, const void* line, Word word) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(_mm512_loadu_si512(line)), "v"(word));
  return sums;
}
inline Sums AsSums(Vector v) { return _mm512_castps_si512(v); }
inline Vector Prepared(Vector v) {  // without sign
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), _mm512_set1_epi8(-128)));
}

#include "int8_lanes.inl"
#include "int8_multiply.inl"

constexpr Tile kTiles[] = {
    {7, 2, RunTile<7, 2>},   {2, 7, RunTile<2, 7>},   {4, 3, RunTile<4, 3>},   {3, 4, RunTile<3, 4>},
    {2, 2, RunTile<2, 2>},   {2, 4, RunTile<2, 4>},   {4, 2, RunTile<4, 2>},   {1, 1, RunTile<1, 1>},
    {1, 2, RunTile<1, 2>},   {1, 3, RunTile<1, 3>},   {1, 4, RunTile<1, 4>},   {1, 5, RunTile<1, 5>},
    {1, 6, RunTile<1, 6>},   {1, 7, RunTile<1, 7>},   {1, 8, RunTile<1, 8>},   {1, 10, RunTile<1, 10>},
    {1, 12, RunTile<1, 12>}, {1, 13, RunTile<1, 13>}, {1, 14, RunTile<1, 14>}, {7, 1, RunTile<7, 1>},
    {3, 3, RunTile<3, 3>},   {4, 1, RunTile<4, 1>},
};

constexpr LaneKernel kLaneKernel = {kTiles, sizeof(kTiles) / sizeof(Tile), Pack, Gather, Unpack};

}  // namespace

const Kernel kInt8LanesAvx512Vnni = {
    "int8_lanes_avx512vnni", Int8Supported, kRegisters, Multiply, &kLaneKernel, nullptr, 0x80};

}  // namespace tfc

#else

namespace tfc {
const Kernel kInt8LanesAvx512Vnni = {"int8_lanes_avx512vnni", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
