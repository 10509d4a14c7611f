// The int8 kernel whose lanes are filters, with AVX-512 VNNI.
#include "kernel.h"

#if defined(__AVX512VNNI__)

#include "int8_avx512vnni.h"

namespace tfc {
namespace {

constexpr int kRegisters = 14;

#include "int8_blocks.inl"
#include "int8_multiply.inl"
#include "tiles_of_blocks_14.inl"

}  // namespace

const Kernel kInt8BlocksAvx512Vnni = {
    "int8_blocks_avx512vnni", Int8Supported, kRegisters, Multiply, nullptr, &kBlockKernel, kFlip};

}  // namespace tfc

#else

namespace tfc {
const Kernel kInt8BlocksAvx512Vnni = {"int8_blocks_avx512vnni", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
