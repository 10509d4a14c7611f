// How 16 outputs in int8 get what is added to them, in plain C++; a compiler makes vectors of it.
inline void AddSixteen(int8_t* to, const int8_t* residual, const Addition& by) {
  int8_t outputs[kLanes], others[kLanes];
  __builtin_memcpy(outputs, to, kLanes);
  __builtin_memcpy(others, residual, kLanes);
  for (int i = 0; i < kLanes; ++i) {
    const int32_t sum = by.bias + by.output_multiplier * outputs[i] + by.residual_multiplier * others[i];
    const int32_t scaled = (sum >> by.shift) + by.zero;
    outputs[i] = static_cast<int8_t>(scaled < by.low ? by.low : scaled > by.high ? by.high : scaled);
  }
  __builtin_memcpy(to, outputs, kLanes);
}
