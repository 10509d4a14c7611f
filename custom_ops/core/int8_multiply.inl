// How fast a backend of int8 multiplies and adds when nothing else is to do.

float Multiply(int32_t times) {
  alignas(64) int8_t bytes[kLanes * kWordBytes] = {1, 2, 3};
  alignas(64) int32_t lanes[kLanes] = {};
  Sums sums[kRegisters];
  for (Sums& each : sums) each = LoadSums(lanes);
  const Weights weights = LoadWeights(bytes);
  for (int32_t i = 0; i < times; ++i) {
    for (int v = 0; v < kRegisters; ++v) {
      sums[v] = Dot<0>(sums[v], reinterpret_cast<const uint8_t*>(bytes) + 4 * (v % kLanes), weights);
    }
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
