// The int8 kernel whose lanes are filters, with AVX-512 VNNI.
#include "kernel.h"

#if defined(__AVX512VNNI__)

#include <immintrin.h>
#include <string.h>

namespace tfc {
namespace {

constexpr int kRegisters = 14;

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

inline void StoreScaled(int8_t* to, int32_t filters, Sums sums, const float* scales, float low, float high,
                        int32_t zero) {
  __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(scales));
  scaled = _mm512_min_ps(_mm512_max_ps(scaled, _mm512_set1_ps(low)), _mm512_set1_ps(high));
  const __m512i rounded = _mm512_add_epi32(_mm512_cvtps_epi32(scaled), _mm512_set1_epi32(zero));
  const auto mask = static_cast<__mmask16>((1u << filters) - 1);
  _mm512_mask_cvtepi32_storeu_epi8(to, mask, rounded);
}

#include "int8_blocks.inl"

constexpr BlockTile kTiles[] = {
    {1, 14, RunBlocks<1, 14>}, {2, 7, RunBlocks<2, 7>}, {7, 2, RunBlocks<7, 2>},   {1, 13, RunBlocks<1, 13>},
    {1, 12, RunBlocks<1, 12>}, {3, 4, RunBlocks<3, 4>}, {1, 10, RunBlocks<1, 10>}, {2, 5, RunBlocks<2, 5>},
    {1, 9, RunBlocks<1, 9>},   {1, 8, RunBlocks<1, 8>}, {2, 4, RunBlocks<2, 4>},   {1, 7, RunBlocks<1, 7>},
    {1, 6, RunBlocks<1, 6>},   {2, 3, RunBlocks<2, 3>}, {1, 5, RunBlocks<1, 5>},   {1, 4, RunBlocks<1, 4>},
    {2, 2, RunBlocks<2, 2>},   {1, 3, RunBlocks<1, 3>}, {1, 2, RunBlocks<1, 2>},   {1, 1, RunBlocks<1, 1>},
};

constexpr BlockKernel kBlockKernel = {kTiles, sizeof(kTiles) / sizeof(BlockTile), 4, 0x80};

bool Supported() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"); }

}  // namespace

const Kernel kInt8BlocksAvx512Vnni = {"int8_blocks_avx512vnni", Supported, kRegisters, Multiply, nullptr, &kBlockKernel};

}  // namespace tfc

#else

namespace tfc {
const Kernel kInt8BlocksAvx512Vnni = {"int8_blocks_avx512vnni", nullptr, 0, nullptr, nullptr, nullptr};
}

#endif
