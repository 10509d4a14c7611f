// The int8 kernel whose lanes are filters, with plain C++.
#include "int8_portable.h"

namespace tfc {
namespace {

constexpr int kRegisters = 4;

#include "int8_blocks.inl"
#include "int8_multiply.inl"
#include "tiles_of_blocks_4.inl"

}  // namespace

const Kernel kInt8BlocksPortable = {"int8_blocks_portable", Int8Supported, kRegisters, Multiply, nullptr,
                                    &kBlockKernel,          kFlip};

}  // namespace tfc
