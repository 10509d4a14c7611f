// What a block of threads does: the whole kernel, but for its launch.
//
// It is written for the device and for the host alike. A *team* runs a piece of work for every thread (Each),
// waits at barriers (Meet) and copies in the background (Copy, Commit; Arrive ends all but the last so many
// commits). That of the device is in kernels.cu; that of the tests runs the same code for one thread after the
// other.
//
// How it computes
//   A block has one *tile* of output pixels and `warps * bundle` filters. It copies the input of the tile into
//   shared memory, some channels at a time, as *planes*: [channel][position]. A lane owns `pixels` outputs, at
//   the positions lane, lane + 32, ...; a warp owns a *bundle* of 1 to 8 filters and keeps their sums in
//   registers. For each *column* (a channel and a tap that some filter of the bundle has a weight for) a lane
//   loads its pixels once, multiplies each by the weights of all filters of the bundle, and goes on. Filters
//   without a weight there multiply by 0.
//
// Why so
//   * An output at position q reads q + offset, where the offset depends on the channel and the tap only. To
//     that end positions run through the tile's rows without regard to where rows end; sums in the halo's width
//     are computed in vain. In return a weight costs one addition, and all other offsets are constants.
//   * 32 lanes load 32 neighbouring floats: no bank conflict at any offset, so that taps need no alignment.
//     Stride and dilation are in the order of the positions (tfc::MakeAxis), and never in the loop.
//   * NHWC input is contiguous along channels, so lanes copy along channels, 128 bytes a warp, and a plane has
//     an odd number of floats: 32 channels of a position fall into 32 banks. The copies are asynchronous and go
//     to one of two stages, while the other is computed on. Output takes the same way back: sums go into
//     shared memory along positions, and out along filters.
//   * Weights are the same for a warp: 16-byte loads of one address, through the first-level cache, one quad of
//     columns ahead. They need no shared memory, so that any number of them fits.
//
// What to expect
//   In a cycle a multiprocessor loads one vector of 32 floats from shared memory, and multiplies and adds 2
//   (sm_80) or 4 (sm_90). One filter alone thus reaches a half or a quarter of the float32 peak at most: 9.7
//   TFLOP/s on A100, 16.7 on H100 SXM. Weights take the same path: 2 loads for the quad of a single filter, 5 for
//   that of a bundle of 4, beside 4 per pixel of a lane. A bundle of B filters at sparsity s has 1 - s^B columns:
//   a bundle of 4 needs 0.86 of the loads of 4 single filters at 90 %, 0.74 at 80 %, 0.47 at 50 %, and 0.25 where
//   weights are in blocks of 4 filters. Zeros cost nothing while it waits for loads. Bounds with 8 pixels a lane
//   and unstructured weights, in TFLOP/s of the dense convolution:
//                       80 %   90 %   95 %   float32 peak   TF32 tensor cores, peak
//     A100                50     92    183           19.5                       156
//     H100 SXM            87    160    314             67                       495
//   So it can beat dense float32, and TF32 at extreme sparsity only. At batch 1 there are few blocks, and what a
//   warp waits for is the bound. Halos, copies and the traffic of maps come on top: what layout.cc expects of 14
//   convolutions of ResNet-50, each once, the bandwidth of memory left out, is 56 on A100 and 91 on H100 at 90 %
//   and batch 256, 22 and 32 at batch 1. All this is worked out from data sheets. Nothing was measured: there was
//   no GPU.
#ifndef TFCOMPRESS_CUDA_BLOCK_H_
#define TFCOMPRESS_CUDA_BLOCK_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define TFC_ANYWHERE __host__ __device__ __forceinline__
#define TFC_UNROLL _Pragma("unroll")
#else
#define TFC_ANYWHERE inline
#define TFC_UNROLL
#endif

namespace tfc::cuda {

constexpr int kWarp = 32;
constexpr int kQuad = 4;  // columns whose weights are loaded together
constexpr int kMostWarps = 16;

// Every kernel there is: filters of a bundle, pixels of a lane. More of both together need too many registers.
#define TFC_CUDA_KERNELS(X)       \
  X(1, 1) X(1, 2) X(1, 4) X(1, 8) \
  X(2, 1) X(2, 2) X(2, 4) X(2, 8) \
  X(4, 1) X(4, 2) X(4, 4) X(4, 8) \
  X(8, 1) X(8, 2) X(8, 4)

struct Offset {
  int32_t y, x;
};

// Planes that are in a stage at a time.
struct Chunk {
  int32_t first_plane, planes;
  int32_t plane_bits;  // of a thread's number that say which plane it copies to
};

// A convolution, as plain data for the device.
struct Job {
  const float* input;  // (images, height, width, channels)
  float* output;       // (images, out_height, out_width, filters)
  const float* bias;   // (filters,) or NULL
  int64_t height, width, out_height, out_width;
  int32_t channels, filters;
  int32_t stride_height, stride_width, pad_top, pad_left;
  float low, high;

  int64_t tiles_down, tiles_across;  // of an image
  int32_t tile_rows, tile_columns;
  int32_t row_pitch;  // positions from one row of the tile to the next
  int32_t positions, plane_floats, stage_floats;
  int32_t filter_blocks, warps;

  const Offset* sources;        // by position of a plane: where it is in the input, from the tile's first
  const int32_t* planes;        // the channel that a plane holds
  const int32_t* first_chunks;  // by block of filters; one more ends the last
  const Chunk* chunks;
  const int32_t* first_quads;  // by chunk and warp; one more ends the last
  const int32_t* offsets;      // (quads, 4) in floats, from the stage's begin
  const float* values;         // (quads, bundle, 4)

  TFC_ANYWHERE int64_t Blocks(int64_t images) const { return images * tiles_down * tiles_across * filter_blocks; }
};

// Where a block is: its first output, and its filters. Blocks of one tile follow each other, for the cache's sake.
struct Place {
  int64_t image, row, column;
  int32_t filter_block;
};

TFC_ANYWHERE Place PlaceOf(const Job& job, int64_t block) {
  const int64_t tile = block / job.filter_blocks, row = tile / job.tiles_across;
  return {row / job.tiles_down, row % job.tiles_down * job.tile_rows, tile % job.tiles_across * job.tile_columns,
          static_cast<int32_t>(block % job.filter_blocks)};
}

// The pixel of the input that each position of a plane holds, or -1 off the map.
TFC_ANYWHERE void FindInputs(const Job& job, const Place& place, int thread, int threads, int64_t* pixels) {
  const int64_t top = place.row * job.stride_height - job.pad_top;
  const int64_t left = place.column * job.stride_width - job.pad_left;
  for (int32_t i = thread; i < job.positions; i += threads) {
    const int64_t y = top + job.sources[i].y, x = left + job.sources[i].x;
    const bool on = y >= 0 && y < job.height && x >= 0 && x < job.width;
    pixels[i] = on ? (place.image * job.height + y) * job.width + x : -1;
  }
}

// The pixel of the output that each of the tile's sums is, or -1 off the map.
TFC_ANYWHERE void FindOutputs(const Job& job, const Place& place, int thread, int threads, int32_t sums,
                              int64_t* pixels) {
  for (int32_t i = thread; i < sums; i += threads) {
    const int32_t row = i / job.row_pitch, column = i % job.row_pitch;
    const int64_t y = place.row + row, x = place.column + column;
    const bool on = row < job.tile_rows && column < job.tile_columns && y < job.out_height && x < job.out_width;
    pixels[i] = on ? (place.image * job.out_height + y) * job.out_width + x : -1;
  }
}

template <typename Team>
TFC_ANYWHERE void CopyChunk(const Job& job, const Chunk& chunk, int thread, int threads, const int64_t* pixels,
                            float* stage, Team& team) {
  const int32_t plane = thread & ((1 << chunk.plane_bits) - 1);
  if (plane >= chunk.planes) return;
  const float* from = job.input + job.planes[chunk.first_plane + plane];
  float* to = stage + plane * job.plane_floats;
  for (int32_t i = thread >> chunk.plane_bits; i < job.positions; i += threads >> chunk.plane_bits) {
    const int64_t pixel = pixels[i];
    team.Copy(to + i, pixel < 0 ? job.input : from + pixel * job.channels, pixel >= 0);
  }
}

struct Offsets {
  int32_t at[kQuad];
};
struct Values {
  float at[kQuad];
};

// Four at once, from an address that is aligned to 16 bytes.
TFC_ANYWHERE Offsets LoadOffsets(const int32_t* from) {
#if defined(__CUDA_ARCH__)
  const int4 four = __ldg(reinterpret_cast<const int4*>(from));
  return {{four.x, four.y, four.z, four.w}};
#else
  return {{from[0], from[1], from[2], from[3]}};
#endif
}

TFC_ANYWHERE Values LoadValues(const float* from) {
#if defined(__CUDA_ARCH__)
  const float4 four = __ldg(reinterpret_cast<const float4*>(from));
  return {{four.x, four.y, four.z, four.w}};
#else
  return {{from[0], from[1], from[2], from[3]}};
#endif
}

template <int kBundle>
struct Quad {
  Offsets offsets;
  Values values[kBundle];
};

template <int kBundle>
TFC_ANYWHERE Quad<kBundle> LoadQuad(const Job& job, int64_t quad) {
  Quad<kBundle> loaded;
  loaded.offsets = LoadOffsets(job.offsets + quad * kQuad);
  TFC_UNROLL
  for (int f = 0; f < kBundle; ++f) loaded.values[f] = LoadValues(job.values + (quad * kBundle + f) * kQuad);
  return loaded;
}

template <int kBundle, int kPixels>
TFC_ANYWHERE void AddQuad(const Quad<kBundle>& quad, const float* stage, float (&sums)[kBundle * kPixels]) {
  TFC_UNROLL
  for (int c = 0; c < kQuad; ++c) {
    const float* at = stage + quad.offsets.at[c];
    TFC_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      const float pixel = at[p * kWarp];
      TFC_UNROLL
      for (int f = 0; f < kBundle; ++f) sums[f * kPixels + p] += quad.values[f].at[c] * pixel;
    }
  }
}

template <int kBundle, int kPixels>
TFC_ANYWHERE void AddChunk(const Job& job, int32_t chunk, int thread, const float* stage,
                           float (&sums)[kBundle * kPixels]) {
  const int32_t* bounds = job.first_quads + static_cast<int64_t>(chunk) * job.warps + thread / kWarp;
  const int32_t first = bounds[0], end = bounds[1];
  if (first == end) return;
  const float* lane = stage + thread % kWarp;
  Quad<kBundle> next = LoadQuad<kBundle>(job, first);
  for (int32_t quad = first; quad < end; ++quad) {
    const Quad<kBundle> now = next;
    next = LoadQuad<kBundle>(job, quad + 1 < end ? quad + 1 : quad);
    AddQuad<kBundle, kPixels>(now, lane, sums);
  }
}

// Finished sums, along positions into shared memory: (filters of the block, sums of the tile + 1).
template <int kBundle, int kPixels>
TFC_ANYWHERE void StoreSums(const Job& job, const Place& place, int thread, const float (&sums)[kBundle * kPixels],
                            float* to) {
  const int32_t first = thread / kWarp * kBundle;
  TFC_UNROLL
  for (int f = 0; f < kBundle; ++f) {
    const int64_t filter = int64_t{place.filter_block} * job.warps * kBundle + first + f;
    const float bias = job.bias != nullptr && filter < job.filters ? job.bias[filter] : 0.0f;
    float* row = to + (first + f) * (kPixels * kWarp + 1) + thread % kWarp;
    TFC_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      const float sum = sums[f * kPixels + p] + bias;
      row[p * kWarp] = sum < job.low ? job.low : sum > job.high ? job.high : sum;
    }
  }
}

// From there along filters into the output. A thread stays with one filter.
template <int kBundle, int kPixels>
TFC_ANYWHERE void WriteOutputs(const Job& job, const Place& place, int thread, const int64_t* pixels,
                               const float* from) {
  constexpr int32_t kSums = kPixels * kWarp;
  const int32_t slots = job.warps * kBundle, slot = thread % slots;
  const int64_t filter = int64_t{place.filter_block} * slots + slot;
  if (filter >= job.filters) return;
  for (int32_t i = thread / slots; i < kSums; i += kWarp / kBundle) {
    if (pixels[i] >= 0) job.output[pixels[i] * job.filters + filter] = from[slot * (kSums + 1) + i];
  }
}

// pixels: as many as a plane has positions or the tile sums, whichever are more.
// floats: two stages, or the sums of all filters, whichever are more.
template <int kBundle, int kPixels, typename Team>
TFC_ANYWHERE void RunBlock(const Job& job, int64_t block, int64_t* pixels, float* floats, Team& team) {
  using Sums = float (&)[kBundle * kPixels];
  constexpr int32_t kSums = kPixels * kWarp;
  const Place place = PlaceOf(job, block);
  const int threads = job.warps * kWarp;
  const int32_t first = job.first_chunks[place.filter_block], end = job.first_chunks[place.filter_block + 1];
  const auto stage = [&](int32_t chunk) { return floats + (chunk - first) % 2 * job.stage_floats; };
  const auto copy = [&](int32_t chunk) {
    team.Each([&, chunk](int thread, Sums) {
      CopyChunk(job, job.chunks[chunk], thread, threads, pixels, stage(chunk), team);
    });
    team.Commit();
  };

  team.Each([&](int thread, Sums sums) {
    FindInputs(job, place, thread, threads, pixels);
    for (float& sum : sums) sum = 0;
  });
  team.Meet();
  if (first < end) copy(first);
  for (int32_t chunk = first; chunk < end; ++chunk) {
    const bool more = chunk + 1 < end;
    if (more) copy(chunk + 1);
    more ? team.template Arrive<1>() : team.template Arrive<0>();
    team.Meet();
    team.Each([&, chunk](int thread, Sums sums) {
      AddChunk<kBundle, kPixels>(job, chunk, thread, stage(chunk), sums);
    });
    team.Meet();
  }
  team.Each([&](int thread, Sums sums) {
    FindOutputs(job, place, thread, threads, kSums, pixels);
    StoreSums<kBundle, kPixels>(job, place, thread, sums, floats);
  });
  team.Meet();
  team.Each([&](int thread, Sums) {
    WriteOutputs<kBundle, kPixels>(job, place, thread, pixels, floats);
  });
  team.Meet();
}

// A value of a plan, from those given.
TFC_ANYWHERE float Gather(const int32_t* origins, const float* given, int64_t i) {
  return origins[i] < 0 ? 0.0f : given[origins[i]];
}

}  // namespace tfc::cuda

#endif  // TFCOMPRESS_CUDA_BLOCK_H_
