// A plan without its weights: what follows from how many there are.
#ifndef TFCOMPRESS_OUTLINE_H_
#define TFCOMPRESS_OUTLINE_H_

#include <cstdint>

#include "kernel.h"
#include "shape.h"
#include "sparse_conv.h"
#include "tiling.h"

namespace tfc {

struct Outline {
  const Kernel* kernel;
  tfc_shape shape;
  OutputSize size;
  Work work;
  Tiling tiling;
};

// The kernels that are in this build, and the one of that name, or the best of this processor.
const Kernel* KernelAt(int32_t index);
tfc_status FindKernel(const char* name, const Kernel** found);

// `weights` are not zero; so many `channels` are read by any of them.
tfc_status MakeOutline(const tfc_shape& shape, int64_t weights, int32_t channels, const tfc_options& options,
                       Outline* made);

}  // namespace tfc

#endif  // TFCOMPRESS_OUTLINE_H_
