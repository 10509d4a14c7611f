#include "weights.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

namespace tfc::tflite {
namespace {

constexpr const char* kMalformed = "its sparse encoding is malformed";

int64_t Size(const TfLiteIntArray& dims) {
  return std::accumulate(dims.data, dims.data + dims.size, int64_t{1}, std::multiplies<>());
}

size_t BytesOfValue(const TfLiteTensor& tensor) {
  return tensor.type == kTfLiteInt8 ? 1 : tensor.type == kTfLiteFloat16 ? 2 : 4;
}

// Half precision: a sign, 5 bits of exponent, 10 of fraction.
float FromHalf(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  const float magnitude = exponent == 31  ? (fraction == 0 ? std::numeric_limits<float>::infinity()
                                                           : std::numeric_limits<float>::quiet_NaN())
                          : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                          : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return half >> 15 != 0 ? -magnitude : magnitude;
}

double ValueAt(const TfLiteTensor& tensor, int64_t index) {
  switch (tensor.type) {
    case kTfLiteInt8: return static_cast<const int8_t*>(tensor.data)[index];
    case kTfLiteInt32: return static_cast<const int32_t*>(tensor.data)[index];
    case kTfLiteFloat16: return FromHalf(static_cast<const uint16_t*>(tensor.data)[index]);
    default: return static_cast<const float*>(tensor.data)[index];
  }
}

// Walks through a tensor whose dimensions, in the order of traversal and followed by those of blocks, are
// dense or list the places that are filled. See `SparsityParameters` in TFLite's schema.
class Walk {
 public:
  Walk(const TfLiteTensor& tensor, Entries* entries)
      : tensor_(tensor),
        sparsity_(*tensor.sparsity),
        dims_(*tensor.dims),
        count_(static_cast<int64_t>(tensor.bytes / BytesOfValue(tensor))),
        at_(dims_.size),
        entries_(entries) {}

  const char* Run() {
    if (!Consistent() || !Level(0, 0) || next_ != count_) return kMalformed;
    return nullptr;
  }

 private:
  // Whether the levels are a permutation, blocks divide what they are of, and sizes multiply to the tensor's.
  bool Consistent() {
    const TfLiteIntArray* order = sparsity_.traversal_order;
    const TfLiteIntArray* blocks = sparsity_.block_map;
    const int levels = dims_.size + (blocks == nullptr ? 0 : blocks->size);
    if (order == nullptr || order->size != levels || sparsity_.dim_metadata_size != levels) return false;
    if (sparsity_.dim_metadata == nullptr) return false;
    std::vector<bool> seen(levels, false);
    std::vector<int64_t> sizes(dims_.size, 1);
    stride_.assign(levels, 1);
    for (int level = levels - 1; level >= 0; --level) {  // blocks come last and vary fastest
      const int which = order->data[level];
      if (which < 0 || which >= levels || seen[which]) return false;
      if ((which >= dims_.size) != (level >= dims_.size)) return false;
      seen[which] = true;
      const int dim = DimOf(which);
      if (dim < 0 || dim >= dims_.size) return false;
      stride_[level] = sizes[dim];
      sizes[dim] *= Length(level, dim, sizes[dim]);
      if (sizes[dim] < 1 || sizes[dim] > dims_.data[dim]) return false;
    }
    return std::equal(sizes.begin(), sizes.end(), dims_.data);
  }

  int DimOf(int which) const { return which < dims_.size ? which : sparsity_.block_map->data[which - dims_.size]; }

  // A dense level says its length; of one that is not, it is what is left of the dimension.
  int64_t Length(int level, int dim, int64_t below) const {
    const TfLiteDimensionMetadata& metadata = sparsity_.dim_metadata[level];
    return metadata.format == kTfLiteDimDense ? metadata.dense_size : dims_.data[dim] / below;
  }

  // `row` counts the entries of the levels above.
  bool Level(int level, int64_t row) {
    if (level == sparsity_.dim_metadata_size) return Entry();
    const TfLiteDimensionMetadata& metadata = sparsity_.dim_metadata[level];
    if (metadata.format == kTfLiteDimDense) return Dense(level, row, metadata.dense_size);
    return metadata.format == kTfLiteDimSparseCSR && Listed(level, row, metadata);
  }

  bool Dense(int level, int64_t row, int64_t length) {
    for (int64_t i = 0; i < length; ++i) {
      if (!Enter(level, i, row * length + i)) return false;
    }
    return true;
  }

  bool Listed(int level, int64_t row, const TfLiteDimensionMetadata& metadata) {
    const TfLiteIntArray *segments = metadata.array_segments, *indices = metadata.array_indices;
    if (segments == nullptr || indices == nullptr || row + 1 >= segments->size) return false;
    const int begin = segments->data[row], end = segments->data[row + 1];
    if (begin < 0 || begin > end || end > indices->size) return false;
    const int dim = DimOf(sparsity_.traversal_order->data[level]);
    for (int i = begin; i < end; ++i) {
      if (indices->data[i] < 0 || indices->data[i] >= dims_.data[dim] / stride_[level]) return false;
      if (!Enter(level, indices->data[i], i)) return false;
    }
    return true;
  }

  bool Enter(int level, int64_t index, int64_t row) {
    const int dim = DimOf(sparsity_.traversal_order->data[level]);
    at_[dim] += index * stride_[level];
    const bool done = Level(level + 1, row);
    at_[dim] -= index * stride_[level];
    return done;
  }

  bool Entry() {
    if (next_ >= count_) return false;
    const double value = ValueAt(tensor_, next_++);
    if (value == 0) return true;  // blocks hold zeros too
    int64_t place = 0;
    for (int i = 0; i < dims_.size; ++i) {
      if (at_[i] >= dims_.data[i]) return false;
      place = place * dims_.data[i] + at_[i];
    }
    entries_->places.push_back(place);
    entries_->values.push_back(value);
    return true;
  }

  const TfLiteTensor& tensor_;
  const TfLiteSparsity& sparsity_;
  const TfLiteIntArray& dims_;
  int64_t count_, next_ = 0;
  std::vector<int64_t> at_, stride_;  // by dimension; by level
  Entries* entries_;
};

void Sort(Entries* entries) {
  if (std::is_sorted(entries->places.begin(), entries->places.end())) return;
  std::vector<std::pair<int64_t, double>> pairs;
  for (size_t i = 0; i < entries->places.size(); ++i) pairs.emplace_back(entries->places[i], entries->values[i]);
  std::sort(pairs.begin(), pairs.end());
  for (size_t i = 0; i < pairs.size(); ++i) std::tie(entries->places[i], entries->values[i]) = pairs[i];
}

}  // namespace

const char* ReadDense(const TfLiteTensor& tensor, Entries* entries) {
  const int64_t count = Size(*tensor.dims);
  if (tensor.data == nullptr || tensor.bytes != static_cast<size_t>(count) * BytesOfValue(tensor)) {
    return "its weights have another size than their shape says";
  }
  for (int64_t i = 0; i < count; ++i) {
    const double value = ValueAt(tensor, i);
    if (value == 0) continue;
    entries->places.push_back(i);
    entries->values.push_back(value);
  }
  return nullptr;
}

const char* ReadSparse(const TfLiteTensor& tensor, Entries* entries) {
  if (tensor.data == nullptr || tensor.sparsity == nullptr) return kMalformed;
  const char* problem = Walk(tensor, entries).Run();
  if (problem == nullptr) {
    Sort(entries);
    const auto twice = std::adjacent_find(entries->places.begin(), entries->places.end());
    if (twice != entries->places.end()) problem = kMalformed;
  }
  return problem;
}

}  // namespace tfc::tflite
