// The int8 kernel whose lanes are filters, with the dot products of ARM.
#include "kernel.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)

#include "int8_dotprod.h"

namespace tfc {
namespace {

#include "int8_blocks.inl"
#include "int8_multiply.inl"
#include "tiles_of_blocks_6.inl"

}  // namespace

const Kernel kInt8BlocksDotprod = {"int8_blocks_dotprod", Int8Supported, kRegisters, Multiply, nullptr,
                                   &kBlockKernel,         kFlip};

}  // namespace tfc

#else

namespace tfc {
const Kernel kInt8BlocksDotprod = {"int8_blocks_dotprod", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
