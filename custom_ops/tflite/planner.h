// Which convolutions to take over, and which maps between them stay in tiles: what is predicted to be fastest.
#ifndef TFCOMPRESS_TFLITE_PLANNER_H_
#define TFCOMPRESS_TFLITE_PLANNER_H_

#include <cstdint>
#include <vector>

#include "../core/sparse_conv.h"

namespace tfc::tflite {

// A convolution, with the addition that follows it if there is one. Maps have numbers.
struct Unit {
  bool in_int8, dense_in_int8;  // its maps; how others would compute it
  bool needed;                  // whether it must be taken
  bool follows;                 // whether nothing else runs between it and the one before
  tfc_shape shape;
  tfc_weight_counts counts;
  int32_t input, output;
  int32_t residual;  // -1 where nothing is added
  int32_t images;    // in a batch
};

struct Choice {
  bool taken;
  const char* kernel;
  tfc_tiles tiles;
  bool tiled_input, tiled_residual, tiled_output;
  double dense_seconds, sparse_seconds;  // per image
};

struct Setting {
  const char *kernel, *int8_kernel;  // by the type of maps; NULL for the best
  tfc_machine machine, int8_machine;
  int32_t threads;
  bool force;  // whether to take everything over
};

// `visible[map]` says that others see a map, too, so it must be an image.
// Units come in the order in which they run.
std::vector<Choice> Plan(const std::vector<Unit>& units, const std::vector<bool>& visible, const Setting& setting);

// The tiles and formats alone, of units that are all taken and follow each other, and how many threads are best.
struct Formats {
  std::vector<Choice> choices;
  int32_t threads;
};
Formats PlanFormats(const std::vector<Unit>& units, const std::vector<bool>& visible, const Setting& setting);

}  // namespace tfc::tflite

#endif  // TFCOMPRESS_TFLITE_PLANNER_H_
