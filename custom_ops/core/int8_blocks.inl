// The int8 kernel whose lanes are filters, for a backend that has defined, for 16 whole numbers of 32 bits:
//   Sums        such numbers
//   Weights     four bytes for each of them
//   LoadSums    from memory
//   LoadWeights from memory
//   Dot         sums, and to each the four products of its bytes with those of a word in memory added
//   StoreAllScaled what `int8_store.inl` tells

#include "int8_store.inl"

// One block of filters.
template <int rows, int columns>
void RunBlock(const BlockJob& job, ptrdiff_t filter, int32_t count, int32_t filters, const int32_t* offsets,
              const int8_t* values) {
  const Sums bias = LoadSums(static_cast<const int32_t*>(job.bias) + filter);
  Sums sums[rows][columns];
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) sums[r][c] = bias;
  }
  const int8_t* residual = job.residual == nullptr ? nullptr : job.residual + filter;
  for (int r = 0; residual != nullptr && r < rows; ++r) {  // comes while weights are multiplied
    for (int c = 0; c < columns; ++c) __builtin_prefetch(residual + r * job.output_row + c * job.output_column);
  }
  const auto* input = static_cast<const uint8_t*>(job.input);
  for (int32_t i = 0; i < count; ++i) {
    const Weights weights = LoadWeights(values + static_cast<ptrdiff_t>(i) * kLanes * kWordBytes);
    const uint8_t* row = input + static_cast<ptrdiff_t>(offsets[i]) * kWordBytes;
    for (int r = 0; r < rows; ++r, row += job.input_row * kWordBytes) {
      for (int c = 0; c < columns; ++c) {
        sums[r][c] = Dot(sums[r][c], row + c * job.input_column * kWordBytes, weights);
      }
    }
  }
  // Read before bytes are written, which for all a compiler knows may change them.
  Requantization by = job.requantization;
  by.scales += filter;
  const ptrdiff_t output_row = job.output_row, output_column = job.output_column;
  int8_t* output = static_cast<int8_t*>(job.output) + filter;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      int8_t* to = output + r * output_row + c * output_column;
      StoreScaled(to, filters, sums[r][c], by, residual == nullptr ? nullptr : residual + (to - output));
    }
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
