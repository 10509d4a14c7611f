// Running a plan.
#ifndef TFCOMPRESS_RUN_H_
#define TFCOMPRESS_RUN_H_

#include <cstdint>

#include "plan.h"

namespace tfc {

struct Maps {
  const float* input;
  const float* residual;  // or NULL
  float* output;
};

tfc_status Run(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads);

}  // namespace tfc

#endif  // TFCOMPRESS_RUN_H_
