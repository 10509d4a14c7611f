// The kernel whose lanes are parts of the map, for a backend that has defined
//
//   struct Vector;                                    16 floats
//   Vector Load(const float*);  void Store(float*, Vector);  Vector Fill(float);
//   Vector Add(Vector, Vector);
//   Vector MultiplyAdd(Vector a, Vector b, Vector c)  a * b + c
//   Vector Clamp(Vector, Vector low, Vector high);
//   void Transpose(Vector rows[16]);
//   struct Choice;  Choice Choose(const int32_t lanes[16], uint32_t mask);
//   Vector Merge(Vector v, Vector from, Choice)       v, but in the lanes of the mask from[lanes[i]]
//
//   constexpr int kParts;                         registers that a vector takes
//   constexpr int kRegisters;                     vectors of sums that fit in registers
//
// in an unnamed namespace, which includes this file.

#include "chains.inl"

template <int rows, int columns>
void RunTile(const TileJob& job) {
  constexpr int kVectors = rows * columns, kChains = Chains(kVectors);
  const char* at[rows];
  for (int r = 0; r < rows; ++r) at[r] = static_cast<const char*>(job.input) + r * job.row_bytes;
  const uint16_t* lines = job.lines;
  const auto* values = static_cast<const float*>(job.values);
  const auto* begin = static_cast<const float*>(job.begin);
  const auto* bias_of = static_cast<const float*>(job.bias);
  auto* out = static_cast<float*>(job.sums);
  for (int32_t f = 0; f < job.filters; ++f) {
    const ptrdiff_t place = static_cast<ptrdiff_t>(job.slots[f]) * (kVectors * kLanes);
    Vector sums[kChains][kVectors];
    Vector* const sum = sums[0];
    const Vector bias = Fill(bias_of != nullptr ? bias_of[job.slots[f]] : 0.0f);
    for (int v = 0; v < kVectors; ++v) {
      sum[v] = bias;
      for (int chain = 1; chain < kChains; ++chain) sums[chain][v] = Fill(0.0f);
    }
    if (begin != nullptr) {
      for (int v = 0; v < kVectors; ++v) sum[v] = Add(sum[v], Load(begin + place + v * kLanes));
    }
    if (begin != nullptr && f + 1 < job.filters) {  // what the next filter begins with comes nearer meanwhile
      const float* next = begin + static_cast<ptrdiff_t>(job.slots[f + 1]) * (kVectors * kLanes);
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(next + v * kLanes);
    }
    const int32_t count = job.counts[f];
    const auto add = [&](int32_t i, Vector* to) {
      const ptrdiff_t offset = static_cast<ptrdiff_t>(lines[i]) * 64;
      const Vector value = Fill(values[i]);
      for (int r = 0; r < rows; ++r) {
        const float* row = reinterpret_cast<const float*>(at[r] + offset);
        for (int c = 0; c < columns; ++c) {
          to[r * columns + c] = MultiplyAdd(value, Load(row + c * kLanes), to[r * columns + c]);
        }
      }
    };
    int32_t i = 0;
    for (; i + kChains <= count; i += kChains) {
      for (int chain = 0; chain < kChains; ++chain) add(i + chain, sums[chain]);
    }
    for (; i < count; ++i) add(i, sum);
    for (int chain = 1; chain < kChains; ++chain) {
      for (int v = 0; v < kVectors; ++v) sum[v] = Add(sum[v], sums[chain][v]);
    }
    lines += count;
    values += count;
    if (job.last) {
      const Vector low = Fill(job.low), high = Fill(job.high);
      for (int v = 0; v < kVectors; ++v) sum[v] = Clamp(sum[v], low, high);
    }
    for (int v = 0; v < kVectors; ++v) Store(out + place + v * kLanes, sum[v]);
  }
}

inline Vector Prepared(Vector v) { return v; }

#include "pack.inl"

// One position, of all words.
template <int parts>
void GatherPosition(const GatherJob& job, const Move& move, float* to) {
  Choice choices[parts + 1];
  const float* from[parts + 1];
  for (int p = 0; p < parts; ++p) {
    choices[p] = Choose(move.lanes, move.parts[p].mask);
    from[p] = move.parts[p].from + job.first_word * job.from_words;
  }
  for (int32_t word = 0; word < job.words; ++word, to += job.plane_words) {
    const ptrdiff_t offset = word * job.from_words;
    Vector v = Fill(0.0f);
    for (int p = 0; p < parts; ++p) v = Merge(v, Load(from[p] + offset), choices[p]);
    Store(to, v);
  }
}

void CopyPosition(const GatherJob& job, const Move& move, float* to) {
  const float* from = move.parts[0].from + job.first_word * job.from_words;
  for (int32_t word = 0; word < job.words; ++word, from += job.from_words, to += job.plane_words) {
    Store(to, Load(from));
  }
}

void Gather(const GatherJob& job) {
  constexpr decltype(&CopyPosition) kByParts[] = {GatherPosition<0>, GatherPosition<1>, GatherPosition<2>,
                                                  GatherPosition<3>, GatherPosition<4>};
  for (int32_t position = 0; position < job.positions; ++position) {
    const Move& move = job.moves[position];
    (move.lanes == nullptr ? CopyPosition : kByParts[move.count])(job, move, job.to + position * kLanes);
  }
}

void Unpack(const UnpackJob& job) {
  float* pixels[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    pixels[lane] = static_cast<float*>(job.pixels[lane]) + job.first_channel;
  }
  int32_t channel = 0;
  for (; channel + kLanes <= job.channels; channel += kLanes) {
    Vector rows[kLanes];
    for (int c = 0; c < kLanes; ++c) rows[c] = Load(job.from + (channel + c) * job.plane_words);
    Transpose(rows);
    for (int lane = 0; lane < kLanes; ++lane) {
      Store(pixels[lane] + channel, rows[lane]);
    }
  }
  for (; channel < job.channels; ++channel) {
    const float* from = job.from + channel * job.plane_words;
    for (int lane = 0; lane < kLanes; ++lane) {
      pixels[lane][channel] = from[lane];
    }
  }
}
