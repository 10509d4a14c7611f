// Sparse encodings of TFLite's tensors: read back as the dense tensor they stand for, and malformed ones refused.
//
//   encodings SEED COUNT
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "../tflite/weights.h"
#include "convolutions.h"

namespace {

using tfc::tflite::Entries;
using tfc_tests::Random;

using Numbers = std::vector<int>;

// TFLite's arrays begin with their size.
TfLiteIntArray* Array(Numbers* sized) { return reinterpret_cast<TfLiteIntArray*>(sized->data()); }

Numbers Sized(const Numbers& numbers) {
  Numbers sized = {static_cast<int>(numbers.size())};
  sized.insert(sized.end(), numbers.begin(), numbers.end());
  return sized;
}

// A tensor with zeros, and its encoding, whose levels are dense or list what is filled.
struct Encoded {
  explicit Encoded(Random* random) {
    const int rank = random->Pick({2, 4});
    for (int d = 0; d < rank; ++d) {
      const bool divided = random->Chance(30);
      block.push_back(divided ? random->Pick({2, 3}) : 1);
      dims.push_back(block.back() * random->Between(1, 4));
    }
    for (int d = 0; d < rank; ++d) order.push_back(d);
    for (int d = 0; d < rank; ++d) {
      if (block[d] == 1) continue;
      order.push_back(rank + static_cast<int>(blocks.size()));
      blocks.push_back(d);
    }
    size_t count = 1;
    for (const int size : dims) count *= size;
    dense.assign(count, 0.0f);
    const int percent = random->Pick({0, 5, 40, 100});
    for (float& value : dense) value = random->Chance(percent) ? 1.0f + random->Between(0, 99) : 0.0f;
    Encode(random);
  }

  // The indices of an element, level by level.
  Numbers Path(size_t element) const {
    Numbers at(dims.size()), path;
    for (size_t d = dims.size(); d-- > 0; element /= dims[d]) at[d] = static_cast<int>(element % dims[d]);
    for (size_t d = 0; d < dims.size(); ++d) path.push_back(at[d] / block[d]);
    for (const int d : blocks) path.push_back(at[d] % block[d]);
    return path;
  }

  void Encode(Random* random) {
    std::set<Numbers> filled;  // beginnings of paths that lead to a value
    for (size_t i = 0; i < dense.size(); ++i) {
      const Numbers path = Path(i);
      for (size_t end = 0; dense[i] != 0 && end <= path.size(); ++end)
        filled.insert({path.begin(), path.begin() + end});
    }
    std::vector<Numbers> places = {{}};
    for (size_t level = 0; level < order.size(); ++level) {
      const int dim = level < dims.size() ? static_cast<int>(level) : blocks[level - dims.size()];
      const int length = level < dims.size() ? dims[dim] / block[dim] : block[dim];
      const bool listed = level < dims.size() && random->Chance(50);
      Numbers segments = {0}, indices;
      std::vector<Numbers> next;
      for (const Numbers& place : places) {
        for (int i = 0; i < length; ++i) {
          Numbers longer = place;
          longer.push_back(i);
          if (listed && filled.count(longer) == 0) continue;
          indices.push_back(i);
          next.push_back(longer);
        }
        segments.push_back(static_cast<int>(indices.size()));
      }
      metadata.push_back({listed ? kTfLiteDimSparseCSR : kTfLiteDimDense, length, nullptr, nullptr});
      arrays.push_back(Sized(listed ? segments : Numbers{}));
      arrays.push_back(Sized(listed ? indices : Numbers{}));
      places = next;
    }
    for (const Numbers& place : places) values.push_back(ValueAt(place));
  }

  float ValueAt(const Numbers& path) const {
    size_t element = 0;
    for (size_t d = 0; d < dims.size(); ++d) {
      int at = path[d] * block[d];
      for (size_t b = 0; b < blocks.size(); ++b)
        at += blocks[b] == static_cast<int>(d) ? path[dims.size() + b] : 0;
      element = element * dims[d] + at;
    }
    return dense[element];
  }

  // Read from copies that are exactly as long as they say, so that a sanitizer sees a step beyond.
  const char* Read(Entries* entries) {
    Numbers sized_dims = Sized(dims), sized_order = Sized(order), sized_blocks = Sized(blocks);
    for (size_t level = 0; level < metadata.size(); ++level) {
      metadata[level].array_segments = Array(&arrays[2 * level]);
      metadata[level].array_indices = Array(&arrays[2 * level + 1]);
    }
    TfLiteSparsity sparsity = {Array(&sized_order), Array(&sized_blocks), metadata.data(),
                               static_cast<int>(metadata.size())};
    TfLiteTensor tensor = {};
    tensor.type = kTfLiteFloat32;
    tensor.data = values.data();
    tensor.bytes = values.size() * sizeof(float);
    tensor.dims = Array(&sized_dims);
    tensor.sparsity = &sparsity;
    float nothing = 0;
    if (values.empty()) tensor.data = &nothing;
    return ReadSparse(tensor, entries);
  }

  // Changes one number somewhere.
  void Break(Random* random) {
    const auto change = [&](int* number) {
      *number = random->Pick({-1, 0, 1, *number + 1, *number - 1, 1 << 30});
    };
    const int what = random->Between(0, 4);
    if (what == 0) return change(&order[random->Between(0, static_cast<int>(order.size()) - 1)]);
    if (what == 1 && !blocks.empty())
      return change(&blocks[random->Between(0, static_cast<int>(blocks.size()) - 1)]);
    if (what == 2) return change(&metadata[random->Between(0, static_cast<int>(metadata.size()) - 1)].dense_size);
    if (what == 3) return values.resize(random->Between(0, static_cast<int>(values.size()) + 3));
    Numbers& array = arrays[random->Between(0, static_cast<int>(arrays.size()) - 1)];
    if (array.size() > 1) change(&array[random->Between(1, static_cast<int>(array.size()) - 1)]);
  }

  Numbers dims, block, blocks, order;
  std::vector<float> dense, values;
  std::vector<TfLiteDimensionMetadata> metadata;
  std::vector<Numbers> arrays;  // of each level: segments, indices
};

int Fail(const char* what, int number) {
  std::printf("encoding %d: %s\n", number, what);
  return 1;
}

int Try(int number, Random* random) {
  Encoded encoded(random);
  Entries sparse;
  if (const char* problem = encoded.Read(&sparse)) return Fail(problem, number);
  size_t found = 0;
  for (size_t i = 0; i < encoded.dense.size(); ++i) {
    if (encoded.dense[i] == 0) continue;
    const bool same = found < sparse.places.size() && sparse.places[found] == static_cast<int64_t>(i) &&
                      sparse.values[found] == encoded.dense[i];
    if (!same) return Fail("a value is missing or in another place", number);
    ++found;
  }
  if (found != sparse.places.size()) return Fail("there are values too many", number);

  encoded.Break(random);
  Entries other;
  if (encoded.Read(&other) != nullptr) return 0;
  for (size_t i = 0; i < other.places.size(); ++i) {
    const bool in_order = i == 0 || other.places[i - 1] < other.places[i];
    const bool inside = other.places[i] >= 0 && other.places[i] < static_cast<int64_t>(encoded.dense.size());
    if (!in_order || !inside) return Fail("a broken encoding gives places that are none", number);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::printf("usage: encodings SEED COUNT\n");
    return 2;
  }
  Random random(std::strtoull(argv[1], nullptr, 10));
  for (int i = 0; i < std::atoi(argv[2]); ++i) {
    if (Try(i, &random) != 0) return 1;
  }
  return 0;
}
