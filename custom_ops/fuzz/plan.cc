// A fuzzer of what a plan is made from. Whatever comes, the answer is a plan or a status: no crash, no hang,
// no memory beyond what the weights justify. For libFuzzer; without it driver.cc makes up the inputs.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <vector>

#include "../core/sparse_conv.h"

namespace {

constexpr int64_t kMostWork = 1 << 16;  // values of maps and weights, so that inputs are tried fast

// Takes an input apart; behind its end there are zeros.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  uint8_t Byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }

  template <typename Value>
  Value Raw() {
    uint8_t bytes[sizeof(Value)];
    for (uint8_t& byte : bytes) byte = Byte();
    Value value;
    std::memcpy(&value, bytes, sizeof(Value));
    return value;
  }

  // Mostly small, so that many inputs are convolutions; now and then one at a limit, or any.
  int32_t Size(int32_t least, int32_t choices = 7) {
    constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
    constexpr int32_t kLimits[] = {0, -1, kMost, -kMost - 1, 255, 65535, 65536, 1 << 20, 1 << 30};
    const uint8_t kind = Byte();
    if (kind < 230) return least + kind % choices;
    return kind < 248 ? kLimits[kind % 9] : Raw<int32_t>();
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

tfc_shape ReadShape(Bytes* bytes) {
  tfc_shape s;
  for (int32_t* size : {&s.height, &s.width}) *size = bytes->Size(1, 20);
  for (int32_t* size : {&s.channels, &s.filters, &s.kernel_height, &s.kernel_width, &s.stride_height,
                        &s.stride_width, &s.dilation_height, &s.dilation_width}) {
    *size = bytes->Size(1);
  }
  for (int32_t* pad : {&s.pad_top, &s.pad_bottom, &s.pad_left, &s.pad_right}) *pad = bytes->Size(0);
  s.groups = bytes->Byte() < 200 ? 1 : bytes->Size(1);
  return s;
}

// The options, with a name that may be none.
struct Options {
  explicit Options(Bytes* bytes) : options() {
    const uint8_t which = bytes->Byte();
    options.kernel = which < 200 ? tfc_kernel_name(which % 8) : "no such kernel";
    if (bytes->Byte() < 128) return;
    options.tiles = {bytes->Size(0), bytes->Size(0), bytes->Size(0)};
    options.tiled_input = bytes->Byte() % 2;
    options.tiled_residual = bytes->Byte() % 2;
    options.tiled_output = bytes->Byte() % 2;
  }

  tfc_options options;
};

// Some of the weights there are. Places mostly increase.
struct Weights {
  Weights(Bytes* bytes, int64_t places) {
    int64_t place = -1;
    for (int count = bytes->Byte(); count > 0; --count) {
      const uint8_t step = bytes->Byte();
      place = step < 250 ? place + 1 + step % 5 : bytes->Raw<int32_t>();
      if (step % 2 == 0 && place >= places) break;
      indices.push_back(static_cast<int32_t>(place));
      values.push_back(step < 253 ? static_cast<float>(step) - 100 : bytes->Raw<float>());
    }
  }

  std::vector<int32_t> indices;
  std::vector<float> values;
};

// The product, or more than the limit.
int64_t Floats(std::initializer_list<int64_t> counts) {
  int64_t product = 1;
  for (const int64_t count : counts) {
    if (count < 1 || count > kMostWork / product) return kMostWork + 1;
    product *= count;
  }
  return product;
}

// Runs a plan if its maps are small.
void Run(const tfc_plan* plan, const tfc_shape& s, const tfc_options& options, int32_t threads) {
  int32_t height, width;
  if (tfc_output_size(&s, &height, &width) != TFC_OK) __builtin_trap();  // there is a plan of it
  const tfc_tiles tiles = tfc_plan_tiles(plan);
  const int64_t inputs = Floats({s.height, s.width, s.channels}), outputs = Floats({height, width, s.filters});
  const int64_t tiled_inputs = tfc_tiled_floats(&tiles, s.height, s.width, s.channels);
  const int64_t tiled_outputs = tfc_tiled_floats(&tiles, height, width, s.filters);
  if (inputs > kMostWork || outputs > kMostWork || tiled_inputs > kMostWork || tiled_outputs > kMostWork) return;
  // Maps in tiles lie on borders of cache lines.
  struct alignas(64) Line {
    float lane[16];
  };
  const std::vector<Line> input((options.tiled_input ? tiled_inputs : inputs) / 16 + 1);
  const std::vector<Line> residual((options.tiled_residual ? tiled_outputs : outputs) / 16 + 1);
  std::vector<Line> output((options.tiled_output ? tiled_outputs : outputs) / 16 + 1);
  tfc_plan_run_with(plan, input[0].lane, residual[0].lane, output[0].lane, 1, threads);
}

// ---------------------------------------------------------------- in int8

// Mostly a byte.
int32_t Int8(Bytes* bytes) {
  const uint8_t kind = bytes->Byte();
  return kind < 240 ? static_cast<int8_t>(bytes->Byte()) : bytes->Size(-128, 256);
}

// What becomes of sums; maps and bounds may be none.
struct Int8Numbers {
  Int8Numbers(Bytes* bytes, const Weights& read, int32_t filters) {
    for (size_t i = 0; i < read.values.size(); ++i) values.push_back(static_cast<int8_t>(37 * i + 1));
    scales.assign(std::max(filters, 0), bytes->Byte() < 240 ? 0.01f : bytes->Raw<float>());
    bias.assign(scales.size(), bytes->Raw<int32_t>());
    requantization = {Int8(bytes), Int8(bytes), Int8(bytes), Int8(bytes), scales.data()};
    adds = bytes->Byte() % 2 != 0;
    const bool any = bytes->Byte() > 200;
    for (int32_t* number : {&addition.bias, &addition.output_multiplier, &addition.residual_multiplier}) {
      *number = any ? bytes->Raw<int32_t>() : bytes->Raw<int16_t>();
    }
    addition.shift = any ? bytes->Size(0, 40) : bytes->Byte() % 32;
    for (int32_t* number : {&addition.zero, &addition.low, &addition.high}) *number = Int8(bytes);
  }

  std::vector<int8_t> values;
  std::vector<float> scales;
  std::vector<int32_t> bias;
  tfc_requantization requantization;
  tfc_addition addition;
  bool adds;
};

void TryInt8(const tfc_shape& s, const Weights& read, Bytes* bytes, int32_t threads) {
  if (s.filters > kMostWork) return;
  const Int8Numbers numbers(bytes, read, s.filters);
  const tfc_int8_weights weights = {static_cast<int64_t>(read.indices.size()), read.indices.data(),
                                    numbers.values.data()};
  const char* kernel = tfc_int8_kernel_name(bytes->Byte() % 12);
  tfc_plan* plan = nullptr;
  const tfc_status status =
      tfc_int8_plan_create(&s, &weights, bytes->Byte() % 2 ? numbers.bias.data() : nullptr,
                           &numbers.requantization, numbers.adds ? &numbers.addition : nullptr, kernel, &plan);
  if ((status == TFC_OK) != (plan != nullptr)) __builtin_trap();
  int32_t height, width;
  if (plan != nullptr && tfc_output_size(&s, &height, &width) == TFC_OK) {
    const int64_t inputs = Floats({s.height, s.width, s.channels}), outputs = Floats({height, width, s.filters});
    if (inputs <= kMostWork && outputs <= kMostWork) {
      const std::vector<int8_t> input(inputs, 3), residual(numbers.adds ? outputs : 0, -5);
      std::vector<int8_t> output(outputs);
      tfc_int8_plan_run(plan, input.data(), numbers.adds ? residual.data() : nullptr, output.data(), 1, threads);
    }
  }
  tfc_plan_destroy(plan);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  const tfc_shape shape = ReadShape(&bytes);
  const Options options(&bytes);
  const auto activation = static_cast<tfc_activation>(bytes.Byte() % 4);
  const int32_t threads = bytes.Byte() % 4;
  const bool has_bias = bytes.Byte() % 2 && shape.filters > 0 && shape.filters <= kMostWork;
  const std::vector<float> bias(has_bias ? shape.filters : 0, bytes.Byte() < 250 ? 1.0f : bytes.Raw<float>());
  const int64_t places = Floats({shape.kernel_height, shape.kernel_width, shape.channels, shape.filters});
  const Weights read(&bytes, places);
  const tfc_weights weights = {static_cast<int64_t>(read.values.size()), read.indices.data(), read.values.data()};
  tfc_plan* plan = nullptr;
  const tfc_status status = tfc_plan_create_with(&shape, &weights, has_bias ? bias.data() : nullptr, activation,
                                                 &options.options, &plan);
  if ((status == TFC_OK) != (plan != nullptr)) __builtin_trap();
  if (plan != nullptr) Run(plan, shape, options.options, threads);
  tfc_plan_destroy(plan);
  TryInt8(shape, read, &bytes, threads);
  return 0;
}
