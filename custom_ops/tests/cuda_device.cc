// The CUDA kernels on a GPU.
//
//   cuda_device check SEED COUNT        COUNT random convolutions with every kernel, against the plain loops
//   cuda_device bench [BATCH [FILE]]    the layers of ResNet-50, as a table and, if a file is named, as JSON
//
// `bench` compares what it times with the core's kernel for the processor. Effective TFLOP/s are those of the
// dense convolution that takes as long; real ones count the weights that are there. The exit status is 1 where a
// result is wrong, 2 for other arguments, 77 where there is no GPU.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../cuda/sparse_conv_cuda.h"
#include "convolutions.h"

namespace {

using tfc_tests::Convolution;
using tfc_tests::Random;
using tfc_tests::Shape;

using Maps = std::vector<float>;

constexpr int kWrong = 1, kUsage = 2, kNoGpu = 77;
constexpr int kRounds = 11;      // of which the median counts
constexpr float kRoundMs = 5;    // at least, so that launches and clocks do not show
constexpr int32_t kThreads = 2;  // of the processor

// Nothing goes on after an error.
void Must(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::printf("CUDA: %s\n", cudaGetErrorString(error));
  std::exit(kWrong);
}

class DeviceArray {
 public:
  explicit DeviceArray(size_t floats) { Must(cudaMalloc(&memory_, std::max<size_t>(floats, 1) * sizeof(float))); }
  explicit DeviceArray(const Maps& from) : DeviceArray(from.size()) {
    Must(cudaMemcpy(memory_, from.data(), from.size() * sizeof(float), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { (void)cudaFree(memory_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  float* data() const { return static_cast<float*>(memory_); }
  Maps Read(size_t floats) const {
    Maps read(floats);
    Must(cudaMemcpy(read.data(), memory_, floats * sizeof(float), cudaMemcpyDeviceToHost));
    return read;
  }
  void FillWithNan(size_t floats) const {  // all bits set
    Must(cudaMemset(memory_, 0xFF, floats * sizeof(float)));
  }

 private:
  void* memory_ = nullptr;
};

bool Close(const Maps& got, const Maps& expected) {
  float largest = 1;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < got.size(); ++i) {
    if (!(std::abs(got[i] - expected[i]) <= 2e-5f * (1 + largest))) return false;
  }
  return true;
}

tfc_status MakePlan(const Convolution& c, const char* kernel, tfc_cuda_plan** plan) {
  const tfc_weights weights = c.Weights();
  return tfc_cuda_plan_create(&c.shape, &weights, c.Bias(), c.activation, kernel, c.batch, plan);
}

// ---------------------------------------------------------------- check

// With the values of the plan, and with the same values handed to the run.
bool Computes(const tfc_cuda_plan* plan, const Convolution& c, const Maps& expected) {
  const DeviceArray input(c.input), output(c.outputs), values(c.values), bias(c.bias);
  const DeviceArray workspace(tfc_cuda_plan_workspace_bytes(plan) / sizeof(float));
  output.FillWithNan(c.outputs);
  if (tfc_cuda_plan_run(plan, input.data(), output.data(), c.batch, nullptr) != TFC_OK) return false;
  if (!Close(output.Read(c.outputs), expected)) return false;
  output.FillWithNan(c.outputs);
  const float* given_bias = c.Bias() == nullptr ? nullptr : bias.data();
  const tfc_status status = tfc_cuda_plan_run_with_values(plan, values.data(), given_bias, workspace.data(),
                                                          input.data(), output.data(), c.batch, nullptr);
  return status == TFC_OK && Close(output.Read(c.outputs), expected);
}

int CheckOne(const Convolution& c) {
  Maps expected(c.outputs);
  tfc_reference(&c.shape, c.dense.data(), c.Bias(), c.activation, c.input.data(), expected.data(), c.batch);
  int wrong = 0;
  for (int32_t i = 0; const char* kernel = tfc_cuda_kernel_name(i); ++i) {
    tfc_cuda_plan* plan = nullptr;
    const tfc_status status = MakePlan(c, kernel, &plan);
    if (status == TFC_OK && Computes(plan, c, expected)) {
      tfc_cuda_plan_destroy(plan);
      continue;
    }
    std::printf("%s: %s: %dx%dx%d, %d filters %dx%d\n", kernel, tfc_cuda_status_message(status), c.shape.height,
                c.shape.width, c.shape.channels, c.shape.filters, c.shape.kernel_height, c.shape.kernel_width);
    tfc_cuda_plan_destroy(plan);
    ++wrong;
  }
  return wrong;
}

int Check(uint64_t seed, int count) {
  Random random(seed);
  int wrong = 0;
  for (int left = count; left > 0;) {
    const tfc_shape shape = tfc_tests::RandomShape(&random);
    const Convolution c(shape, random.Between(1, 3), random.Pick({0, 10, 50, 100}), &random);
    if (c.outputs == 0) continue;  // the kernel is larger than the map
    wrong += CheckOne(c);
    --left;
  }
  std::printf("%d convolutions, %d wrong results\n", count, wrong);
  return wrong == 0 ? 0 : kWrong;
}

// ---------------------------------------------------------------- bench

struct Layer {
  const char* name;
  tfc_shape shape;
  int count;  // in the network
};

// The convolutions of ResNet-50 behind the first, with the stride in the 3x3, for images of 224 x 224.
std::vector<Layer> ResNet50() {
  return {
      {"conv2 1x1 64-64", Shape(56, 56, 64, 64, 1, 0), 1},
      {"conv2 1x1 256-64", Shape(56, 56, 256, 64, 1, 0), 2},
      {"conv2 3x3 64-64", Shape(56, 56, 64, 64, 3, 1), 3},
      {"conv2 1x1 64-256", Shape(56, 56, 64, 256, 1, 0), 4},
      {"conv3 1x1 256-128", Shape(56, 56, 256, 128, 1, 0), 1},
      {"conv3 3x3 128-128 /2", Shape(56, 56, 128, 128, 3, 1, 2), 1},
      {"conv3 1x1 256-512 /2", Shape(56, 56, 256, 512, 1, 0, 2), 1},
      {"conv3 1x1 512-128", Shape(28, 28, 512, 128, 1, 0), 3},
      {"conv3 3x3 128-128", Shape(28, 28, 128, 128, 3, 1), 3},
      {"conv3 1x1 128-512", Shape(28, 28, 128, 512, 1, 0), 4},
      {"conv4 1x1 512-256", Shape(28, 28, 512, 256, 1, 0), 1},
      {"conv4 3x3 256-256 /2", Shape(28, 28, 256, 256, 3, 1, 2), 1},
      {"conv4 1x1 512-1024 /2", Shape(28, 28, 512, 1024, 1, 0, 2), 1},
      {"conv4 1x1 1024-256", Shape(14, 14, 1024, 256, 1, 0), 5},
      {"conv4 3x3 256-256", Shape(14, 14, 256, 256, 3, 1), 5},
      {"conv4 1x1 256-1024", Shape(14, 14, 256, 1024, 1, 0), 6},
      {"conv5 1x1 1024-512", Shape(14, 14, 1024, 512, 1, 0), 1},
      {"conv5 3x3 512-512 /2", Shape(14, 14, 512, 512, 3, 1, 2), 1},
      {"conv5 1x1 1024-2048 /2", Shape(14, 14, 1024, 2048, 1, 0, 2), 1},
      {"conv5 1x1 2048-512", Shape(7, 7, 2048, 512, 1, 0), 2},
      {"conv5 3x3 512-512", Shape(7, 7, 512, 512, 3, 1), 2},
      {"conv5 1x1 512-2048", Shape(7, 7, 512, 2048, 1, 0), 3},
  };
}

struct Result {
  std::string layer, kernel;
  int count, sparsity_percent;
  double microseconds, slowest_microseconds, effective_tflops, real_tflops;
};

class Timer {
 public:
  Timer() {
    Must(cudaEventCreate(&begin_));
    Must(cudaEventCreate(&end_));
  }
  ~Timer() {
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  template <typename Work>
  float Milliseconds(int times, Work work) const {
    Must(cudaEventRecord(begin_));
    for (int i = 0; i < times; ++i) work();
    Must(cudaEventRecord(end_));
    Must(cudaEventSynchronize(end_));
    float milliseconds = 0;
    Must(cudaEventElapsedTime(&milliseconds, begin_, end_));
    return milliseconds;
  }

 private:
  cudaEvent_t begin_, end_;
};

// Microseconds of single runs, sorted.
template <typename Work>
std::vector<double> Time(Work work) {
  const Timer timer;
  int times = 1;
  while (timer.Milliseconds(times, work) < kRoundMs && times < 1 << 16) times *= 2;
  std::vector<double> microseconds;
  for (int round = 0; round < kRounds; ++round) {
    microseconds.push_back(1e3 * timer.Milliseconds(times, work) / times);
  }
  std::sort(microseconds.begin(), microseconds.end());
  return microseconds;
}

// Of single weights, wherever they are.
void Prune(int percent, Random* random, Convolution* c) {
  c->values.clear();
  c->indices.clear();
  for (size_t i = 0; i < c->dense.size(); ++i) {
    if (random->Chance(percent)) c->dense[i] = 0;
    if (c->dense[i] == 0) continue;
    c->values.push_back(c->dense[i]);
    c->indices.push_back(static_cast<int32_t>(i));
  }
}

bool EqualsCore(const Convolution& c, const Maps& got) {
  const tfc_weights weights = c.Weights();
  tfc_plan* plan = nullptr;
  Maps expected(c.outputs);
  const bool ran = tfc_plan_create(&c.shape, &weights, c.Bias(), c.activation, nullptr, &plan) == TFC_OK &&
                   tfc_plan_run(plan, c.input.data(), expected.data(), c.batch, kThreads) == TFC_OK;
  tfc_plan_destroy(plan);
  return ran && Close(got, expected);
}

// False where the result is wrong.
bool BenchOne(const Layer& layer, const Convolution& c, int sparsity_percent, Result* result) {
  tfc_cuda_plan* plan = nullptr;
  if (MakePlan(c, nullptr, &plan) != TFC_OK) return false;
  const DeviceArray input(c.input), output(c.outputs);
  bool ran = true;
  const auto run = [&] {
    ran &= tfc_cuda_plan_run(plan, input.data(), output.data(), c.batch, nullptr) == TFC_OK;
  };
  run();
  const bool right = ran && EqualsCore(c, output.Read(c.outputs));
  const std::vector<double> microseconds = Time(run);
  const double median = microseconds[kRounds / 2];
  const double pixels = static_cast<double>(c.outputs) / layer.shape.filters;  // each meets each weight once
  const auto tflops = [&](size_t weights) { return 2e-6 * pixels * static_cast<double>(weights) / median; };
  *result = {layer.name,
             tfc_cuda_plan_kernel(plan),
             layer.count,
             sparsity_percent,
             median,
             microseconds.back(),
             tflops(c.dense.size()),
             tflops(c.values.size())};
  tfc_cuda_plan_destroy(plan);
  return right && ran;
}

void Save(const char* file, const cudaDeviceProp& device, int32_t batch, const std::vector<Result>& results) {
  std::FILE* out = std::fopen(file, "w");
  if (out == nullptr) {
    std::printf("%s: %s\n", file, std::strerror(errno));
    std::exit(kUsage);
  }
  std::fprintf(out, "{\"device\": \"%s\", \"compute_capability\": \"%d.%d\",\n", device.name, device.major,
               device.minor);
  std::fprintf(out, " \"multiprocessors\": %d, \"batch\": %d,\n", device.multiProcessorCount, batch);
  std::fprintf(out, " \"layers\": [");
  const char* comma = "";
  for (const Result& r : results) {
    std::fprintf(out,
                 "%s\n  {\"layer\": \"%s\", \"count\": %d, \"sparsity\": %.2f, \"kernel\": \"%s\", "
                 "\"median_us\": %.3f, \"slowest_us\": %.3f, \"effective_tflops\": %.4f, \"real_tflops\": %.4f}",
                 comma, r.layer.c_str(), r.count, r.sparsity_percent / 100.0, r.kernel.c_str(), r.microseconds,
                 r.slowest_microseconds, r.effective_tflops, r.real_tflops);
    comma = ",";
  }
  std::fprintf(out, "\n]}\n");
  std::fclose(out);
}

int Bench(int32_t batch, const char* file) {
  cudaDeviceProp device;
  Must(cudaGetDeviceProperties(&device, 0));
  std::printf("%s, batch %d\n%-24s %8s %10s %10s %12s %8s  %s\n", device.name, batch, "layer", "sparsity",
              "median us", "slowest us", "eff. TFLOP/s", "real", "kernel");
  std::vector<Result> results;
  int wrong = 0;
  for (const Layer& layer : ResNet50()) {
    for (const int sparsity : {80, 90, 95}) {
      Random random(sparsity);
      Convolution c(layer.shape, batch, 100, &random);
      Prune(sparsity, &random, &c);
      Result r = {};
      const bool right = BenchOne(layer, c, sparsity, &r);
      wrong += !right;
      std::printf("%-24s %7d%% %10.2f %10.2f %12.2f %8.2f  %s%s\n", layer.name, sparsity, r.microseconds,
                  r.slowest_microseconds, r.effective_tflops, r.real_tflops, r.kernel.c_str(),
                  right ? "" : "  WRONG");
      results.push_back(r);
    }
  }
  if (file != nullptr) Save(file, device, batch, results);
  return wrong == 0 ? 0 : kWrong;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const bool check = mode == "check" && argc == 4, bench = mode == "bench" && argc <= 4;
  const int32_t batch = bench && argc > 2 ? std::atoi(argv[2]) : 1;
  if ((!check && !bench) || batch < 1) {
    std::printf("usage: cuda_device check SEED COUNT | bench [BATCH [FILE]]\n");
    return kUsage;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("there is no GPU\n");
    return kNoGpu;
  }
  return check ? Check(std::strtoull(argv[2], nullptr, 10), std::atoi(argv[3]))
               : Bench(batch, argc > 3 ? argv[3] : nullptr);
}
