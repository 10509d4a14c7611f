#include "plans.h"

#include <algorithm>
#include <cstring>
#include <utility>

tfc_status Plans::Find(const tfc_shape& shape, tfc_activation activation, Weights weights,
                       std::shared_ptr<const tfc_plan>* plan) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(known_.begin(), known_.end(), [&](const Known& known) {
    return std::memcmp(&known.shape, &shape, sizeof(shape)) == 0 &&
           Same<int32_t>(known.weights.indices, weights.indices);
  });
  const bool structure = found != known_.end();
  const bool numbers = structure && Same<float>(found->weights.values, weights.values) &&
                       Same<float>(found->weights.bias, weights.bias);
  std::shared_ptr<const tfc_plan> made = numbers ? found->plan : nullptr;
  if (!numbers) {
    tfc_plan* raw = nullptr;
    const tfc_weights given = {Count(weights.values), Data<int32_t>(weights.indices), Data<float>(weights.values)};
    const float* bias = Data<float>(weights.bias);
    const tfc_status status = structure ? tfc_plan_with_values(found->plan.get(), given.values, bias, &raw)
                                        : tfc_plan_create(&shape, &given, bias, activation, nullptr, &raw);
    if (status != TFC_OK) return status;
    made.reset(raw, [](const tfc_plan* old) { tfc_plan_destroy(const_cast<tfc_plan*>(old)); });
  }
  *plan = made;
  Known known = {shape, std::move(weights), std::move(made)};  // with these tensors, to be met in this place again
  if (structure) {
    *found = std::move(known);
    std::rotate(known_.begin(), found, found + 1);
    return TFC_OK;
  }
  if (known_.size() == kMost) known_.pop_back();
  known_.insert(known_.begin(), std::move(known));
  return TFC_OK;
}
