// The kernel whose lanes are filters, with plain C++.
#include "vector_portable.h"

namespace tfc {
namespace {

constexpr int kRegisters = 4;

#include "blocks.inl"
#include "multiply.inl"
#include "tiles_of_blocks_4.inl"

}  // namespace

const Kernel kBlocksPortable = {"blocks_portable", Supported, kRegisters, Multiply, nullptr, &kBlockKernel, 0};

}  // namespace tfc
