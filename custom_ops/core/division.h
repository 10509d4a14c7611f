// How the work of a convolution is divided among threads.
#ifndef TFCOMPRESS_DIVISION_H_
#define TFCOMPRESS_DIVISION_H_

#include <algorithm>
#include <cstdint>

#include "shape.h"

namespace tfc {

// A part of the work of a region.
struct Piece {
  int64_t region;
  int32_t begin, end;  // units
};

// How regions of so many units each are divided among threads: each thread has one stretch of all units. So at
// most a region at either end of it is shared with others, of which each prepares the input anew: no piece is
// less than a fifth of a region, or than so many units.
class Division {
 public:
  Division(int64_t regions, int32_t units, int32_t least, int32_t threads)
      : all_(regions * units), units_(units), least_(std::min(units, std::max(least, CeilDiv(units, 5)))) {
    threads_ = static_cast<int32_t>(std::clamp<int64_t>(regions * (units_ / least_), 1, threads));
  }

  int32_t Threads() const { return threads_; }
  int64_t Pieces(int32_t thread) const {
    const int64_t begin = Begin(thread), end = Begin(thread + 1);
    return begin < end ? (end - 1) / units_ - begin / units_ + 1 : 0;
  }
  Piece At(int32_t thread, int64_t piece) const {
    const int64_t begin = Begin(thread), end = Begin(thread + 1), region = begin / units_ + piece;
    return {region, static_cast<int32_t>(std::max(begin - region * units_, int64_t{0})),
            static_cast<int32_t>(std::min(end - region * units_, int64_t{units_}))};
  }
  // In regions.
  double Length(int32_t thread) const { return double(Begin(thread + 1) - Begin(thread)) / units_; }

 private:
  int64_t Begin(int32_t thread) const {
    const int64_t begin = all_ * thread / threads_, in_region = begin % units_;
    if (in_region < least_) return begin - in_region;
    return in_region > units_ - least_ ? begin - in_region + units_ : begin;
  }

  int64_t all_;
  int32_t units_, least_, threads_;
};

}  // namespace tfc

#endif  // TFCOMPRESS_DIVISION_H_
