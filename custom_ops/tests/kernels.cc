// Every kernel that this processor supports against the plain loops, on several thread counts, and with maps in
// tiles.
//
//   kernels SEED COUNT     tries the shapes of the table below, and COUNT random ones
//
// It stands alone, so that it also runs under sanitizers and in an emulator of another processor. It prints
// the kernels it tried; the exit status is 1 where one computed something else.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "convolutions.h"
#include "tiled_maps.h"

namespace {

using tfc_tests::Convolution;
using tfc_tests::MapSize;
using tfc_tests::Random;
using tfc_tests::RandomShape;
using tfc_tests::Shape;
using tfc_tests::TiledMap;

using Maps = std::vector<float>;

int tiled_plans = 0;  // that were tried

struct Trial {
  tfc_shape shape;
  int32_t batch, percent_kept;
};

// What random shapes are unlikely to be. A vector has 16 lanes, and a register tile some vectors: maps end
// one before, at and one behind the end of both.
std::vector<Trial> Table() {
  std::vector<Trial> trials;
  for (const int32_t size : {15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97}) {
    trials.push_back({Shape(1, size, 3, 5, 1, 0), 1, 50});     // one row: nothing but columns
    trials.push_back({Shape(size, 1, 3, 5, 1, 0, 2), 1, 50});  // one column
    trials.push_back({Shape(size, 5, 2, 3, 3, 1), 1, 50});
    trials.push_back({Shape(4, 4, size, size, 1, 0), 1, 50});  // channels and filters
  }
  const tfc_shape plain = Shape(14, 14, 16, 16, 3, 1);
  for (const int32_t percent : {0, 1, 100}) trials.push_back({plain, 2, percent});
  trials.push_back({Shape(1, 1, 16, 16, 1, 0), 3, 30});             // one pixel
  trials.push_back({Shape(1, 1, 16, 16, 3, 1), 3, 30});             // one pixel among zeros
  trials.push_back({Shape(2, 2, 3, 4, 3, 40), 1, 50});              // padding and little else
  trials.push_back({Shape(3, 3, 2500, 7, 1, 0), 1, 20});            // many blocks of channels
  trials.push_back({Shape(3, 3, 7, 2500, 1, 0), 1, 20});            // many chunks of filters
  trials.push_back({Shape(7, 7, 600, 40, 3, 1), 1, 5});             // both, in a kernel with taps
  trials.push_back({Shape(30, 30, 4, 4, 3, 0, 7), 1, 50});          // a stride beyond the kernel
  trials.push_back({Shape(40, 40, 2, 2, 5, 0, 1, 9), 1, 50});       // taps far apart
  trials.push_back({Shape(40, 40, 2, 2, 4, 3, 3, 2), 1, 50});       // stride and dilation without a divisor
  trials.push_back({Shape(9, 9, 40, 40, 3, 1, 1, 1, 40), 1, 100});  // depthwise
  trials.push_back({Shape(9, 9, 34, 51, 3, 1, 1, 1, 17), 1, 60});   // groups that no vector holds
  trials.push_back({Shape(23, 23, 3, 8, 11, 5, 4), 1, 50});         // the first layer of AlexNet, smaller
  return trials;
}

Maps Empty(const Convolution& c) { return Maps(c.outputs, std::numeric_limits<float>::quiet_NaN()); }

std::string Describe(const tfc_shape& s) {
  char text[160];
  std::snprintf(text, sizeof(text),
                "%dx%dx%d, %d filters %dx%d, strides %d %d, dilation %d %d, pads %d %d %d %d, %d groups", s.height,
                s.width, s.channels, s.filters, s.kernel_height, s.kernel_width, s.stride_height, s.stride_width,
                s.dilation_height, s.dilation_width, s.pad_top, s.pad_bottom, s.pad_left, s.pad_right, s.groups);
  return text;
}

int Fail(const Convolution& c, const char* kernel, const char* what) {
  std::printf("%s: %s (%s, batch %d, %zu weights)\n", kernel, what, Describe(c.shape).c_str(), c.batch,
              c.values.size());
  return 1;
}

bool Close(const Maps& got, const Maps& expected) {
  float largest = 1;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < got.size(); ++i) {
    if (!(std::abs(got[i] - expected[i]) <= 1e-5f * (1 + largest))) return false;
  }
  return true;
}

bool Same(const Maps& a, const Maps& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

// Two callers of one plan, each with two threads, and one of them in a series.
bool RunsTwiceAtOnce(const tfc_plan* plan, const Convolution& c, const Maps& expected) {
  Maps outs[2] = {Empty(c), Empty(c)};
  tfc_status statuses[2];
  const auto run = [&](int i) { statuses[i] = tfc_plan_run(plan, c.input.data(), outs[i].data(), c.batch, 2); };
  std::thread other(run, 1);
  tfc_series_begin();
  run(0);
  tfc_series_end();
  other.join();
  return statuses[0] == TFC_OK && statuses[1] == TFC_OK && Same(outs[0], expected) && Same(outs[1], expected);
}

int TryPlan(const tfc_plan* plan, const Convolution& c, const char* kernel, const Maps& expected) {
  Maps once = Empty(c);
  if (tfc_plan_run(plan, c.input.data(), once.data(), c.batch, 1) != TFC_OK) return Fail(c, kernel, "no run");
  if (!Close(once, expected)) return Fail(c, kernel, "not what the plain loops compute");
  tfc_series_begin();
  bool same = true;
  for (const int32_t threads : {2, 5}) {
    Maps out = Empty(c);
    same &= tfc_plan_run(plan, c.input.data(), out.data(), c.batch, threads) == TFC_OK && Same(out, once);
  }
  tfc_series_end();
  if (!same) return Fail(c, kernel, "not the same on several threads");
  return RunsTwiceAtOnce(plan, c, once) ? 0 : Fail(c, kernel, "not the same for two callers");
}

int TryKernel(const Convolution& c, const char* kernel, const Maps& expected) {
  const tfc_weights weights = c.Weights();
  tfc_plan *plan = nullptr, *copy = nullptr;
  if (tfc_plan_create(&c.shape, &weights, c.Bias(), c.activation, kernel, &plan) != TFC_OK) {
    return Fail(c, kernel, "no plan");
  }
  const bool copied = tfc_plan_with_values(plan, c.values.data(), c.Bias(), &copy) == TFC_OK;
  tfc_plan_destroy(plan);  // the copy goes on
  const int failed = copied ? TryPlan(copy, c, kernel, expected) : Fail(c, kernel, "no plan of other values");
  tfc_plan_destroy(copy);
  return failed;
}

// Which maps are in tiles.
struct Tiled {
  bool input, output;
};

// With a residual, and an activation after it.
int TryTiled(const Convolution& c, const char* kernel, Tiled tiled, const Maps& residual, const Maps& expected) {
  const tfc_weights weights = c.Weights();
  const tfc_options options = {kernel, {}, tiled.input, tiled.output, tiled.output};
  tfc_plan* plan = nullptr;
  const tfc_status status = tfc_plan_create_with(&c.shape, &weights, c.Bias(), c.activation, &options, &plan);
  if (status == TFC_BAD_ARGUMENT) return 0;  // no tiles serve for both maps, or the kernel has none
  if (status != TFC_OK) return Fail(c, kernel, "no plan for maps in tiles");
  const tfc_tiles tiles = tfc_plan_tiles(plan);
  int32_t height = 0, width = 0;
  tfc_output_size(&c.shape, &height, &width);
  const MapSize size = {c.batch, height, width, c.shape.filters};
  TiledMap in(tiles, {c.batch, c.shape.height, c.shape.width, c.shape.channels}), add(tiles, size);
  if (tiled.input) in.Set(c.input);
  add.Set(residual);
  int failed = 0;
  for (const int32_t threads : {1, 3}) {
    Maps out = Empty(c);
    TiledMap made(tiles, size);
    const float* input = tiled.input ? in.data() : c.input.data();
    const float* begin = tiled.output ? add.data() : residual.data();
    float* output = tiled.output ? made.data() : out.data();
    if (tfc_plan_run_with(plan, input, begin, output, c.batch, threads) != TFC_OK) ++failed;
    if (!Close(tiled.output ? made.Images() : out, expected)) ++failed;
  }
  tfc_plan_destroy(plan);
  ++tiled_plans;
  return failed == 0 ? 0 : Fail(c, kernel, "with maps in tiles, not what the plain loops compute");
}

int TryAllTiled(const Convolution& c, const std::vector<const char*>& kernels) {
  Maps residual(c.outputs);
  for (size_t i = 0; i < residual.size(); ++i) residual[i] = static_cast<float>(i % 7) - 3;
  Maps expected = Empty(c);
  tfc_reference(&c.shape, c.dense.data(), c.Bias(), TFC_LINEAR, c.input.data(), expected.data(), c.batch);
  for (size_t i = 0; i < expected.size(); ++i) {
    expected[i] += residual[i];
    if (c.activation != TFC_LINEAR) expected[i] = std::max(expected[i], 0.0f);
    if (c.activation == TFC_RELU6) expected[i] = std::min(expected[i], 6.0f);
  }
  int failed = 0;
  for (const char* kernel : kernels) {
    for (const Tiled tiled : {Tiled{true, true}, Tiled{true, false}, Tiled{false, true}}) {
      failed += TryTiled(c, kernel, tiled, residual, expected);
    }
  }
  return failed;
}

int Try(const Convolution& c, const std::vector<const char*>& kernels) {
  Maps expected = Empty(c);
  const tfc_status status =
      tfc_reference(&c.shape, c.dense.data(), c.Bias(), c.activation, c.input.data(), expected.data(), c.batch);
  if (status != TFC_OK) return Fail(c, "reference", tfc_status_message(status));
  int failed = 0;
  for (const char* kernel : kernels) failed += TryKernel(c, kernel, expected);
  return failed + TryAllTiled(c, kernels);
}

// ---------------------------------------------------------------- in int8

// The same weights and inputs, rounded to whole numbers.
struct Int8Numbers {
  explicit Int8Numbers(const Convolution& c) {
    for (const float value : c.dense) dense.push_back(static_cast<int8_t>(std::lround(60 * value)));
    for (const int32_t index : c.indices) values.push_back(dense[index]);
    for (const float value : c.input) input.push_back(static_cast<int8_t>(std::lround(60 * value)));
    for (const float value : c.bias) bias.push_back(static_cast<int32_t>(std::lround(5000 * value)));
    for (int32_t f = 0; f < c.shape.filters; ++f) scales.push_back(0.0005f * static_cast<float>(1 + f % 5));
    const auto zero = static_cast<int32_t>(c.outputs % 256) - 128;
    const bool relu = c.activation != TFC_LINEAR;
    requantization = {-zero - 1, zero, relu ? zero : -128, 127, scales.data()};
    adds = c.outputs % 2 == 0;
    for (size_t i = 0; i < c.outputs; ++i) residual.push_back(static_cast<int8_t>(i % 251));
  }

  const tfc_addition* Addition() const { return adds ? &addition : nullptr; }

  // What becomes of an output.
  int8_t Added(int8_t output, int8_t other) const {
    if (!adds) return output;
    const tfc_addition& a = addition;
    const int32_t sum = (a.bias + a.output_multiplier * output + a.residual_multiplier * other) >> a.shift;
    return static_cast<int8_t>(std::min(std::max(sum + a.zero, a.low), a.high));
  }

  const int32_t* Bias() const { return bias.empty() ? nullptr : bias.data(); }

  std::vector<int8_t> dense, values, input;
  std::vector<int32_t> bias;
  std::vector<float> scales;
  tfc_requantization requantization;
  bool adds;  // a residual
  std::vector<int8_t> residual;
  tfc_addition addition = {1 << 19, 700000, -900000, 20, 3, -100, 110};
};

int TryInt8Kernel(const Convolution& c, const Int8Numbers& numbers, const char* kernel,
                  const std::vector<int8_t>& expected) {
  const tfc_int8_weights weights = {static_cast<int64_t>(c.indices.size()), c.indices.data(),
                                    numbers.values.data()};
  tfc_plan* plan = nullptr;
  if (tfc_int8_plan_create(&c.shape, &weights, numbers.Bias(), &numbers.requantization, numbers.Addition(), kernel,
                           &plan) != TFC_OK) {
    return Fail(c, kernel, "no plan");
  }
  int failed = 0;
  for (const int32_t threads : {1, 2, 5}) {
    std::vector<int8_t> out(c.outputs, 99);
    const int8_t* residual = numbers.adds ? numbers.residual.data() : nullptr;
    if (tfc_int8_plan_run(plan, numbers.input.data(), residual, out.data(), c.batch, threads) != TFC_OK) ++failed;
    if (out != expected) ++failed;
  }
  tfc_plan_destroy(plan);
  return failed == 0 ? 0 : Fail(c, kernel, "not what the plain loops compute");
}

int TryInt8(const Convolution& c, const std::vector<const char*>& kernels) {
  const Int8Numbers numbers(c);
  std::vector<int8_t> expected(c.outputs, 99);
  const tfc_status status =
      tfc_int8_reference(&c.shape, numbers.dense.data(), numbers.Bias(), &numbers.requantization,
                         numbers.input.data(), expected.data(), c.batch);
  if (status != TFC_OK) return Fail(c, "reference in int8", tfc_status_message(status));
  for (size_t i = 0; i < c.outputs; ++i) expected[i] = numbers.Added(expected[i], numbers.residual[i]);
  int failed = 0;
  for (const char* kernel : kernels) failed += TryInt8Kernel(c, numbers, kernel, expected);
  return failed;
}

// ---------------------------------------------------------------- all of them

std::vector<const char*> Supported(const char* (*name)(int32_t), int32_t (*supported)(int32_t)) {
  std::vector<const char*> kernels;
  for (int32_t i = 0; name(i) != nullptr; ++i) {
    if (supported(i)) kernels.push_back(name(i));
  }
  return kernels;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::printf("usage: kernels SEED COUNT\n");
    return 2;
  }
  const auto kernels = Supported(tfc_kernel_name, tfc_kernel_supported);
  const auto int8_kernels = Supported(tfc_int8_kernel_name, tfc_int8_kernel_supported);
  Random random(std::strtoull(argv[1], nullptr, 10));
  int failed = 0;
  for (const Trial& trial : Table()) {
    const Convolution c(trial.shape, trial.batch, trial.percent_kept, &random);
    failed += Try(c, kernels) + TryInt8(c, int8_kernels);
  }
  for (int left = std::atoi(argv[2]); left > 0;) {
    const Convolution c(RandomShape(&random), random.Between(1, 3), random.Pick({0, 10, 50, 100}), &random);
    if (c.outputs == 0) continue;  // the kernel is larger than the map
    failed += Try(c, kernels) + TryInt8(c, int8_kernels);
    --left;
  }
  for (const auto& names : {kernels, int8_kernels}) {
    for (const char* kernel : names) std::printf("%s\n", kernel);
  }
  return failed == 0 && tiled_plans > 0 ? 0 : 1;
}
