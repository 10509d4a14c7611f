// The kernel whose lanes are filters, with AVX2 and FMA.
#include "kernel.h"

#if defined(__AVX2__) && defined(__FMA__)

#include "vector_avx2.h"

namespace tfc {
namespace {

constexpr int kRegisters = 6;

#include "blocks.inl"
#include "multiply.inl"
#include "tiles_of_blocks_6.inl"

}  // namespace

const Kernel kBlocksAvx2 = {"blocks_avx2", Supported, kRegisters, Multiply, nullptr, &kBlockKernel, 0};

}  // namespace tfc

#else

namespace tfc {
const Kernel kBlocksAvx2 = {"blocks_avx2", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
