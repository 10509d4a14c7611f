// The kernel whose lanes are filters, with AVX-512.
#include "kernel.h"

#if defined(__AVX512F__)

#include "vector_avx512.h"

namespace tfc {
namespace {

constexpr int kRegisters = 14;

#include "blocks.inl"
#include "multiply.inl"
#include "tiles_of_blocks_14.inl"

}  // namespace

const Kernel kBlocksAvx512 = {"blocks_avx512", Supported, kRegisters, Multiply, nullptr, &kBlockKernel, 0};

}  // namespace tfc

#else

namespace tfc {
const Kernel kBlocksAvx512 = {"blocks_avx512", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
