// The library comes and goes: what its plans took, memory and threads, is given back.
//
//   loading LIBRARY ROUNDS PLANS     in each round loads it, makes, runs and destroys PLANS plans, unloads it
//
// It prints the kernel that ran them. Built with -fsanitize=leak, its exit status also tells of memory left
// behind.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

#include "../core/sparse_conv.h"

namespace {

#define FIND(library, name) reinterpret_cast<decltype(&name)>(dlsym(library, #name))

// Those of this process.
int Threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<int>(std::distance(begin(tasks), end(tasks)));
}

// A thread that was joined may be seen a moment longer.
bool ThreadsEnd(int left) {
  constexpr int kMilliseconds = 2000;
  for (int waited = 0; Threads() > left && waited < kMilliseconds; ++waited) usleep(1000);
  return Threads() <= left;
}

bool RunPlans(void* library, int plans, std::string* kernel) {
  const auto create = FIND(library, tfc_plan_create);
  const auto run = FIND(library, tfc_plan_run);
  const auto name = FIND(library, tfc_plan_kernel);
  const auto destroy = FIND(library, tfc_plan_destroy);
  const tfc_shape shape = {20, 20, 16, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  const std::vector<int32_t> indices = {0, 17, 300, 2303};
  const std::vector<float> values = {1, 2, 3, 4}, input(20 * 20 * 16, 1.0f);
  const tfc_weights weights = {static_cast<int64_t>(indices.size()), indices.data(), values.data()};
  std::vector<float> output(input.size());
  for (int i = 0; i < plans; ++i) {
    tfc_plan* plan = nullptr;
    if (create(&shape, &weights, nullptr, TFC_RELU, nullptr, &plan) != TFC_OK) return false;
    const tfc_status status = run(plan, input.data(), output.data(), 1, 2);
    *kernel = name(plan);
    destroy(plan);
    if (status != TFC_OK) return false;
  }
  return true;
}

// What went wrong, or NULL.
const char* Round(const char* file, int plans, std::string* kernel) {
  const int before = Threads();
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return dlerror();
  if (!RunPlans(library, plans, kernel)) return "a plan was not made or not run";
  if (dlclose(library) != 0) return dlerror();
  if (dlopen(file, RTLD_NOW | RTLD_NOLOAD) != nullptr) return "the library stays loaded";
  return ThreadsEnd(before) ? nullptr : "threads stay";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::printf("usage: loading LIBRARY ROUNDS PLANS\n");
    return 2;
  }
  std::string kernel;
  for (int left = std::atoi(argv[2]); left > 0; --left) {
    if (const char* wrong = Round(argv[1], std::atoi(argv[3]), &kernel)) {
      std::printf("%s\n", wrong);
      return 1;
    }
  }
  std::printf("%s\n", kernel.c_str());
  return 0;
}
