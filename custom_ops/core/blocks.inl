// The kernel whose lanes are filters, for a backend that has defined what `lanes.inl` tells of.

// Of the last block there may be fewer filters than lanes: such vectors pass through memory of their own.
inline Vector LoadSome(const float* from, int32_t count) {
  float lanes[kLanes] = {};
  for (int32_t i = 0; i < count; ++i) lanes[i] = from[i];
  return Load(lanes);
}

inline void StoreSome(float* to, int32_t count, Vector v) {
  float lanes[kLanes];
  Store(lanes, v);
  for (int32_t i = 0; i < count; ++i) to[i] = lanes[i];
}

// One block of filters: all of it, or only its first `tail`.
template <int rows, int columns, bool full>
void RunBlock(const BlockJob& job, ptrdiff_t filter, int32_t count, const int32_t* offsets, const float* values) {
  Vector sum[rows][columns];
  const Vector bias = job.bias != nullptr ? Load(static_cast<const float*>(job.bias) + filter) : Fill(0.0f);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) sum[r][c] = bias;
  }
  if (job.begin != nullptr) {
    const float* begin = job.begin + filter;
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        const float* from = begin + r * job.output_row + c * job.output_column;
        sum[r][c] = Add(sum[r][c], full ? Load(from) : LoadSome(from, job.tail));
      }
    }
  }
  const auto* input = static_cast<const float*>(job.input);
  for (int32_t i = 0; i < count; ++i) {
    const Vector value = Load(values + static_cast<ptrdiff_t>(i) * kLanes);
    const float* row = input + offsets[i];
    for (int r = 0; r < rows; ++r, row += job.input_row) {
      for (int c = 0; c < columns; ++c) {
        sum[r][c] = MultiplyAdd(value, Fill(row[c * job.input_column]), sum[r][c]);
      }
    }
  }
  if (job.last) {
    const Vector low = Fill(job.low), high = Fill(job.high);
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) sum[r][c] = Clamp(sum[r][c], low, high);
    }
  }
  float* output = static_cast<float*>(job.output) + filter;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      float* to = output + r * job.output_row + c * job.output_column;
      if (full) {
        Store(to, sum[r][c]);
      } else {
        StoreSome(to, job.tail, sum[r][c]);
      }
    }
  }
}

template <int rows, int columns>
void RunBlocks(const BlockJob& job) {
  const int32_t* offsets = job.offsets;
  const auto* values = static_cast<const float*>(job.values);
  for (int32_t b = 0; b < job.blocks; ++b) {
    const bool full = b + 1 < job.blocks || job.tail == kLanes;
    const auto run = full ? RunBlock<rows, columns, true> : RunBlock<rows, columns, false>;
    run(job, static_cast<ptrdiff_t>(b) * kLanes, job.counts[b], offsets, values);
    offsets += job.counts[b];
    values += static_cast<ptrdiff_t>(job.counts[b]) * kLanes;
  }
}
