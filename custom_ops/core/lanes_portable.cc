// The lanes kernel in plain C++, for processors that no other file knows.
#include "vector_portable.h"

namespace tfc {
namespace {

constexpr int kRegisters = 4;

#include "lanes.inl"
#include "multiply.inl"

constexpr Tile kTiles[] = {{2, 2, RunTile<2, 2>},
                           {1, 1, RunTile<1, 1>},
                           {1, 2, RunTile<1, 2>},
                           {1, 3, RunTile<1, 3>},
                           {1, 4, RunTile<1, 4>}};

constexpr LaneKernel kLaneKernel = {kTiles, sizeof(kTiles) / sizeof(Tile), Pack, Gather, Unpack};

}  // namespace

const Kernel kLanesPortable = {"lanes_portable", Supported, kRegisters, Multiply, &kLaneKernel, nullptr, 0};

}  // namespace tfc
