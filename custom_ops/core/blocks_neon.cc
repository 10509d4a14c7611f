// The kernel whose lanes are filters, with NEON.
#include "kernel.h"

#if defined(__aarch64__)

#include "vector_neon.h"

namespace tfc {
namespace {

constexpr int kRegisters = 6;

#include "blocks.inl"
#include "multiply.inl"
#include "tiles_of_blocks_6.inl"

}  // namespace

const Kernel kBlocksNeon = {"blocks_neon", Supported, kRegisters, Multiply, nullptr, &kBlockKernel, 0};

}  // namespace tfc

#else

namespace tfc {
const Kernel kBlocksNeon = {"blocks_neon", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
