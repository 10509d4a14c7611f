// The kernel whose lanes are filters, with AVX2 and FMA.
#include "kernel.h"

#if defined(__AVX2__) && defined(__FMA__)

#include "vector_avx2.h"

namespace tfc {
namespace {

constexpr int kRegisters = 6;

#include "blocks.inl"
#include "multiply.inl"

constexpr BlockTile kTiles[] = {
    {1, 6, RunBlocks<1, 6>}, {2, 3, RunBlocks<2, 3>}, {3, 2, RunBlocks<3, 2>},
    {1, 5, RunBlocks<1, 5>}, {1, 4, RunBlocks<1, 4>}, {2, 2, RunBlocks<2, 2>},
    {1, 3, RunBlocks<1, 3>}, {1, 2, RunBlocks<1, 2>}, {1, 1, RunBlocks<1, 1>},
};

constexpr BlockKernel kBlockKernel = {kTiles, sizeof(kTiles) / sizeof(BlockTile)};

}  // namespace

const Kernel kBlocksAvx2 = {"blocks_avx2", Supported, kRegisters, Multiply, nullptr, &kBlockKernel, 0};

}  // namespace tfc

#else

namespace tfc {
const Kernel kBlocksAvx2 = {"blocks_avx2", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
