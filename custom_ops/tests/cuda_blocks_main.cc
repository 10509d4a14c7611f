// The CUDA kernels on the host against the plain loops, for sanitizers to watch.
//
//   cuda_blocks SEED COUNT     tries the shapes of the table below and COUNT random ones with every kernel
//
// It prints the kernels it tried; the exit status is 1 where one computed something else.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <vector>

#include "convolutions.h"
#include "cuda_blocks.h"

namespace {

using tfc_tests::Convolution;
using tfc_tests::Random;
using tfc_tests::Shape;

using Maps = std::vector<float>;

struct Trial {
  tfc_shape shape;
  int32_t batch, percent_kept;
};

// What random shapes are unlikely to be: a tile has 32 to 256 sums, a stage up to 64 planes, a block 4 to 128
// filters.
std::vector<Trial> Table() {
  return {
      {Shape(1, 127, 3, 5, 1, 0), 1, 50},
      {Shape(1, 129, 3, 5, 1, 0), 3, 50},
      {Shape(1, 300, 3, 5, 3, 1), 1, 50},
      {Shape(300, 1, 3, 5, 3, 1), 1, 50},
      {Shape(7, 7, 130, 130, 1, 0), 2, 20},
      {Shape(5, 5, 300, 9, 3, 1), 1, 10},
      {Shape(14, 14, 16, 16, 3, 1), 2, 0},
      {Shape(14, 14, 16, 16, 3, 1), 2, 100},
      {Shape(1, 1, 40, 16, 1, 0), 70, 30},
      {Shape(1, 1, 16, 16, 3, 1), 3, 30},
      {Shape(2, 2, 3, 4, 3, 40), 1, 50},
      {Shape(30, 30, 4, 4, 3, 0, 7), 1, 50},
      {Shape(40, 40, 2, 2, 5, 0, 1, 9), 1, 50},
      {Shape(40, 40, 2, 2, 4, 3, 3, 2), 1, 50},
      {Shape(9, 9, 40, 40, 3, 1, 1, 1, 40), 1, 90},
      {Shape(9, 9, 34, 51, 3, 1, 1, 1, 17), 1, 60},
      {Shape(23, 23, 3, 8, 11, 5, 4), 1, 50},
      {Shape(40, 40, 1, 2, 36, 0), 1, 50},
  };
}

bool Close(const Maps& got, const Maps& expected) {
  float largest = 1;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < got.size(); ++i) {
    if (!(std::abs(got[i] - expected[i]) <= 1e-5f * (1 + largest))) return false;
  }
  return true;
}

int Try(const Convolution& c, Random* random) {
  Maps expected(c.outputs);
  const float* input = c.input.data();
  tfc_reference(&c.shape, c.dense.data(), c.Bias(), c.activation, input, expected.data(), c.batch);
  int failed = 0;
  for (int32_t i = 0; const char* kernel = tfc_blocks_kernel_name(i); ++i) {
    const tfc_blocks_options options = {kernel,    random->Pick({1, 40, 132}),
                                        99 * 1024, random->Pick({1, 64}),
                                        nullptr,   {random->Between(0, 1), random->Between(0, 1)}};
    Maps out(c.outputs, std::numeric_limits<float>::quiet_NaN());
    const tfc_weights weights = c.Weights();
    const tfc_status status =
        tfc_blocks_run(&c.shape, &weights, c.Bias(), c.activation, &options, input, out.data(), c.batch);
    if (status == TFC_OK && Close(out, expected)) continue;
    const tfc_shape& s = c.shape;
    std::printf("%s: %s: %dx%dx%d, %d filters %dx%d, strides %d %d, dilation %d %d, %d groups\n", kernel,
                status == TFC_OK ? "not what the plain loops compute" : tfc_status_message(status), s.height,
                s.width, s.channels, s.filters, s.kernel_height, s.kernel_width, s.stride_height, s.stride_width,
                s.dilation_height, s.dilation_width, s.groups);
    ++failed;
  }
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::printf("usage: cuda_blocks SEED COUNT\n");
    return 2;
  }
  Random random(std::strtoull(argv[1], nullptr, 10));
  int failed = 0;
  for (const Trial& trial : Table()) {
    failed += Try(Convolution(trial.shape, trial.batch, trial.percent_kept, &random), &random);
  }
  for (int left = std::atoi(argv[2]); left > 0;) {
    const tfc_shape shape = tfc_tests::RandomShape(&random);
    const Convolution c(shape, random.Between(1, 3), random.Pick({0, 10, 50, 100}), &random);
    if (c.outputs == 0) continue;  // the kernel is larger than the map
    failed += Try(c, &random);
    --left;
  }
  for (int32_t i = 0; const char* kernel = tfc_blocks_kernel_name(i); ++i) std::printf("%s\n", kernel);
  return failed == 0 ? 0 : 1;
}
