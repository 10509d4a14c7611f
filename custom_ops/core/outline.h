// A plan without its weights: what follows from how many there are.
#ifndef TFCOMPRESS_OUTLINE_H_
#define TFCOMPRESS_OUTLINE_H_

#include <cstdint>
#include <vector>

#include "blocks.h"
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
  Tiling tiling;             // where lanes are parts of the map
  BlockTiling block_tiling;  // where they are filters
};

enum Type { kFloat32, kInt8 };

// Channels in a word of four bytes.
inline int32_t DepthOf(Type type) { return type == kInt8 ? 4 : 1; }

// The kernels for maps of a type that are in this build, and of these the one of that name, or the best of each
// kind.
const Kernel* KernelAt(Type type, int32_t index);
tfc_status FindKernels(Type type, const char* name, std::vector<const Kernel*>* found);

// The outline that takes least if steps take `each`.
tfc_status MakeOutline(Type type, const tfc_shape& shape, const tfc_weight_counts& counts,
                       const tfc_options& options, const Costs& each, Outline* made);

// How often it takes each kind of step.
Costs CountsOf(const Outline& outline);

}  // namespace tfc

#endif  // TFCOMPRESS_OUTLINE_H_
