// A residual that is added to outputs in int8.
inline void AddResidual(int8_t* to, const int8_t* residual, int32_t count, const Addition& by) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t sum = by.bias + by.output_multiplier * to[i] + by.residual_multiplier * residual[i];
    int32_t scaled = (sum >> by.shift) + by.zero;
    scaled = scaled < by.low ? by.low : scaled > by.high ? by.high : scaled;
    to[i] = static_cast<int8_t>(scaled);
  }
}
