// The int8 kernel whose lanes are filters, with plain C++.
#include "int8_portable.h"

namespace tfc {
namespace {

constexpr int kRegisters = 4;

#include "int8_blocks.inl"
#include "int8_multiply.inl"

constexpr BlockTile kTiles[] = {
    {1, 4, RunBlocks<1, 4>}, {2, 2, RunBlocks<2, 2>}, {1, 3, RunBlocks<1, 3>},
    {1, 2, RunBlocks<1, 2>}, {1, 1, RunBlocks<1, 1>},
};

constexpr BlockKernel kBlockKernel = {kTiles, sizeof(kTiles) / sizeof(BlockTile)};

}  // namespace

const Kernel kInt8BlocksPortable = {
    "int8_blocks_portable", Int8Supported, kRegisters, Multiply, nullptr, &kBlockKernel, 0};

}  // namespace tfc
