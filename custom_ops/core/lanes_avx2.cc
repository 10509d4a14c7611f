// The lanes kernel with AVX2 and FMA: a vector is two registers, and 12 of 16 hold sums.
#include "kernel.h"

#if defined(__AVX2__) && defined(__FMA__)

#include "vector_avx2.h"

namespace tfc {
namespace {

constexpr int kRegisters = 6;

#include "lanes.inl"
#include "multiply.inl"
#include "tiles_of_lanes_6.inl"

}  // namespace

const Kernel kLanesAvx2 = {"lanes_avx2", Supported, kRegisters, Multiply, &kLaneKernel, nullptr, 0};

}  // namespace tfc

#else

namespace tfc {
const Kernel kLanesAvx2 = {"lanes_avx2", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
