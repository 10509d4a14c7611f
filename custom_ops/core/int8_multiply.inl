// How fast a backend of int8 multiplies and adds when nothing else is to do, but what dense kernels must do as
// well: words of the input, each for two vectors of weights, lose their sign. Some processors do that at no cost,
// others with the same units.

float Multiply(int32_t times) {
  alignas(64) int8_t bytes[kLanes * kWordBytes] = {1, 2, 3};
  alignas(64) int32_t lanes[kLanes] = {};
  Sums sums[kRegisters];
  for (Sums& each : sums) each = LoadSums(lanes);
  const Weights weights = LoadWeights(bytes);
  const uint8_t* volatile input =
      reinterpret_cast<const uint8_t*>(bytes);  // read anew each time, as all words are
  for (int32_t i = 0; i < times; ++i) {
    const uint8_t* words = input;
    Each<kRegisters>([&](auto v) {
      constexpr uint8_t kOther = v % 2 == 0 ? kFlip : 0;
      sums[v] = Dot<kOther>(sums[v], words + kWordBytes * (v % kLanes), weights);
    });
  }
  int8_t out[kLanes];
  float all = 0;
  const float scales[kLanes] = {1.0f};
  for (const Sums& each : sums) {
    StoreAllScaled(out, each, {scales, -128.0f, 127.0f, 0, {}, false}, nullptr);
    all += out[0];
  }
  return all;
}
