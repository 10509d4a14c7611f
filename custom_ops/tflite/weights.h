// The weights of a node that are not zero, from a dense tensor or from one that is encoded sparsely.
#ifndef TFCOMPRESS_TFLITE_WEIGHTS_H_
#define TFCOMPRESS_TFLITE_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "c_api.h"

namespace tfc::tflite {

// Entries (filters, kernel height x width, depth), one after the other, as convolutions of TFLite have them.
struct Entries {
  std::vector<int64_t> places;  // in the dense tensor; they increase
  std::vector<double> values;   // exactly
};

// Tensors of float32, float16, int8 or int32. NULL, or what is wrong with the tensor.
const char* ReadDense(const TfLiteTensor& tensor, Entries* entries);
const char* ReadSparse(const TfLiteTensor& tensor, Entries* entries);

}  // namespace tfc::tflite

#endif  // TFCOMPRESS_TFLITE_WEIGHTS_H_
