// The plans of one node of a graph: made for the weights and the size of map it is called with, and kept.
#ifndef TFCOMPRESS_TF_PLANS_H_
#define TFCOMPRESS_TF_PLANS_H_

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "../core/sparse_conv.h"
#include "tensorflow.h"

struct Weights {
  Tensor indices, values, bias;
};

class Plans {
 public:
  // The plan stays valid for its holder, though the next call may make another one.
  tfc_status Find(const tfc_shape& shape, tfc_activation activation, Weights weights,
                  std::shared_ptr<const tfc_plan>* plan);

 private:
  struct Known {
    tfc_shape shape;
    Weights weights;
    std::shared_ptr<const tfc_plan> plan;
  };

  // Outside of graphs, layers of one kind share a node; and a node may see maps of several sizes.
  static constexpr size_t kMost = 8;

  std::mutex mutex_;
  std::vector<Known> known_;  // the last used first; no two of one shape and the same indices
};

#endif  // TFCOMPRESS_TF_PLANS_H_
