// The int8 kernel whose lanes are filters, for a backend that has defined, for 16 whole numbers of 32 bits:
//   Sums        such numbers
//   Weights     four bytes for each of them
//   LoadSums    from memory
//   LoadWeights from memory
//   kFlip       what bytes of the input are combined with, exclusively or, before they are multiplied
//   Dot<flip>   sums, and to each the four products of its bytes with those of a word in memory added, which are
//               combined with `flip` first
//   StoreAllScaled  what `int8_store.inl` tells
//   StoreFourScaled the same of four times 16 sums of the same filters, to four places, without a residual

#include "each.inl"
#include "int8_store.inl"

// One block of filters.
template <uint8_t flip, int rows, int columns>
__attribute__((flatten)) void RunBlock(const BlockJob& job, ptrdiff_t filter, int32_t count, int32_t filters,
                                       const int32_t* offsets, const int8_t* values) {
  constexpr int kOutputs = rows * columns;
  const Sums bias = LoadSums(static_cast<const int32_t*>(job.bias) + filter);
  Sums sums[kOutputs];
  Each<kOutputs>([&](auto i) { sums[i] = bias; });
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
    Each<kOutputs>([&](auto o) {
      if (o > 0 && o % columns == 0) row += job.input_row * kWordBytes;
      sums[o] = Dot<flip>(sums[o], row + o % columns * job.input_column * kWordBytes, weights);
    });
  }
  if constexpr (kOutputs >= 4) {
    if (residual == nullptr && filters == kLanes) {
      Each<(kOutputs + 3) / 4>([&](auto fours) {
        constexpr int kFirst = 4 * fours + 4 <= kOutputs ? 4 * fours : kOutputs - 4;  // some of the last again
        int8_t* to[4];
        for (int i = 0; i < 4; ++i) to[i] = output + place(kFirst + i);
        const Sums four[4] = {sums[kFirst], sums[kFirst + 1], sums[kFirst + 2], sums[kFirst + 3]};
        StoreFourScaled(to, four, by);
      });
      return;
    }
  }
  const auto added = [&](int i) { return residual == nullptr ? nullptr : residual + place(i); };
  if (filters == kLanes) {
    Each<kOutputs>([&](auto i) { StoreAllScaled(output + place(i), sums[i], by, added(i)); });
    return;
  }
  Sums kept[kOutputs];  // where `StoreSomeScaled` can find them
  Each<kOutputs>([&](auto i) { kept[i] = sums[i]; });
  for (int i = 0; i < kOutputs; ++i) StoreSomeScaled(output + place(i), filters, kept[i], by, added(i));
}

template <uint8_t flip, int rows, int columns>
void RunAllBlocks(const BlockJob& job) {
  const int32_t* offsets = job.offsets;
  const auto* values = static_cast<const int8_t*>(job.values);
  for (int32_t b = 0; b < job.blocks; ++b) {
    const int32_t filters = b + 1 < job.blocks ? kLanes : job.tail;
    const ptrdiff_t filter = static_cast<ptrdiff_t>(b) * kLanes;
    RunBlock<flip, rows, columns>(job, filter, job.counts[b], filters, offsets, values);
    offsets += job.counts[b];
    values += static_cast<ptrdiff_t>(job.counts[b]) * kLanes * kWordBytes;
  }
}

template <int rows, int columns>
void RunBlocks(const BlockJob& job) {
  job.flip == 0 ? RunAllBlocks<0, rows, columns>(job) : RunAllBlocks<kFlip, rows, columns>(job);
}
