// The int8 kernels whose lanes are parts of the map, for a backend that has defined what `int8_blocks.inl` tells
// of, vectors of 16 words as `lanes.inl` does, and
//
//   Sums FillSums(int32_t);  Sums AddSums(Sums, Sums);
//   void StoreSums(int32_t*, Sums);
//   Sums DotLanes(Sums sums, Sums line, Word)  each sum and the products of a word of its own and that one
//   Word LoadWord(const void*);                four weights
//
// of each quarter of two vectors, the first or the second halves in turn, one byte or two of each:
//
//   Sums FirstBytes(Sums, Sums);  Sums SecondBytes(Sums, Sums);
//   Sums FirstTwos(Sums, Sums);   Sums SecondTwos(Sums, Sums);
//
// and, of outputs in int8,
//
//   Sums Narrowed(const Sums sums[4], float scale, const Requantization&)  of each quarter those of all in turn
//   void StoreQuarters(Sums, void* const* pixels, ptrdiff_t channel)  to every fourth pixel

#include "chains.inl"
#include "each.inl"
#include "int8_add.inl"
#include "int8_store.inl"
#include "pack.inl"

void Gather(const GatherJob&) {}  // maps in tiles are in float32

// Vectors of one slice each, of any channels, become vectors of words, the first of the first 16 lanes.
//
// Of four channels, a byte in a quarter of these vectors has three numbers from 0 to 3: its channel, the vector of
// words that it goes to, and the place there. In that order they are where it is: in which vector, in which fourth
// of the quarter, and where in that. Joining moves them round by one, and joining twice more brings them back: so
// words become slices. Of pairs of channels there are four numbers, 0 or 1.
template <int slices>
inline void Join(Sums* v) {
  if constexpr (slices == 2) {
    const Sums first = FirstTwos(v[0], v[1]);
    v[1] = SecondTwos(v[0], v[1]);
    v[0] = first;
  } else if constexpr (slices == 4) {
    const Sums a = FirstBytes(v[0], v[1]), b = SecondBytes(v[0], v[1]), c = FirstBytes(v[2], v[3]),
               d = SecondBytes(v[2], v[3]);
    v[0] = FirstTwos(a, c);
    v[1] = SecondTwos(a, c);
    v[2] = FirstTwos(b, d);
    v[3] = SecondTwos(b, d);
  }
}

template <int slices>
inline void Slice(Sums* v) {
  for (int i = 0; i < (slices == 2 ? 3 : 2); ++i) Join<slices>(v);
}

template <int slices, int rows, int columns>
void RunSlices(const TileJob& job) {
  constexpr int kVectors = rows * columns * slices, kChains = slices == 4 ? 1 : Chains(kVectors);
  constexpr ptrdiff_t kLineBytes = kLanes * kWordBytes,
                      kPlaceBytes = slices == 1 ? kLineBytes : kWordBytes / slices;
  const char* at[rows];
  for (int r = 0; r < rows; ++r) at[r] = static_cast<const char*>(job.input) + r * job.row_bytes;
  const uint16_t* lines = job.lines;
  const auto* values = static_cast<const char*>(job.values);
  const auto* begin = static_cast<const int32_t*>(job.begin);
  const auto* bias = static_cast<const int32_t*>(job.bias);
  auto* out = static_cast<int32_t*>(job.sums);
  const Requantization by = job.requantization;
  for (int32_t f = 0; f < job.filters; ++f) {
    const ptrdiff_t place = static_cast<ptrdiff_t>(job.slots[f]) * (kVectors * kLanes);
    Sums sums[kChains][kVectors];
    Sums* const sum = sums[0];
    for (int v = 0; v < kVectors; ++v) {
      sum[v] = FillSums(bias != nullptr ? bias[job.slots[f]] : 0);
      for (int chain = 1; chain < kChains; ++chain) sums[chain][v] = FillSums(0);
    }
    if (begin != nullptr) {
      for (int v = 0; v < kVectors; ++v) sum[v] = AddSums(sum[v], LoadSums(begin + place + v * kLanes));
    }
    const int32_t count = job.counts[f];
    const auto add = [&](int32_t i, Sums* to) {
      const Word word = LoadWord(values + static_cast<ptrdiff_t>(i) * kWordBytes);
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c, to += slices) {
          Sums words[slices];
          for (int p = 0; p < slices; ++p) {
            const char* line = at[r] + lines[i * slices + p] * kPlaceBytes + c * kLineBytes;
            words[p] = LoadSums(reinterpret_cast<const int32_t*>(line));
          }
          Join<slices>(words);
          for (int p = 0; p < slices; ++p) to[p] = DotLanes(to[p], words[p], word);
        }
      }
    };
    int32_t i = 0;
    for (; i + kChains <= count; i += kChains) {
      for (int chain = 0; chain < kChains; ++chain) add(i + chain, sums[chain]);
    }
    for (; i < count; ++i) add(i, sum);
    for (int chain = 1; chain < kChains; ++chain) {
      for (int v = 0; v < kVectors; ++v) sum[v] = AddSums(sum[v], sums[chain][v]);
    }
    lines += static_cast<ptrdiff_t>(count) * slices;
    values += static_cast<ptrdiff_t>(count) * kWordBytes;
    if (!job.last) {
      for (int v = 0; v < kVectors; ++v) StoreSums(out + place + v * kLanes, sum[v]);
      continue;
    }
    const float scale = by.scales[job.slots[f]];
    for (int v = 0; v < kVectors; v += 4) {
      Sums four[4];
      for (int i = 0; i < 4; ++i) four[i] = v + i < kVectors ? sum[v + i] : FillSums(0);
      StoreSums(out + place + v / 4 * kLanes, Narrowed(four, scale, by));
    }
  }
}

template <int rows, int columns>
void RunTile(const TileJob& job) {
  RunSlices<1, rows, columns>(job);
}

// As `Pack`, of 16 lanes after another; then all of them become slices.
template <int slices>
void PackSlices(const PackJob& job) {
  for (int32_t first = job.first_word; first < job.end_word; first += kLanes) {
    float* planes[kLanes];
    const int32_t count = FindPlanes(job, first, planes);
    const float* const* pixels = job.pixels;
    for (int32_t position = 0; position < job.positions; ++position) {
      alignas(64) int32_t words[slices][kLanes][kLanes];
      for (int p = 0; p < slices; ++p, pixels += kLanes) {
        if (count == kLanes) {
          Vector rows[kLanes];
          for (int lane = 0; lane < kLanes; ++lane) rows[lane] = Load(pixels[lane] + first);
          Transpose(rows);
          for (int c = 0; c < kLanes; ++c) StoreSums(words[p][c], AsSums(Prepared(rows[c])));
        } else {
          for (int32_t c = 0; c < count; ++c) StoreSums(words[p][c], AsSums(Prepared(Pick(pixels, first + c))));
        }
      }
      for (int32_t c = 0; c < count; ++c) {
        Sums vectors[slices];
        for (int p = 0; p < slices; ++p) vectors[p] = LoadSums(words[p][c]);
        Slice<slices>(vectors);
        for (int p = 0; p < slices; ++p) {
          const ptrdiff_t line = static_cast<ptrdiff_t>(p) * job.positions + position;
          StoreSums(reinterpret_cast<int32_t*>(planes[c] + line * kLanes), vectors[p]);
        }
      }
    }
  }
}

// Of 16 lines of a filter each the 16 bytes of each place in turn: of each quarter, one after another.
template <int bit = kLanes / 2>
inline void TransposeQuarters(Sums* lines) {
  Each<kLanes / 2>([&](auto i) {
    constexpr int kFirst = i / bit * 2 * bit + i % bit;
    const Sums a = lines[kFirst], b = lines[kFirst + bit];
    lines[kFirst] = FirstBytes(a, b);
    lines[kFirst + bit] = SecondBytes(a, b);
  });
  if constexpr (bit > 1) TransposeQuarters<bit / 2>(lines);
}

constexpr int kFours = 4;  // places of a line that are handed out together, each fourth

// What fewer than 16 filters say at four places, one of each quarter, to every fourth pixel.
inline void StorePlaces(const Sums& outputs, void* const* pixels, ptrdiff_t channel, int32_t count) {
  int8_t all[kFours][kLanes];
  void* rows[kLanes] = {};
  for (int q = 0; q < kFours; ++q) rows[q * kFours] = all[q];
  StoreQuarters(outputs, rows, 0);
  for (int q = 0; q < kFours; ++q) {
    auto* to = static_cast<int8_t*>(pixels[q * kFours]) + channel;
    for (int32_t c = 0; c < count; ++c) to[c] = all[q][c];
  }
}

__attribute__((noinline)) void UnpackLast(const UnpackJob& job, const Sums* lines, int32_t first, int32_t count) {
  for (int v = 0; v < job.vectors; ++v) {
    for (int place = 0; place < kFours; ++place) {
      StorePlaces(lines[v * kFours + place], job.pixels + v * kLanes + place, job.first_channel + first, count);
    }
  }
}

// Of outputs that lie where their sums were, those of four vectors in a line.
__attribute__((flatten)) void Unpack(const UnpackJob& job) {
  const auto* from = reinterpret_cast<const int32_t*>(job.from);
  for (int32_t first = 0; first < job.channels; first += kLanes, from += kLanes * job.plane_words) {
    const int32_t count = job.channels - first < kLanes ? job.channels - first : kLanes;
    const ptrdiff_t channel = job.first_channel + first;
    Sums lines[kLanes];
    Each<kLanes>([&](auto c) { lines[c] = LoadSums(from + (c < count ? c : 0) * job.plane_words); });
    TransposeQuarters(lines);
    if (count == kLanes) {
      Each<kLanes>([&](auto i) {
        constexpr int kVector = i / kFours;
        if (kVector < job.vectors) StoreQuarters(lines[i], job.pixels + kVector * kLanes + i % kFours, channel);
      });
    } else {
      Sums kept[kLanes];
      Each<kLanes>([&](auto i) { kept[i] = lines[i]; });
      UnpackLast(job, kept, first, count);
    }
    if (job.residuals == nullptr) continue;
    for (int32_t lane = 0; lane < job.vectors * kLanes; ++lane) {
      const auto* residual = reinterpret_cast<const int8_t*>(job.residuals[lane]) + channel;
      AddResidual(static_cast<int8_t*>(job.pixels[lane]) + channel, residual, count, job.requantization.addition);
    }
  }
}
