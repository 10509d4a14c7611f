// What stands in the graph for nodes that were taken over: their plans, and the maps between them.
#ifndef TFCOMPRESS_TFLITE_KERNEL_H_
#define TFCOMPRESS_TFLITE_KERNEL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "c_api.h"
#include "graph.h"
#include "planner.h"

namespace tfc::tflite {

class Kernel {
 public:
  // `outputs` are the tensors that others read.
  Kernel(std::vector<Step> steps, const std::vector<int>& outputs, const Setting& setting);

  TfLiteStatus Prepare(TfLiteContext* context);
  TfLiteStatus Invoke(TfLiteContext* context);

 private:
  struct Destroy {
    void operator()(tfc_plan* plan) const { tfc_plan_destroy(plan); }
  };
  using PlanPointer = std::unique_ptr<tfc_plan, Destroy>;

  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };

  // A map that only this kernel sees: how many floats, and while which steps run.
  struct Buffer {
    int64_t floats;
    size_t first, last;
    int64_t offset;
  };

  bool Visible(int tensor) const;
  tfc_status Measure(TfLiteContext* context, std::vector<Sizes>* sizes);
  tfc_status MakePlans(const std::vector<Sizes>& sizes);
  TfLiteStatus ResizeOutputs(TfLiteContext* context, const std::vector<Sizes>& sizes);
  void PlaceBuffers(const std::vector<Sizes>& sizes);
  TfLiteStatus Run(TfLiteContext* context);
  float* Map(TfLiteContext* context, int tensor) const;
  static TfLiteStatus Fail(TfLiteContext* context, tfc_status status);

  std::vector<Step> steps_;
  std::vector<int> outputs_;
  Setting setting_;
  std::vector<Sizes> sizes_;  // that plans were made for
  std::vector<Choice> choices_;
  int32_t threads_ = 1;
  std::vector<PlanPointer> plans_;
  std::map<int, Buffer> buffers_;  // by tensor
  std::unique_ptr<float, Free> memory_;
  int64_t memory_floats_ = 0;
};

// The units of steps that follow each other, for the planner, which knows maps by tensors. `sizes` as of
// FindSizes.
std::vector<Unit> UnitsOf(const std::vector<Step>& steps, const std::vector<Sizes>& sizes);

}  // namespace tfc::tflite

#endif  // TFCOMPRESS_TFLITE_KERNEL_H_
