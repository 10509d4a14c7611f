// How fast a backend multiplies and adds when nothing else is to do; it has defined Vector and kRegisters.

float Multiply(int32_t times) {
  Vector sum[kRegisters];
  for (int v = 0; v < kRegisters; ++v) sum[v] = Fill(static_cast<float>(v));
  const Vector half = Fill(0.5f), one = Fill(1.0f);
  for (int32_t i = 0; i < times; ++i) {
    for (int v = 0; v < kRegisters; ++v) sum[v] = MultiplyAdd(half, sum[v], one);
  }
  for (int v = 1; v < kRegisters; ++v) sum[0] = Add(sum[0], sum[v]);
  float lanes[kLanes];
  Store(lanes, sum[0]);
  return lanes[0];
}
