// Divisions of random work among threads: every unit in one piece, no piece too small, no thread with too much.
//
//   divisions SEED COUNT
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "../core/division.h"
#include "convolutions.h"

namespace {

using tfc::Division;
using tfc::Piece;
using tfc_tests::Random;

// The first of what is wrong, or NULL.
const char* Wrong(int64_t regions, int32_t units, int32_t least, int32_t threads) {
  const Division division(regions, units, least, threads);
  if (division.Threads() < 1 || division.Threads() > threads) return "so many threads are not there";
  const double whole = static_cast<double>((regions + division.Threads() - 1) / division.Threads());
  int64_t next = 0;
  for (int32_t thread = 0; thread < division.Threads(); ++thread) {
    double length = 0;
    for (int64_t i = 0; i < division.Pieces(thread); ++i) {
      const Piece piece = division.At(thread, i);
      if (piece.region * units + piece.begin != next) return "a unit is in no piece, or in two";
      if (piece.end > units) return "a piece goes on in the next region";
      const int32_t size = piece.end - piece.begin;
      if (size < units && (size < least || size * 5 < units)) return "a piece is too small";
      next += size;
      length += static_cast<double>(size) / units;
    }
    if (std::abs(length - division.Length(thread)) > 1e-6) return "pieces are not as long as they say";
    if (length > whole) return "with whole regions, no thread would have so much";
  }
  return next == regions * units ? nullptr : "not all units are in pieces";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  Random random(std::strtoul(argv[1], nullptr, 10));
  for (long i = std::strtol(argv[2], nullptr, 10); i > 0; --i) {
    const int32_t regions = random.Between(0, 30), units = random.Between(1, 60);
    const int32_t least = random.Between(1, 20), threads = random.Between(1, 12);
    if (const char* wrong = Wrong(regions, units, least, threads)) {
      std::printf("%d regions of %d units, %d at least, %d threads: %s\n", regions, units, least, threads, wrong);
      return 1;
    }
  }
}
