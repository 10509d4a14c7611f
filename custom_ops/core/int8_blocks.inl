// The int8 kernel whose lanes are filters, for a backend that has defined, for 16 whole numbers of 32 bits:
//   Sums        such numbers
//   Weights     four bytes for each of them
//   LoadSums    from memory
//   LoadWeights from memory
//   Dot         sums, and to each the four products of its bytes with those of a word in memory added
//   StoreAllScaled  what `int8_store.inl` tells
//   StoreFourScaled the same of four times 16 sums of the same filters, to four places, without a residual

#include "int8_store.inl"

// One block of filters.
template <int rows, int columns>
void RunBlock(const BlockJob& job, ptrdiff_t filter, int32_t count, int32_t filters, const int32_t* offsets,
              const int8_t* values) {
  constexpr int kOutputs = rows * columns;
  const Sums bias = LoadSums(static_cast<const int32_t*>(job.bias) + filter);
  Sums sums[kOutputs];
  for (Sums& sum : sums) sum = bias;
  // Read before bytes are written, which for all a compiler knows may change them.
  Requantization by = job.requantization;
  by.scales += filter;
  const ptrdiff_t output_row = job.output_row, output_column = job.output_column;
  int8_t* const output = static_cast<int8_t*>(job.output) + filter;
  const int8_t* const residual = job.residual == nullptr ? nullptr : job.residual + filter;
  const auto place = [&](int i) { return i / columns * output_row + i % columns * output_column; };
  // Comes while weights are multiplied.
  for (int i = 0; residual != nullptr && i < kOutputs; ++i) __builtin_prefetch(residual + place(i));
  const auto* input = static_cast<const uint8_t*>(job.input);
  for (int32_t i = 0; i < count; ++i) {
    const Weights weights = LoadWeights(values + static_cast<ptrdiff_t>(i) * kLanes * kWordBytes);
    const uint8_t* row = input + static_cast<ptrdiff_t>(offsets[i]) * kWordBytes;
    for (int r = 0; r < rows; ++r, row += job.input_row * kWordBytes) {
      for (int c = 0; c < columns; ++c) {
        Sums& sum = sums[r * columns + c];
        sum = Dot(sum, row + c * job.input_column * kWordBytes, weights);
      }
    }
  }
  int first = 0;
  for (; residual == nullptr && filters == kLanes && first + 4 <= kOutputs; first += 4) {
    int8_t* to[4];
    for (int i = 0; i < 4; ++i) to[i] = output + place(first + i);
    StoreFourScaled(to, sums + first, by);
  }
  for (; first < kOutputs; ++first) {
    const int8_t* added = residual == nullptr ? nullptr : residual + place(first);
    StoreScaled(output + place(first), filters, sums[first], by, added);
  }
}

template <int rows, int columns>
void RunBlocks(const BlockJob& job) {
  const int32_t* offsets = job.offsets;
  const auto* values = static_cast<const int8_t*>(job.values);
  for (int32_t b = 0; b < job.blocks; ++b) {
    const int32_t filters = b + 1 < job.blocks ? kLanes : job.tail;
    RunBlock<rows, columns>(job, static_cast<ptrdiff_t>(b) * kLanes, job.counts[b], filters, offsets, values);
    offsets += job.counts[b];
    values += static_cast<ptrdiff_t>(job.counts[b]) * kLanes * kWordBytes;
  }
}
