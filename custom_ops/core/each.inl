// Loops whose counter is a constant in each round: so an array that it indexes can stay in registers.

template <int i>
struct Constant {
  constexpr operator int() const { return i; }
};

template <int count, int i = 0, typename Round>
inline void Each(const Round& round) {
  if constexpr (i < count) {
    round(Constant<i>{});
    Each<count, i + 1>(round);
  }
}
