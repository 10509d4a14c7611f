// The int8 kernel whose lanes are filters, with AVX-VNNI.
#include "kernel.h"

#if defined(__AVXVNNI__)

#include "int8_avxvnni.h"

namespace tfc {
namespace {

#include "int8_blocks.inl"
#include "int8_multiply.inl"
#include "tiles_of_blocks_6.inl"

}  // namespace

const Kernel kInt8BlocksAvxVnni = {"int8_blocks_avxvnni", Int8Supported, kRegisters, Multiply, nullptr,
                                   &kBlockKernel,         kFlip};

}  // namespace tfc

#else

namespace tfc {
const Kernel kInt8BlocksAvxVnni = {"int8_blocks_avxvnni", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
