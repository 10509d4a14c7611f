// A child of fork() has none of the threads of its parent: it computes all the same, and ends.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "convolutions.h"

namespace {

constexpr unsigned kMostSeconds = 60;

// The outputs, or none.
std::vector<float> Run(const tfc_tests::Convolution& c) {
  const tfc_weights weights = c.Weights();
  tfc_plan* plan = nullptr;
  if (tfc_plan_create(&c.shape, &weights, c.Bias(), c.activation, nullptr, &plan) != TFC_OK) return {};
  std::vector<float> output(c.outputs);
  const tfc_status status = tfc_plan_run(plan, c.input.data(), output.data(), c.batch, 3);
  tfc_plan_destroy(plan);
  return status == TFC_OK ? output : std::vector<float>();
}

}  // namespace

int main() {
  tfc_tests::Random random(1);
  const tfc_tests::Convolution c(tfc_tests::Shape(40, 40, 16, 16, 3, 1), 2, 50, &random);
  const std::vector<float> expected = Run(c);
  const pid_t child = fork();
  alarm(kMostSeconds);  // its signal ends either of them
  if (expected.empty() || Run(c) != expected) return 1;
  int status = 0;
  if (child != 0 && waitpid(child, &status, 0) != child) return 1;
  return status == 0 ? 0 : 1;  // by way of all that runs at the end of a process
}
