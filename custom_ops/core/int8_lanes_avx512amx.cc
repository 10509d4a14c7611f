// The int8 kernel whose lanes are parts of the map, with AMX. What AMX calls tiles are squares here: 16 rows of a
// cache line. One has a vector of the sums of 16 filters, one 16 words of their weights, and one the 16 lines of
// the map that these go with.
#include "kernel.h"

#if defined(__AMX_INT8__) && defined(__linux__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "int8_avx512vnni.h"
#include "vector_avx512.h"

namespace tfc {
namespace {

constexpr int kRegisters = 6;  // squares of sums
constexpr ptrdiff_t kLineBytes = kLanes * kWordBytes;
constexpr ptrdiff_t kSquareBytes = kLanes * kLineBytes;

inline Vector Prepared(Vector v) { return v; }

#include "int8_add.inl"
#include "pack.inl"

void Gather(const GatherJob&) {}  // maps in tiles are in float32

// The sums of 16 neighbouring planes become outputs, and the 16 of each lane go to its pixel, from that channel
// on. Bytes are transposed, not sums: a quarter of them.
inline void ScaleSquare(const float* from, ptrdiff_t plane_words, const Requantization& by, void* const* pixels,
                        ptrdiff_t channel) {
  // In quarters of four lanes: from four bytes of each of four filters to those of each lane.
  const __m512i order =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m512i words[4];  // of lanes, of four filters each
  for (int w = 0; w < 4; ++w) {
    const float *sums = from + 4 * w * plane_words, *scales = by.scales + 4 * w;
    __m512i filters[4];
    for (int f = 0; f < 4; ++f) {
      filters[f] = Scaled(_mm512_loadu_si512(sums + f * plane_words), _mm512_set1_ps(scales[f]), by);
    }
    words[w] = _mm512_shuffle_epi8(Bytes(filters[0], filters[1], filters[2], filters[3], by), order);
  }
  const __m512i a = _mm512_unpacklo_epi32(words[0], words[1]), b = _mm512_unpackhi_epi32(words[0], words[1]),
                c = _mm512_unpacklo_epi32(words[2], words[3]), d = _mm512_unpackhi_epi32(words[2], words[3]);
  const __m512i lanes[4] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d),
                            _mm512_unpackhi_epi64(b, d)};
  const auto to = [&](int lane) {
    return reinterpret_cast<__m128i*>(static_cast<int8_t*>(pixels[lane]) + channel);
  };
  for (int i = 0; i < 4; ++i) {  // of each quarter
    _mm_storeu_si128(to(i), _mm512_castsi512_si128(lanes[i]));
    _mm_storeu_si128(to(4 + i), _mm512_extracti32x4_epi32(lanes[i], 1));
    _mm_storeu_si128(to(8 + i), _mm512_extracti32x4_epi32(lanes[i], 2));
    _mm_storeu_si128(to(12 + i), _mm512_extracti32x4_epi32(lanes[i], 3));
  }
}

// Where the outputs of 16 lanes go, and what is added to them.
struct Outputs {
  void* const* pixels;
  const float* const* residuals;
};

// Of some planes, 16 at most; there is memory for 16.
void UnpackSquare(const float* from, ptrdiff_t plane_words, int32_t count, const Requantization& by,
                  const Outputs& to, ptrdiff_t channel) {
  if (count == kLanes) {
    ScaleSquare(from, plane_words, by, to.pixels, channel);
  } else {
    int8_t all[kLanes][kLanes];
    void* rows[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) rows[lane] = all[lane];
    ScaleSquare(from, plane_words, by, rows, 0);
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int32_t c = 0; c < count; ++c) static_cast<int8_t*>(to.pixels[lane])[channel + c] = all[lane][c];
    }
  }
  if (to.residuals == nullptr) return;
  const Addition addition = by.addition;
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* residual = reinterpret_cast<const int8_t*>(to.residuals[lane]);
    AddResidual(static_cast<int8_t*>(to.pixels[lane]) + channel, residual + channel, count, addition);
  }
}

// The compiler's own functions do not say that they read memory. Of eight squares the last but one has weights,
// and the last lines of the map.
#define TFC_LOAD(square, from, row_bytes) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #square::"r"(from), "r"(ptrdiff_t{row_bytes}) : "memory")
#define TFC_STORE(square, to, row_bytes) \
  __asm__ volatile("tilestored %%tmm" #square ", (%0,%1,1)" ::"r"(to), "r"(ptrdiff_t{row_bytes}) : "memory")
#define TFC_MULTIPLY(square) __asm__ volatile("tdpbssd %%tmm7, %%tmm6, %%tmm" #square::)

// Does it for squares 0 to `count` - 1, whose numbers a compiler must know.
#define TFC_EACH(DO, count)       \
  if constexpr (count > 0) DO(0); \
  if constexpr (count > 1) DO(1); \
  if constexpr (count > 2) DO(2); \
  if constexpr (count > 3) DO(3); \
  if constexpr (count > 4) DO(4); \
  if constexpr (count > 5) DO(5)

struct Config {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(Config) == 64, "as the processor reads it");

// The weights of 16 filters, and what their sums begin with: in the first vector, and from one to the next, and
// from one filter to the next.
struct Group {
  const int32_t* counts;
  const uint16_t* lines;
  const char* values;
  const char* begin;
  ptrdiff_t begin_vector_bytes, begin_filter_bytes;
};

// Some vectors of a tile; `to` gets a square for each.
template <int count>
void RunVectors(const TileJob& job, const Group& group, const char* const* from, int first, char* to,
                ptrdiff_t vector_bytes, ptrdiff_t filter_bytes) {
#define TFC_BEGIN(v) TFC_LOAD(v, group.begin + (first + v) * group.begin_vector_bytes, group.begin_filter_bytes)
  TFC_EACH(TFC_BEGIN, count);
  const char* values = group.values;
  const uint16_t* lines = group.lines;
  for (int32_t i = 0; i < group.counts[0]; ++i, values += kSquareBytes) {
    const ptrdiff_t offset = *lines++ * kLineBytes;
    TFC_LOAD(6, values, kLineBytes);
#define TFC_PLANES(v)                               \
  {                                                 \
    TFC_LOAD(7, from[v] + offset, job.plane_bytes); \
    TFC_MULTIPLY(v);                                \
  }
    TFC_EACH(TFC_PLANES, count)
  }
  // Two copies, so that one is filled while the other is still read. What an earlier line left in the last is
  // multiplied by zeros.
  alignas(64) char copies[2][count][kSquareBytes];
  int which = 0;
  for (int32_t left = group.counts[1]; left > 0; left -= kLanes, values += kSquareBytes, which = 1 - which) {
    auto& copy = copies[which];
    const int rows = left < kLanes ? left : kLanes;
    for (int row = 0; row < rows; ++row) {
      const ptrdiff_t offset = *lines++ * kLineBytes;
      for (int v = 0; v < count; ++v) {
        _mm512_store_si512(copy[v] + row * kLineBytes, _mm512_loadu_si512(from[v] + offset));
      }
    }
    TFC_LOAD(6, values, kLineBytes);
#define TFC_COPY(v)                   \
  {                                   \
    TFC_LOAD(7, copy[v], kLineBytes); \
    TFC_MULTIPLY(v);                  \
  }
    TFC_EACH(TFC_COPY, count)
  }
#define TFC_END(v) TFC_STORE(v, to + v * vector_bytes, filter_bytes)
  TFC_EACH(TFC_END, count);
}

constexpr decltype(&RunVectors<1>) kRunVectors[] = {nullptr,       RunVectors<1>, RunVectors<2>, RunVectors<3>,
                                                    RunVectors<4>, RunVectors<5>, RunVectors<6>};

// Some groups of filters, for which weights are in the nearest cache, for some vectors at a time: those of
// neighbouring filters write to the same lines.
struct Groups {
  Group group[4];
  int32_t slot[4];
  int count;
};

// Last sums go no further than the nearest cache.
void RunGroups(const TileJob& job, const Groups& groups, const char* const* from, int vectors) {
  alignas(64) float squares[kRegisters][kLanes * kLanes];
  const ptrdiff_t filter_bytes = vectors * kLineBytes;
  for (int first = 0, left = vectors; left > 0;) {
    const int passes = (left + kRegisters - 1) / kRegisters, count = (left + passes - 1) / passes;
    for (int g = 0; g < groups.count; ++g) {
      const int32_t slot = groups.slot[g];
      if (!job.last) {
        char* to = static_cast<char*>(job.sums) + slot * filter_bytes + first * kLineBytes;
        kRunVectors[count](job, groups.group[g], from + first, first, to, kLineBytes, filter_bytes);
        continue;
      }
      auto* to = reinterpret_cast<char*>(squares);
      kRunVectors[count](job, groups.group[g], from + first, first, to, kSquareBytes, kLineBytes);
      Requantization by = job.requantization;
      by.scales += slot;
      const int32_t filter = job.first_filter + slot, filters = job.end_filter - filter;
      for (int v = 0; v < count; ++v) {
        const ptrdiff_t lane = ptrdiff_t{first + v} * kLanes;
        UnpackSquare(squares[v], kLanes, filters < kLanes ? filters : kLanes, by,
                     {job.pixels + lane, job.residuals == nullptr ? nullptr : job.residuals + lane}, filter);
      }
    }
    first += count;
    left -= count;
  }
}

template <int rows, int columns>
void RunTile(const TileJob& job) {
  constexpr int kVectors = rows * columns;
  constexpr ptrdiff_t kFilterBytes = kVectors * kLineBytes, kNearBytes = 12 * 1024;
  const char* from[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    from[v] = static_cast<const char*>(job.input) + v / columns * job.row_bytes + v % columns * kLineBytes;
  }
  alignas(64) int32_t biases[4][kLanes][kLanes];
  const int32_t* counts = job.counts;
  const uint16_t* lines = job.lines;
  const auto* values = static_cast<const char*>(job.values);
  Groups groups;
  for (int32_t filter = 0; filter < job.filters;) {
    groups.count = 0;
    const char* near_end = values + kNearBytes;
    do {
      const int32_t slot = job.slots[filter / kLanes];
      Group& group = groups.group[groups.count];
      group = {counts, lines, values, nullptr, 0, kLineBytes};
      if (job.begin != nullptr) {
        group.begin = static_cast<const char*>(job.begin) + slot * kFilterBytes;
        group.begin_vector_bytes = kLineBytes;
        group.begin_filter_bytes = kFilterBytes;
      } else {
        const auto* bias = static_cast<const int32_t*>(job.bias) + slot;
        auto& rows_of_bias = biases[groups.count];
        for (int f = 0; f < kLanes; ++f) _mm512_store_si512(rows_of_bias[f], _mm512_set1_epi32(bias[f]));
        group.begin = reinterpret_cast<const char*>(rows_of_bias);
      }
      groups.slot[groups.count++] = slot;
      lines += counts[0] + counts[1];
      values += (counts[0] + (counts[1] + kLanes - 1) / kLanes) * kSquareBytes;
      counts += 2;
      filter += kLanes;
    } while (filter < job.filters && groups.count < 4 && values < near_end);
    RunGroups(job, groups, from, kVectors);
  }
}

void Enter() {
  const Config config;
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

void Leave() { __asm__ volatile("tilerelease" ::); }

float Multiply(int32_t times) {
  alignas(64) static constexpr char ones[kSquareBytes] = {1};
  alignas(64) int32_t sums[kLanes][kLanes] = {};
  Enter();
#define TFC_ZERO(v) TFC_LOAD(v, sums, kLineBytes)
  TFC_EACH(TFC_ZERO, kRegisters);
  TFC_LOAD(6, ones, kLineBytes);
  TFC_LOAD(7, ones, kLineBytes);
  for (int32_t i = 0; i < times; ++i) {
    TFC_EACH(TFC_MULTIPLY, kRegisters);
  }
  TFC_STORE(0, sums, kLineBytes);
  Leave();
  return static_cast<float>(sums[0][0]);
}

// Linux lets a process use these registers when it has asked for them.
bool AmxSupported() {
  constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25;  // of edx
  constexpr long kAsk = 0x1023, kTileData = 18;
  unsigned a, b, c, d;
  if (!Int8Supported() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (d & kTiles) != 0 && (d & kInt8) != 0 && syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
}

constexpr Tile kTiles[] = {
    {1, 1, RunTile<1, 1>},   {1, 2, RunTile<1, 2>},   {1, 3, RunTile<1, 3>},   {1, 4, RunTile<1, 4>},
    {1, 5, RunTile<1, 5>},   {1, 6, RunTile<1, 6>},   {1, 7, RunTile<1, 7>},   {1, 8, RunTile<1, 8>},
    {1, 10, RunTile<1, 10>}, {1, 12, RunTile<1, 12>}, {1, 14, RunTile<1, 14>}, {2, 1, RunTile<2, 1>},
    {2, 2, RunTile<2, 2>},   {2, 3, RunTile<2, 3>},   {2, 4, RunTile<2, 4>},   {2, 7, RunTile<2, 7>},
    {3, 2, RunTile<3, 2>},   {3, 3, RunTile<3, 3>},   {3, 4, RunTile<3, 4>},   {4, 1, RunTile<4, 1>},
    {4, 2, RunTile<4, 2>},   {4, 3, RunTile<4, 3>},   {4, 4, RunTile<4, 4>},   {4, 7, RunTile<4, 7>},
    {7, 1, RunTile<7, 1>},   {7, 2, RunTile<7, 2>},   {7, 4, RunTile<7, 4>},   {7, 7, RunTile<7, 7>},
};

constexpr LaneKernel kLaneKernel = {kTiles, sizeof(kTiles) / sizeof(Tile), kLanes, 1, Pack, Gather, nullptr, Enter,
                                    Leave};

}  // namespace

// A square is multiplied in as many steps as it has rows, of 16 vectors each.
const Kernel kInt8LanesAvx512Amx = {
    "int8_lanes_avx512amx", AmxSupported, kRegisters* kLanes* kLanes, Multiply, &kLaneKernel, nullptr, 0};

}  // namespace tfc

#else

namespace tfc {
const Kernel kInt8LanesAvx512Amx = {"int8_lanes_avx512amx", nullptr, 0, nullptr, nullptr, nullptr, 0};
}

#endif
