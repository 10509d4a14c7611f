#include "layout.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>
#include <tuple>

#include "../core/tiling.h"

namespace tfc::cuda {

#define TFC_CUDA_KERNEL(bundle, pixels) {"bundle" #bundle "_pixels" #pixels, bundle, pixels},
const Kernel kKernels[] = {TFC_CUDA_KERNELS(TFC_CUDA_KERNEL)};
#undef TFC_CUDA_KERNEL
const int32_t kKernelCount = static_cast<int32_t>(sizeof(kKernels) / sizeof(Kernel));

namespace {

constexpr int32_t kStageBytes = 32 * 1024;  // of two: with them two blocks fit in a multiprocessor
constexpr int32_t kMostPlaneBits = 6;       // 64 planes, so that the smallest block still has threads for each
constexpr int32_t kWarpCounts[] = {4, 8, 16};
constexpr int32_t kTileWidths = 16;  // that are tried
constexpr int32_t kProcessorThreads = 2048, kProcessorRegisters = 65536;

// Cycles, from what is known of such processors; nothing was measured.
constexpr double kPerCopied = 2;    // to copy 32 floats into or out of shared memory
constexpr double kIssued = 4;       // instructions that a multiprocessor begins
constexpr double kPerColumn = 2;    // instructions beside loads and multiplications
constexpr double kColumnWait = 12;  // of a warp that is alone
constexpr double kChunkWait = 700;  // for memory, and for each other

int32_t CeilDiv(int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); }

bool ReadsPixelsAlone(const tfc_shape& s) {
  return s.kernel_height == 1 && s.kernel_width == 1 && s.stride_height == 1 && s.stride_width == 1 &&
         std::max({s.pad_top, s.pad_bottom, s.pad_left, s.pad_right}) == 0;
}

// Positions are ordered by stretch of columns, in which positions are one stride apart, then row, then column.
struct Tile {
  Axis down, across;
  std::vector<int32_t> stretches;  // where they begin along `across`
  int32_t rows, columns, row_pitch;
  int64_t positions, plane_floats;

  int64_t StretchPositions() const { return static_cast<int64_t>(down.source.size()) * row_pitch; }

  // What a tap adds to the position of an output.
  int64_t TapOffset(int32_t row, int32_t column) const {
    const int32_t at = across.taps[column];
    const auto stretch = std::upper_bound(stretches.begin(), stretches.end(), at) - stretches.begin() - 1;
    return stretch * StretchPositions() + int64_t{down.taps[row]} * row_pitch + at - stretches[stretch];
  }
};

// The tile of so many columns that has `sums` positions from its first output to its last.
Tile MakeTile(const tfc_shape& shape, OutputSize size, int32_t columns, int32_t sums) {
  Tile t;
  t.columns = columns;
  t.across = MakeAxis(columns, shape.kernel_width, shape.stride_width, shape.dilation_width);
  const std::vector<int32_t>& source = t.across.source;
  const auto end = static_cast<int32_t>(source.size());
  for (int32_t i = 0; i < end; ++i) {
    if (i == 0 || int64_t{source[i]} - source[i - 1] != shape.stride_width) t.stretches.push_back(i);
  }
  t.row_pitch = 0;
  for (size_t i = 0; i < t.stretches.size(); ++i) {
    t.row_pitch = std::max(t.row_pitch, (i + 1 < t.stretches.size() ? t.stretches[i + 1] : end) - t.stretches[i]);
  }
  t.rows = std::min(size.height, (sums - columns) / t.row_pitch + 1);
  t.down = MakeAxis(t.rows, shape.kernel_height, shape.stride_height, shape.dilation_height);
  t.positions = static_cast<int64_t>(t.stretches.size()) * t.StretchPositions();
  int64_t last = 0;
  for (int32_t r = 0; r < shape.kernel_height; ++r) {
    for (int32_t c = 0; c < shape.kernel_width; ++c) last = std::max(last, t.TapOffset(r, c));
  }
  t.plane_floats = std::max(t.positions, last + sums) | 1;  // odd: see block.h
  return t;
}

// A kernel, a tile and a number of warps, with what follows from them.
struct Choice {
  const Kernel* kernel;
  int32_t warps, stage_planes;
  Tile tile;

  int32_t Slots() const { return warps * kernel->bundle; }
  int64_t TableBytes() const { return 8 * std::max<int64_t>(tile.positions, kernel->Sums()); }
  int64_t SharedBytes() const {
    const int64_t sums = int64_t{Slots()} * (kernel->Sums() + 1);
    return TableBytes() + 4 * std::max(2 * stage_planes * tile.plane_floats, sums);
  }
};

// What is to do, and how much of it there is.
struct Task {
  const tfc_shape& shape;
  OutputSize size;
  int64_t images;
  int32_t channels;  // that any weight reads
  const Device& device;
};

// Columns of all bundles. Indices are ordered by channel and tap, and then by filter.
int64_t CountColumns(const tfc_shape& shape, const tfc_weights& weights, int32_t bundle) {
  const int64_t bundles = CeilDiv(shape.filters, bundle);
  int64_t columns = 0, before = -1;
  for (int64_t i = 0; i < weights.count; ++i) {
    const int32_t index = weights.indices[i];
    const int64_t column = index / shape.filters * bundles + index % shape.filters / bundle;
    columns += column != before;
    before = column;
  }
  return columns;
}

// Cycles for a batch. Either what a multiprocessor can do in a cycle bounds it, or what a warp waits for. The
// bandwidth of the device's memory is left out: it is about the same for every choice.
double Cycles(const Choice& choice, int64_t columns, const Task& task) {
  const double bundle = choice.kernel->bundle, pixels = choice.kernel->pixels;
  const tfc_shape& s = task.shape;
  const int64_t filter_blocks = CeilDiv(s.filters, choice.Slots());
  const int64_t tiles = task.images * CeilDiv(task.size.height, choice.tile.rows) *
                        CeilDiv(task.size.width, choice.tile.columns);
  const int64_t groups = std::min<int64_t>(s.groups, CeilDiv(choice.Slots(), s.filters / s.groups) + 1);
  const int32_t planes = static_cast<int32_t>(std::min<int64_t>(task.channels, groups * (s.channels / s.groups)));
  const int32_t chunks = CeilDiv(planes, choice.stage_planes);
  const double padding = (kQuad - 1) / 2.0 * chunks * choice.warps;
  const double own = static_cast<double>(columns) / static_cast<double>(filter_blocks) + padding;

  const double weights = (1 + bundle) / kQuad;
  const double copied = kPerCopied * planes * CeilDiv(choice.tile.positions, kWarp);
  const double written = kPerCopied * choice.Slots() * pixels;
  const double loaded = copied + own * (pixels + weights) + written;
  const double multiplied = own * bundle * pixels / task.device.multipliers;
  const double issued = (copied + own * (pixels + bundle * pixels + weights + kPerColumn)) / kIssued;
  const double busy = std::max({loaded, multiplied, issued});
  const double waited = own / choice.warps * std::max(kColumnWait, bundle * pixels + pixels + kPerColumn) +
                        kChunkWait * (chunks + 2);

  const int32_t threads = choice.warps * kWarp;
  const auto registers = static_cast<int32_t>(40 + bundle * pixels + 2 * kQuad * (bundle + 1));
  const int64_t resident = std::max<int64_t>(
      1, std::min<int64_t>({task.device.processor_bytes / choice.SharedBytes(), kProcessorThreads / threads,
                            kProcessorRegisters / (threads * registers)}));
  const int64_t blocks = tiles * filter_blocks, processors = task.device.multiprocessors;
  return std::max(busy * CeilDiv(blocks, processors), waited * CeilDiv(blocks, processors * resident));
}

// Tile widths worth a try: the output in 1, 2, 3, ... parts, as far as they fit.
std::vector<int32_t> Widths(const Task& task, bool alone, int32_t sums) {
  if (alone) return {sums};
  std::vector<int32_t> widths;
  const int32_t parts = CeilDiv(task.size.width, sums);
  for (int32_t i = 0; i < kTileWidths; ++i) {
    const int32_t width = CeilDiv(task.size.width, parts + i);
    if (widths.empty() || width < widths.back()) widths.push_back(width);
  }
  return widths;
}

// The best that fits; `warps` is 0 if there is none.
Choice Choose(const Task& task, const tfc_weights& weights, bool alone, const char* name) {
  Choice best{};
  double least = std::numeric_limits<double>::infinity();
  for (const Kernel& kernel : kKernels) {
    if (name != nullptr && std::strcmp(name, kernel.name) != 0) continue;
    const int64_t columns = CountColumns(task.shape, weights, kernel.bundle);
    for (const int32_t width : Widths(task, alone, kernel.Sums())) {
      Choice choice = {&kernel, 0, 0, MakeTile(task.shape, task.size, width, kernel.Sums())};
      const int64_t fitting = kStageBytes / 4 / choice.tile.plane_floats;
      choice.stage_planes = static_cast<int32_t>(std::clamp<int64_t>(fitting, 1, 1 << kMostPlaneBits));
      for (const int32_t warps : kWarpCounts) {
        choice.warps = warps;
        if (choice.SharedBytes() > task.device.block_bytes) continue;
        const double cycles = Cycles(choice, columns, task);
        if (cycles >= least) continue;
        least = cycles;
        best = choice;
      }
    }
  }
  return best;
}

// A weight, and where the kernel meets it.
struct Entry {
  int32_t cell;  // chunk and warp
  int32_t offset, filter;  // in the stage; in the bundle
  int32_t origin;

  bool SameColumn(const Entry& other) const { return cell == other.cell && offset == other.offset; }
  bool operator<(const Entry& other) const {
    return std::tie(cell, offset, filter) < std::tie(other.cell, other.offset, other.filter);
  }
};

// A weight of one channel, before channels have planes.
struct Read {
  int32_t filter_block, channel, weight;

  bool operator<(const Read& other) const {
    return std::tie(filter_block, channel, weight) < std::tie(other.filter_block, other.channel, other.weight);
  }
};

std::vector<Read> Reads(const tfc_shape& s, const tfc_weights& weights, int32_t slots) {
  std::vector<Read> reads;
  reads.reserve(weights.count);
  const int32_t depth = s.channels / s.groups;
  for (int64_t i = 0; i < weights.count; ++i) {
    const int32_t filter = weights.indices[i] % s.filters;
    const int32_t channel = filter / (s.filters / s.groups) * depth + weights.indices[i] / s.filters % depth;
    reads.push_back({filter / slots, channel, static_cast<int32_t>(i)});
  }
  std::sort(reads.begin(), reads.end());
  return reads;
}

int32_t PlaneBits(int32_t planes) {
  int32_t bits = 0;
  while (1 << bits < planes) ++bits;
  return bits;
}

// Gives planes to the channels that each block of filters reads, and returns the weights with their places.
std::vector<Entry> AssignPlanes(const tfc_shape& s, const tfc_weights& weights, const Choice& choice,
                                Layout* layout) {
  std::vector<Entry> entries;
  entries.reserve(weights.count);
  const int32_t bundle = choice.kernel->bundle, depth = s.channels / s.groups;
  const auto plane_floats = static_cast<int32_t>(choice.tile.plane_floats);
  std::vector<int32_t> tap_offsets;
  for (int32_t r = 0; r < s.kernel_height; ++r) {
    for (int32_t c = 0; c < s.kernel_width; ++c) {
      tap_offsets.push_back(static_cast<int32_t>(choice.tile.TapOffset(r, c)));
    }
  }
  const auto begin_blocks = [&](int32_t upto) {  // also those that read nothing
    while (static_cast<int32_t>(layout->first_chunks.size()) <= upto) {
      layout->first_chunks.push_back(static_cast<int32_t>(layout->chunks.size()));
    }
  };
  int32_t filter_block = -1, channel = -1;
  for (const Read& read : Reads(s, weights, choice.Slots())) {
    const bool other_block = read.filter_block != filter_block;
    if (other_block) begin_blocks(read.filter_block);
    if (other_block || read.channel != channel) {
      if (other_block || layout->chunks.back().planes == choice.stage_planes) {
        layout->chunks.push_back({static_cast<int32_t>(layout->planes.size()), 0, 0});
      }
      layout->planes.push_back(read.channel);
      Chunk& chunk = layout->chunks.back();
      chunk.plane_bits = PlaneBits(++chunk.planes);
    }
    filter_block = read.filter_block;
    channel = read.channel;
    const int32_t index = weights.indices[read.weight], slot = index % s.filters % choice.Slots();
    const auto chunk = static_cast<int32_t>(layout->chunks.size() - 1);
    const int32_t stage_offset = (layout->chunks.back().planes - 1) * plane_floats;
    entries.push_back({chunk * choice.warps + slot / bundle, stage_offset + tap_offsets[index / s.filters / depth],
                       slot % bundle, read.weight});
  }
  begin_blocks(layout->job.filter_blocks);
  std::sort(entries.begin(), entries.end());
  return entries;
}

// The weights of each cell in quads of columns. The last quad is filled up with its last column, times 0.
void FillQuads(const std::vector<Entry>& entries, const Choice& choice, Layout* layout) {
  const int32_t bundle = choice.kernel->bundle;
  const auto cells = static_cast<int32_t>(layout->chunks.size()) * choice.warps;
  size_t at = 0;
  for (int32_t cell = 0; cell < cells; ++cell) {
    layout->first_quads.push_back(static_cast<int32_t>(layout->offsets.size() / kQuad));
    int32_t column = 0;
    for (; at < entries.size() && entries[at].cell == cell; ++column) {
      if (column % kQuad == 0) layout->origins.resize(layout->origins.size() + kQuad * bundle, -1);
      int32_t* quad = layout->origins.data() + layout->origins.size() - kQuad * bundle;
      const Entry& first = entries[at];
      layout->offsets.push_back(first.offset);
      for (; at < entries.size() && entries[at].SameColumn(first); ++at) {
        quad[entries[at].filter * kQuad + column % kQuad] = entries[at].origin;
      }
    }
    for (; column % kQuad != 0; ++column) layout->offsets.push_back(layout->offsets.back());
  }
  layout->first_quads.push_back(static_cast<int32_t>(layout->offsets.size() / kQuad));
}

void FillSources(const tfc_shape& shape, const Tile& tile, Layout* layout) {
  for (const int32_t stretch : tile.stretches) {
    for (const int32_t y : tile.down.source) {
      for (int32_t column = 0; column < tile.row_pitch; ++column) {
        layout->sources.push_back({y, tile.across.source[stretch] + column * shape.stride_width});
      }
    }
  }
}

Job MakeJob(const tfc_shape& s, OutputSize size, Range range, const Choice& choice) {
  Job job{};
  job.height = s.height;
  job.width = s.width;
  job.out_height = size.height;
  job.out_width = size.width;
  job.channels = s.channels;
  job.filters = s.filters;
  job.stride_height = s.stride_height;
  job.stride_width = s.stride_width;
  job.pad_top = s.pad_top;
  job.pad_left = s.pad_left;
  job.low = range.low;
  job.high = range.high;
  job.tile_rows = choice.tile.rows;
  job.tile_columns = choice.tile.columns;
  job.row_pitch = choice.tile.row_pitch;
  job.positions = static_cast<int32_t>(choice.tile.positions);
  job.plane_floats = static_cast<int32_t>(choice.tile.plane_floats);
  job.stage_floats = choice.stage_planes * job.plane_floats;
  job.filter_blocks = CeilDiv(s.filters, choice.Slots());
  job.warps = choice.warps;
  return job;
}

bool Known(const char* kernel) {
  const auto named = [=](const Kernel& one) { return std::strcmp(one.name, kernel) == 0; };
  return kernel == nullptr || std::any_of(std::begin(kKernels), std::end(kKernels), named);
}

// Whether places in the input, counted from a tile's first, fit in 32 bits, and the taps in shared memory, where
// each has a float of its own.
bool Addressable(const tfc_shape& s, OutputSize size, const Device& device) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const auto reach = [](int64_t kernel, int64_t dilation, int64_t outputs, int64_t stride) {
    return 2 * kernel * dilation + (outputs + kernel) * stride;
  };
  return reach(s.kernel_height, s.dilation_height, size.height, s.stride_height) < kMost &&
         reach(s.kernel_width, s.dilation_width, size.width, s.stride_width) < kMost &&
         int64_t{s.kernel_height} * s.kernel_width * 4 < device.block_bytes;
}

}  // namespace

int32_t Layout::TableEntries() const { return std::max(job.positions, kKernels[kernel].Sums()); }

Job Layout::JobOf(const float* input, float* output, int32_t batch) const {
  Job made = job;
  made.input = input;
  made.output = output;
  if (alone) {
    made.width = made.out_width = job.height * job.width * batch;
    made.height = made.out_height = 1;
  }
  made.tiles_down = (made.out_height + job.tile_rows - 1) / job.tile_rows;
  made.tiles_across = (made.out_width + job.tile_columns - 1) / job.tile_columns;
  return made;
}

tfc_status CheckArguments(const tfc_shape& shape, const tfc_weights& weights, const float* bias,
                          tfc_activation activation, const char* kernel, int32_t batch) {
  OutputSize size;
  Range range;
  if (batch < 1 || !Known(kernel)) return TFC_BAD_ARGUMENT;
  if (const auto status = CheckShape(shape, &size)) return status;
  if (const auto status = CheckIndices(shape, weights)) return status;
  if (const auto status = CheckActivation(activation, &range)) return status;
  if (const auto status = CheckFinite(weights.values, weights.count)) return status;
  return bias == nullptr ? TFC_OK : CheckFinite(bias, shape.filters);
}

tfc_status MakeLayout(const tfc_shape& shape, const tfc_weights& weights, tfc_activation activation,
                      const char* kernel, int32_t batch, const Device& device, Layout* layout) {
  OutputSize size;
  Range range;
  if (const auto status = CheckShape(shape, &size)) return status;
  if (const auto status = CheckActivation(activation, &range)) return status;
  if (!Addressable(shape, size, device)) return TFC_TOO_LARGE;
  layout->alone = ReadsPixelsAlone(shape);
  std::vector<bool> read(shape.channels / shape.groups);
  for (int64_t i = 0; i < weights.count; ++i) read[weights.indices[i] / shape.filters % read.size()] = true;
  const auto channels = static_cast<int32_t>(std::count(read.begin(), read.end(), true)) * shape.groups;
  // Alone, pixels of all images follow each other; how far, only the cost wants to know.
  const int64_t pixels = std::min<int64_t>(int64_t{size.height} * size.width * batch, 1 << 30);
  const OutputSize spread = layout->alone ? OutputSize{1, static_cast<int32_t>(pixels)} : size;
  const Task task = {shape, spread, layout->Images(batch), channels, device};
  const Choice choice = Choose(task, weights, layout->alone, kernel);
  if (choice.warps == 0) return TFC_TOO_LARGE;
  layout->kernel = static_cast<int32_t>(choice.kernel - kKernels);
  layout->shared_bytes = static_cast<int32_t>(choice.SharedBytes());
  layout->job = MakeJob(shape, size, range, choice);
  FillSources(shape, choice.tile, layout);
  FillQuads(AssignPlanes(shape, weights, choice, layout), choice, layout);
  return TFC_OK;
}

}  // namespace tfc::cuda
