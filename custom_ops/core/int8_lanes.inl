// The int8 kernel whose lanes are parts of the map, for a backend that has defined what `int8_blocks.inl` tells
// of, vectors of 16 words as `lanes.inl` does, and
//
//   Sums FillSums(int32_t);  Sums AddSums(Sums, Sums);
//   void StoreSums(int32_t*, Sums);
//   Sums DotLanes(Sums sums, const void* line, Word)  each sum and the products of a word of its own and that one
//   Word LoadWord(const void*);                       four weights

#include "int8_maps.inl"
#include "int8_store.inl"

template <int rows, int columns>
void RunTile(const TileJob& job) {
  constexpr int kVectors = rows * columns;
  const char* at[rows];
  for (int r = 0; r < rows; ++r) at[r] = static_cast<const char*>(job.input) + r * job.row_bytes;
  const uint16_t* lines = job.lines;
  const auto* values = static_cast<const char*>(job.values);
  const auto* begin = static_cast<const int32_t*>(job.begin);
  const auto* bias = static_cast<const int32_t*>(job.bias);
  auto* out = static_cast<int32_t*>(job.sums);
  for (int32_t f = 0; f < job.filters; ++f) {
    const ptrdiff_t place = static_cast<ptrdiff_t>(job.slots[f]) * (kVectors * kLanes);
    Sums sums[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = FillSums(bias != nullptr ? bias[job.slots[f]] : 0);
    if (begin != nullptr) {
      for (int v = 0; v < kVectors; ++v) sums[v] = AddSums(sums[v], LoadSums(begin + place + v * kLanes));
    }
    const int32_t count = job.counts[f];
    for (int32_t i = 0; i < count; ++i) {
      const ptrdiff_t offset = static_cast<ptrdiff_t>(lines[i]) * (kLanes * kWordBytes);
      const Word word = LoadWord(values + static_cast<ptrdiff_t>(i) * kWordBytes);
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
          const char* line = at[r] + offset + c * (kLanes * kWordBytes);
          sums[r * columns + c] = DotLanes(sums[r * columns + c], line, word);
        }
      }
    }
    lines += count;
    values += static_cast<ptrdiff_t>(count) * kWordBytes;
    for (int v = 0; v < kVectors; ++v) StoreSums(out + place + v * kLanes, sums[v]);
  }
}

void Unpack(const UnpackJob& job) {
  Requantization by = job.requantization;
  const float* from = job.from;
  for (int32_t left = job.channels; left > 0; left -= kLanes) {
    const int32_t count = left < kLanes ? left : kLanes, channel = job.first_channel + job.channels - left;
    UnpackSquare(from, job.plane_words, count, by, {job.pixels, job.residuals}, channel);
    from += kLanes * job.plane_words;
    by.scales += kLanes;
  }
}
