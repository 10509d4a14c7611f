// The lanes kernel with AVX-512: a vector is a register, and 14 of 32 hold sums.
#include "kernel.h"

#if defined(__AVX512F__)

#include "vector_avx512.h"

namespace tfc {
namespace {

constexpr int kRegisters = 14;

#include "lanes.inl"
#include "multiply.inl"
#include "tiles_of_lanes_14.inl"

}  // namespace

const Kernel kLanesAvx512 = {"lanes_avx512", Supported, kRegisters, Multiply, &kLaneKernel, nullptr, 0};

}  // namespace tfc

#else

namespace tfc {
const Kernel kLanesAvx512 = {"lanes_avx512", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
