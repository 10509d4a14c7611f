// The int8 kernel whose lanes are filters, with plain C++.
#include <math.h>

#include "kernel.h"

namespace tfc {
namespace {

constexpr int kRegisters = 4;

struct Sums {
  int32_t lane[kLanes];
};
struct Weights {
  const int8_t* bytes;
};

inline Sums LoadSums(const int32_t* from) {
  Sums sums;
  for (int i = 0; i < kLanes; ++i) sums.lane[i] = from[i];
  return sums;
}
inline Weights LoadWeights(const int8_t* from) { return {from}; }

inline Sums Dot(Sums sums, const uint8_t* word, Weights weights) {
  for (int i = 0; i < kLanes; ++i) {
    int32_t sum = 0;
    for (int k = 0; k < kWordBytes; ++k) {
      sum += static_cast<int8_t>(word[k]) * weights.bytes[kWordBytes * i + k];
    }
    // Without sign: a sum may overflow, and come back.
    sums.lane[i] = static_cast<int32_t>(static_cast<uint32_t>(sums.lane[i]) + static_cast<uint32_t>(sum));
  }
  return sums;
}

inline void StoreScaled(int8_t* to, int32_t filters, const Sums& sums, const float* scales, float low, float high,
                        int32_t zero) {
  for (int32_t i = 0; i < filters; ++i) {
    float scaled = static_cast<float>(sums.lane[i]) * scales[i];
    scaled = scaled < low ? low : scaled > high ? high : scaled;
    to[i] = static_cast<int8_t>(static_cast<int32_t>(nearbyintf(scaled)) + zero);
  }
}

#include "int8_blocks.inl"

constexpr BlockTile kTiles[] = {
    {1, 4, RunBlocks<1, 4>}, {2, 2, RunBlocks<2, 2>}, {1, 3, RunBlocks<1, 3>},
    {1, 2, RunBlocks<1, 2>}, {1, 1, RunBlocks<1, 1>},
};

constexpr BlockKernel kBlockKernel = {kTiles, sizeof(kTiles) / sizeof(BlockTile), 4, 0};

bool Supported() { return true; }

}  // namespace

const Kernel kInt8BlocksPortable = {
    "int8_blocks_portable", Supported, kRegisters, Multiply, nullptr, &kBlockKernel};

}  // namespace tfc
