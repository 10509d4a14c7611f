// The lanes kernel with NEON: a vector is four registers, and 24 of 32 hold sums.
#include "kernel.h"

#if defined(__aarch64__)

#include "vector_neon.h"

namespace tfc {
namespace {

constexpr int kRegisters = 6;

#include "lanes.inl"
#include "multiply.inl"
#include "tiles_of_lanes_6.inl"

}  // namespace

const Kernel kLanesNeon = {"lanes_neon", Supported, kRegisters, Multiply, &kLaneKernel, nullptr, 0};

}  // namespace tfc

#else

namespace tfc {
const Kernel kLanesNeon = {"lanes_neon", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
