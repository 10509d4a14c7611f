// The outputs of a map one after another, where vectors may begin with any of them.
#ifndef TFCOMPRESS_STRIP_H_
#define TFCOMPRESS_STRIP_H_

#include <cstdint>
#include <vector>

#include "shape.h"

namespace tfc {

// Row after row, with so many places between rows that a tap reads what lies equally far from each output. Beyond
// a row there is nothing of the map: zeros, for its end and for the begin of the next row.
struct Strip {
  // Of the input, counted from the first pixel that a tap reads, the rows and columns that leave these remainders
  // when divided by the strides: as far from each other as the outputs.
  struct Phase {
    int32_t row, column;
    int32_t first_line, lines;  // of the plane, for the outputs of a region
  };

  int32_t pitch, length;  // places from a row to the next; up to the last output
  int32_t lines;          // of all phases
  std::vector<Phase> phases;
  // (kernel_height, kernel_width): where a tap reads for the region's first output, in places
  std::vector<int32_t> taps;
  int32_t kernel_width;
};

// For regions of so many outputs, and lines of so many places.
Strip MakeStrip(const tfc_shape& shape, OutputSize size, int32_t outputs, int32_t line_places);

}  // namespace tfc

#endif  // TFCOMPRESS_STRIP_H_
