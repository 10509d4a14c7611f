// The lanes kernel with NEON: a vector is four registers, and 24 of 32 hold sums.
#include "kernel.h"

#if defined(__aarch64__)

#include "vector_neon.h"

namespace tfc {
namespace {

constexpr int kRegisters = 6;

#include "lanes.inl"
#include "multiply.inl"

constexpr Tile kTiles[] = {
    {3, 2, RunTile<3, 2>}, {2, 3, RunTile<2, 3>}, {2, 2, RunTile<2, 2>}, {1, 1, RunTile<1, 1>},
    {1, 2, RunTile<1, 2>}, {1, 3, RunTile<1, 3>}, {1, 4, RunTile<1, 4>}, {1, 5, RunTile<1, 5>},
    {1, 6, RunTile<1, 6>}, {4, 1, RunTile<4, 1>},
};

constexpr LaneKernel kLaneKernel = {kTiles, sizeof(kTiles) / sizeof(Tile), Pack, Gather, Unpack};

}  // namespace

const Kernel kLanesNeon = {"lanes_neon", Supported, kRegisters, Multiply, &kLaneKernel, nullptr, 0};

}  // namespace tfc

#else

namespace tfc {
const Kernel kLanesNeon = {"lanes_neon", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
