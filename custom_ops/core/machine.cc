// How fast the processor is: what each kind of step takes, fitted to plans that are timed; and what follows
// for a convolution.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "outline.h"
#include "plan.h"
#include "run.h"
#include "sparse_conv.h"
#include "threads.h"

namespace tfc {
namespace {

static_assert(sizeof(tfc_machine::steps) / sizeof(double) == kCosts, "sparse_conv.h says how many");

constexpr int kRepeats = 5;

template <typename Work>
double Seconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The shortest of some: what disturbs only ever adds.
template <typename Work>
double Fastest(const Work& work) {
  double least = Seconds(work);
  for (int i = 1; i < kRepeats; ++i) least = std::min(least, Seconds(work));
  return least;
}

double DenseSpeed(const Kernel& kernel) {
  constexpr int32_t kTimes = 20000;
  volatile float sink = 0;
  const double seconds = Fastest([&] { sink = sink + kernel.multiply(kTimes); });
  return double{kTimes} * kernel.registers * kLanes / seconds;
}

// Of so much memory that is read from one end to the other.
double SecondsPerByte(int64_t bytes) {
  const std::vector<float> memory(bytes / sizeof(float), 1.0f);
  constexpr size_t kLine = 16;  // one float of each is read: the rest of its line comes with it
  volatile float sink = 0;
  const double seconds = Fastest([&] {
    for (size_t i = 0; i < memory.size(); i += kLine) sink = memory[i];
  });
  return seconds / static_cast<double>(bytes);
}

// Until another thread begins.
double SecondsToBegin() {
  constexpr auto kLongest = std::chrono::microseconds(100);  // it takes more only while others use the processor
  std::atomic<bool> begun{false};
  return Seconds([&] {
    const auto start = std::chrono::steady_clock::now();
    RunOnThreads(2, [&](int32_t slot) {
      if (slot > 0) begun = true;
      while (!begun && std::chrono::steady_clock::now() - start < kLongest) std::this_thread::yield();
    });
  });
}

// Where calls follow each other, of one that looks for the next. The shortest of many, and less than it takes
// while others use the processors.
double WakeSeconds() {
  constexpr int kCalls = 100;
  const Series series;
  double least = 10e-6;
  for (int i = 0; i < kCalls; ++i) least = std::min(least, SecondsToBegin());
  return least;
}

double MiddleOf(std::vector<double> seconds) {
  const auto middle = seconds.begin() + static_cast<ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

// Of one that has had time to fall asleep; at least what it takes where others have kept its processor awake.
double SleeperSeconds() {
  constexpr double kLeast = 20e-6;
  std::vector<double> seconds(20);
  for (double& each : seconds) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    each = SecondsToBegin();
  }
  return std::max(kLeast, MiddleOf(seconds));
}

// ---------------------------------------------------------------- the plans that are timed

// Which lines a kernel reads, and how many weights go with each.
enum Kind { kLines, kSlices, kBlocks, kSquares };

Kind KindOf(const Kernel& kernel) {
  if (kernel.blocks != nullptr) return kBlocks;
  if (kernel.lanes->together > 1) return kSquares;
  return kernel.lanes->slices == 1 ? kLines : kSlices;
}

struct Trial {
  int32_t size, channels, filters, kernel;
  double density;
  Kind kind;
  bool tiled_input = false, tiled_output = false;
};

constexpr Trial kFloat32Trials[] = {
    {28, 32, 64, 3, 0.3, kLines},
    {28, 32, 64, 3, 0.05, kLines},
    {28, 64, 64, 3, 0.1, kLines, true, true},
    {28, 64, 32, 3, 0.02, kLines, true, true},
    {28, 64, 128, 1, 0.3, kLines},
    {28, 64, 128, 1, 0.03, kLines},
    {28, 128, 128, 1, 0.1, kLines, true, true},
    {28, 128, 256, 1, 0.02, kLines, true, true},
    {14, 128, 64, 1, 0.1, kLines, false, true},
    {14, 128, 128, 1, 0.1, kLines, true, false},
    {14, 64, 64, 3, 0.1, kLines, true, false},
    {14, 64, 128, 3, 0.05, kLines, false, true},
    {7, 128, 128, 3, 0.1, kLines},
    {7, 128, 128, 3, 0.05, kLines, true, true},
    {7, 256, 256, 1, 0.1, kLines, true, true},
    {4, 64, 64, 1, 0.1, kLines},
    {4, 32, 32, 3, 0.1, kLines, true, true},
    {12, 16, 512, 1, 0.2, kLines, true, true},
    {28, 64, 64, 3, 0.3, kBlocks},
    {28, 64, 64, 3, 0.05, kBlocks},
    {28, 64, 128, 1, 0.3, kBlocks},
    {28, 128, 512, 1, 0.03, kBlocks},
    {14, 256, 256, 1, 0.1, kBlocks},
    {14, 128, 128, 3, 0.1, kBlocks},
    {7, 256, 256, 3, 0.05, kBlocks},
    {7, 128, 512, 1, 0.1, kBlocks},
};

constexpr Trial kInt8Trials[] = {
    {28, 64, 64, 3, 0.3, kLines},     {28, 64, 64, 3, 0.05, kLines},     {28, 128, 256, 1, 0.3, kLines},
    {28, 128, 256, 1, 0.03, kLines},  {14, 256, 128, 1, 0.1, kLines},    {14, 128, 128, 3, 0.1, kLines},
    {7, 256, 256, 3, 0.05, kLines},   {7, 256, 512, 1, 0.1, kLines},     {28, 64, 64, 3, 0.2, kSlices},
    {28, 64, 64, 3, 0.05, kSlices},   {28, 128, 256, 1, 0.1, kSlices},   {28, 128, 256, 1, 0.03, kSlices},
    {14, 256, 128, 1, 0.1, kSlices},  {14, 128, 128, 3, 0.1, kSlices},   {7, 256, 256, 3, 0.05, kSlices},
    {7, 256, 512, 1, 0.1, kSlices},   {28, 64, 64, 3, 0.3, kBlocks},     {28, 64, 64, 3, 0.05, kBlocks},
    {28, 128, 256, 1, 0.3, kBlocks},  {28, 128, 512, 1, 0.03, kBlocks},  {14, 256, 256, 1, 0.1, kBlocks},
    {14, 128, 128, 3, 0.1, kBlocks},  {7, 256, 256, 3, 0.05, kBlocks},   {7, 256, 512, 1, 0.1, kBlocks},
    {28, 64, 64, 3, 0.9, kSquares},   {28, 64, 64, 3, 0.1, kSquares},    {28, 128, 128, 3, 0.2, kSquares},
    {14, 256, 256, 3, 0.9, kSquares}, {14, 256, 256, 3, 0.1, kSquares},  {14, 256, 256, 3, 0.02, kSquares},
    {28, 128, 512, 1, 0.9, kSquares}, {28, 128, 256, 1, 0.05, kSquares}, {14, 512, 256, 1, 0.2, kSquares},
    {7, 256, 256, 3, 0.1, kSquares},  {7, 512, 512, 1, 0.9, kSquares},   {7, 512, 512, 1, 0.1, kSquares},
};

tfc_shape ShapeOf(const Trial& trial) {
  tfc_shape s = {};
  s.height = s.width = trial.size;
  s.channels = trial.channels;
  s.filters = trial.filters;
  s.kernel_height = s.kernel_width = trial.kernel;
  s.stride_height = s.stride_width = s.dilation_height = s.dilation_width = s.groups = 1;
  s.pad_top = s.pad_bottom = s.pad_left = s.pad_right = trial.kernel / 2;
  return s;
}

// Words at random, always the same; or those of 16 filters, or single weights.
std::vector<int32_t> Places(const tfc_shape& shape, const Trial& trial, int32_t depth) {
  if (trial.kind == kSlices) depth = 1;
  const int32_t together = trial.kind == kBlocks || trial.kind == kSquares ? kLanes : 1;
  const int32_t taps = shape.kernel_height * shape.kernel_width;
  const int32_t words = shape.channels / depth, groups = shape.filters / together;
  std::vector<bool> kept(static_cast<size_t>(taps) * words * groups);
  uint32_t state = 1;
  for (size_t i = 0; i < kept.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    kept[i] = (state >> 8) < trial.density * (1 << 24);
  }
  std::vector<int32_t> places;
  for (int32_t i = 0; i < WeightCount(shape); ++i) {
    const int32_t row = i / shape.filters, filter = i % shape.filters;  // of taps and channels
    if (kept[static_cast<size_t>(row / depth) * groups + filter / together]) places.push_back(i);
  }
  return places;
}

struct Sample {
  Costs counts;
  double seconds;
};

struct Destroy {
  void operator()(tfc_plan* plan) const { tfc_plan_destroy(plan); }
};

tfc_status MakeTrialPlan(Type type, const Trial& trial, const char* kernel, tfc_plan** plan) {
  const tfc_shape shape = ShapeOf(trial);
  const std::vector<int32_t> places = Places(shape, trial, DepthOf(type));
  const auto count = static_cast<int64_t>(places.size());
  if (type == kInt8) {
    const std::vector<int8_t> values(places.size(), 1);
    const std::vector<float> scales(shape.filters, 0.01f);
    const tfc_int8_weights weights = {count, places.data(), values.data()};
    const tfc_requantization requantization = {0, 0, -128, 127, scales.data()};
    return tfc_int8_plan_create(&shape, &weights, nullptr, &requantization, nullptr, kernel, plan);
  }
  const std::vector<float> values(places.size(), 0.01f);
  const tfc_weights weights = {count, places.data(), values.data()};
  const tfc_options options = {kernel, {}, trial.tiled_input, trial.tiled_output, trial.tiled_output};
  return tfc_plan_create_with(&shape, &weights, nullptr, TFC_RELU, &options, plan);
}

// Maps in int8 are a quarter of what they have room for.
tfc_status Measure(Type type, const Trial& trial, const char* kernel, Sample* sample) {
  tfc_plan* made = nullptr;
  if (const auto status = MakeTrialPlan(type, trial, kernel, &made)) return status;
  const std::unique_ptr<tfc_plan, Destroy> plan(made);
  const tfc_tiles tiles = tfc_plan_tiles(made);
  const auto floats = [&](int32_t channels) {
    return static_cast<size_t>(std::max<int64_t>(tfc_tiled_floats(&tiles, trial.size, trial.size, channels),
                                                 int64_t{trial.size} * trial.size * channels));
  };
  const Scratch input(floats(trial.channels)), output(floats(trial.filters));
  if (input.data() == nullptr || output.data() == nullptr) return TFC_NO_MEMORY;
  std::fill_n(input.data(), floats(trial.channels), 1.0f);
  const Outline& outline = made->structure->outline;
  sample->counts = CountsOf(outline);
  Run(*made, {input.data(), nullptr, output.data()}, 1, 1);  // brings everything into the caches
  sample->seconds = Fastest([&] { Run(*made, {input.data(), nullptr, output.data()}, 1, 1); });
  return TFC_OK;
}

// Seconds of a cycle, if all steps took as many as they typically do.
double TypicalSeconds(const std::vector<Sample>& samples, const Costs& cycles) {
  std::vector<double> ratios;
  for (const Sample& sample : samples) ratios.push_back(sample.seconds / Total(sample.counts, cycles));
  return MiddleOf(ratios);
}

// The seconds of each kind of step, none below zero, for which the relative errors of all samples are least:
// one kind after the other is set to what is best for it. Kinds of which the samples tell little stay near what
// is typical; else noise would decide between kinds that always come together.
Costs Fit(const std::vector<Sample>& samples, const Costs& cycles) {
  constexpr int kRounds = 1000;
  constexpr double kWeightOfTypical = 0.1;  // that of a sample is 1
  Costs typical, each;
  std::transform(cycles.begin(), cycles.end(), typical.begin(),
                 [second = TypicalSeconds(samples, cycles)](double count) { return count * second; });
  each = typical;
  std::vector<double> errors;  // (predicted - measured) / measured
  for (const Sample& sample : samples) errors.push_back(Total(sample.counts, each) / sample.seconds - 1);
  for (int round = 0; round < kRounds; ++round) {
    for (int kind = 0; kind < kNearByte; ++kind) {
      if (typical[kind] == 0) continue;  // no plan takes it
      double curvature = kWeightOfTypical / (typical[kind] * typical[kind]);
      double slope = curvature * (each[kind] - typical[kind]);
      for (size_t i = 0; i < samples.size(); ++i) {
        const double share = samples[i].counts[kind] / samples[i].seconds;
        slope += share * errors[i];
        curvature += share * share;
      }
      const double change = std::max(-slope / curvature, -each[kind]);
      each[kind] += change;
      for (size_t i = 0; i < samples.size(); ++i) {
        errors[i] += change * samples[i].counts[kind] / samples[i].seconds;
      }
    }
  }
  return each;
}

template <size_t count>
tfc_status MeasureTrials(Type type, const Trial (&trials)[count], const std::vector<const Kernel*>& kernels,
                         std::vector<Sample>* samples) {
  for (const Kernel* each : kernels) {
    for (const Trial& trial : trials) {
      if (trial.kind != KindOf(*each)) continue;
      samples->emplace_back();
      if (const auto status = Measure(type, trial, each->name, &samples->back())) return status;
    }
  }
  return TFC_OK;
}

tfc_status MeasureAll(Type type, const std::vector<const Kernel*>& kernels, std::vector<Sample>* samples) {
  return type == kInt8 ? MeasureTrials(type, kInt8Trials, kernels, samples)
                       : MeasureTrials(type, kFloat32Trials, kernels, samples);
}

// Everything in turn, some times over: a processor that others share is slow for a while, and the steps must be
// compared with the dense speed of the same time.
tfc_status MeasureMachine(Type type, const std::vector<const Kernel*>& kernels, const Kernel& best_kernel,
                          tfc_machine* machine) {
  constexpr int kTimes = 3;
  std::vector<Sample> best;
  double near = std::numeric_limits<double>::infinity(), far = near;
  machine->dense = 0;
  for (int i = 0; i < kTimes; ++i) {
    std::vector<Sample> samples;
    if (const auto status = MeasureAll(type, kernels, &samples)) return status;
    if (best.empty()) best = samples;
    for (size_t k = 0; k < best.size(); ++k) best[k].seconds = std::min(best[k].seconds, samples[k].seconds);
    machine->dense = std::max(machine->dense, DenseSpeed(best_kernel) * DepthOf(type));
    near = std::min(near, SecondsPerByte(kFarBytes / 4));
    far = std::min(far, SecondsPerByte(kFarBytes * 2));
  }
  const Costs each = Fit(best, Typical(DepthOf(type)));
  std::copy(each.begin(), each.end(), machine->steps);
  machine->steps[kNearByte] = near;
  machine->steps[kFarByte] = std::max(near, far);
  machine->steps[kWake] = WakeSeconds();
  machine->steps[kSleeper] = SleeperSeconds();
  return TFC_OK;
}

// ---------------------------------------------------------------- predictions

// What XNNPACK makes of the processor.
struct Dense {
  double share, share_of_taps;   // of what the processor can multiply and add, with one tap and with more
  double per_input, per_output;  // multiply-adds that such an entry takes the time of, besides its own
  int64_t pixels, channels;      // that are multiplied together, if need be with zeros
};

constexpr Dense kDenseFloat32 = {0.95, 0.95, 0, 0, 7, 1}, kDenseInt8 = {0.95, 0.95, 0, 50, 7, 8},
                kDenseSquares = {0.45, 0.33, 100, 500, 16, 64};

Dense DenseOf(Type type) {
  if (type == kFloat32) return kDenseFloat32;
  std::vector<const Kernel*> kernels;
  const bool squares = FindKernels(kInt8, nullptr, &kernels) == TFC_OK && KindOf(*kernels.front()) == kSquares;
  return squares ? kDenseSquares : kDenseInt8;
}

// Kernels of depthwise convolutions take channels, and load two vectors for each that they multiply. In int8 they
// multiply in 32 bits: instructions for words do not help them.
double DepthwiseSeconds(Type type, const tfc_shape& s, OutputSize size, double speed, const Costs& each) {
  constexpr double kShare = 0.5, kVectors = 4.5;
  const double products = double(s.kernel_height) * s.kernel_width * size.height * size.width * s.filters;
  return type == kInt8 ? products / kLanes * kVectors * each[kVector] : products / (kShare * speed);
}

// Dense kernels take tiles of pixels by filters by channels, and pay for those that are not full; with few pixels
// they wait for weights.
double DenseSeconds(Type type, const tfc_shape& s, OutputSize size, double speed, const Costs& each,
                    int32_t threads) {
  if (s.groups == s.channels && s.groups > 1) return DepthwiseSeconds(type, s, size, speed, each) / threads;
  constexpr int64_t kFilters = 16;
  const Dense dense = DenseOf(type);
  const auto filled = [](int64_t count, int64_t tile) {
    return static_cast<double>((count + tile - 1) / tile * tile);
  };
  const int64_t pixels = int64_t{size.height} * size.width;
  const double outputs =
      filled(pixels, std::min(pixels, dense.pixels)) * filled(s.filters / s.groups, kFilters) * s.groups;
  const int32_t taps = s.kernel_height * s.kernel_width;
  const double weights = taps * filled(s.channels / s.groups, dense.channels);  // of a filter
  Costs counts{};
  AddBytes(weights * s.filters * (type == kInt8 ? sizeof(int8_t) : sizeof(float)), &counts);
  const double inputs = double(s.height) * s.width * s.channels;
  const double share = taps > 1 ? dense.share_of_taps : dense.share;
  const double seconds = (outputs * (weights / share + dense.per_output) + inputs * dense.per_input) / speed;
  return std::max(seconds, Total(counts, each)) / threads;
}

// The thread that has most to do: it prepares each region that it has a piece of.
double SparseSeconds(const Outline& outline, const Costs& each, int32_t threads) {
  const Costs counts = CountsOf(outline);
  const double regions = outline.kernel->lanes != nullptr ? outline.tiling.Regions() : outline.block_tiling.bands;
  double preparing = 0;
  for (const Cost kind : {kRegion, kPacked, kGathered, kTouched}) preparing += counts[kind] * each[kind] / regions;
  const double working = Total(counts, each) / regions - preparing;
  const Division division = DivisionOf(outline, 1, threads);
  double longest = 0;
  for (int32_t thread = 0; thread < division.Threads(); ++thread) {
    const auto pieces = static_cast<double>(division.Pieces(thread));
    longest = std::max(longest, division.Length(thread) * working + pieces * preparing);
  }
  return longest + (threads > 1 ? each[kWake] : 0);
}

tfc_status MeasureMachine(Type type, const char* kernel, tfc_machine* machine) {
  if (machine == nullptr) return TFC_BAD_ARGUMENT;
  try {
    std::vector<const Kernel*> kernels, all;
    if (const auto status = FindKernels(type, kernel, &kernels)) return status;
    if (const auto status = FindKernels(type, nullptr, &all)) return status;
    return MeasureMachine(type, kernels, *all.front(), machine);
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

tfc_status Predict(Type type, const tfc_shape* shape, const tfc_weight_counts* counts, const tfc_options* options,
                   const tfc_machine* machine, int32_t threads, tfc_prediction* prediction) {
  if (shape == nullptr || counts == nullptr || options == nullptr) return TFC_BAD_ARGUMENT;
  if (machine == nullptr || prediction == nullptr || threads < 1 || !(machine->dense > 0)) return TFC_BAD_ARGUMENT;
  for (const int64_t count : {counts->weights, counts->halves, counts->quarters, counts->blocks}) {
    if (count < 0) return TFC_BAD_ARGUMENT;
  }
  if (counts->channels < 0) return TFC_BAD_ARGUMENT;
  try {
    OutputSize size;
    if (const auto status = CheckShape(*shape, &size)) return status;
    Costs each;
    std::copy(std::begin(machine->steps), std::end(machine->steps), each.begin());
    Outline outline;
    if (const auto status = MakeOutline(type, *shape, *counts, *options, each, &outline)) return status;
    prediction->dense_seconds = DenseSeconds(type, *shape, size, machine->dense, each, threads);
    prediction->sparse_seconds = SparseSeconds(outline, each, threads);
    prediction->alone_seconds = SparseSeconds(outline, each, 1);
    prediction->wake_seconds = threads > 1 ? each[kSleeper] : 0;
    prediction->kernel = outline.kernel->name;
    prediction->tiles = {};
    if (outline.kernel->lanes != nullptr) {
      prediction->tiles = {outline.tiling.tile.rows, outline.tiling.tile.columns, outline.tiling.lane_rows};
    }
    return TFC_OK;
  } catch (const std::bad_alloc&) {
    return TFC_NO_MEMORY;
  }
}

}  // namespace
}  // namespace tfc

tfc_status tfc_measure_machine(const char* kernel, tfc_machine* machine) {
  return tfc::MeasureMachine(tfc::kFloat32, kernel, machine);
}

tfc_status tfc_int8_measure_machine(const char* kernel, tfc_machine* machine) {
  return tfc::MeasureMachine(tfc::kInt8, kernel, machine);
}

tfc_status tfc_predict(const tfc_shape* shape, const tfc_weight_counts* counts, const tfc_options* options,
                       const tfc_machine* machine, int32_t threads, tfc_prediction* prediction) {
  return tfc::Predict(tfc::kFloat32, shape, counts, options, machine, threads, prediction);
}

tfc_status tfc_int8_predict(const tfc_shape* shape, const tfc_weight_counts* counts, const char* kernel,
                            const tfc_machine* machine, int32_t threads, tfc_prediction* prediction) {
  tfc_options options = {};
  options.kernel = kernel;
  return tfc::Predict(tfc::kInt8, shape, counts, &options, machine, threads, prediction);
}
