// The kernel whose lanes are filters, with plain C++.
#include "vector_portable.h"

namespace tfc {
namespace {

constexpr int kRegisters = 4;

#include "blocks.inl"
#include "multiply.inl"

constexpr BlockTile kTiles[] = {
    {1, 4, RunBlocks<1, 4>}, {2, 2, RunBlocks<2, 2>}, {1, 3, RunBlocks<1, 3>},
    {1, 2, RunBlocks<1, 2>}, {1, 1, RunBlocks<1, 1>},
};

constexpr BlockKernel kBlockKernel = {kTiles, sizeof(kTiles) / sizeof(BlockTile)};

}  // namespace

const Kernel kBlocksPortable = {"blocks_portable", Supported, kRegisters, Multiply, nullptr, &kBlockKernel, 0};

}  // namespace tfc
