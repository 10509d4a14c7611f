// The lanes kernel in plain C++, for processors that no other file knows.
#include "vector_portable.h"

namespace tfc {
namespace {

constexpr int kRegisters = 4;

#include "lanes.inl"
#include "multiply.inl"
#include "tiles_of_lanes_4.inl"

}  // namespace

const Kernel kLanesPortable = {"lanes_portable", Supported, kRegisters, Multiply, &kLaneKernel, nullptr, 0};

}  // namespace tfc
