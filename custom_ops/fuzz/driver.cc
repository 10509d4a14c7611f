// Stands in for libFuzzer where that is not: inputs are random bytes, and earlier inputs with some bytes
// changed.
//
//   fuzz_plan SEED COUNT
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr unsigned kMostSeconds = 30;  // for an input, under a sanitizer on a busy machine
constexpr size_t kKept = 64;           // inputs that others are made from

using Input = std::vector<uint8_t>;

Input Make(const std::vector<Input>& kept, std::mt19937_64* random) {
  const bool changed = !kept.empty() && (*random)() % 2;
  Input input = changed ? kept[(*random)() % kept.size()] : Input((*random)() % 200);
  const size_t changes = changed ? 1 + (*random)() % 4 : input.size();
  for (size_t i = 0; i < changes && !input.empty(); ++i) {
    input[changed ? (*random)() % input.size() : i] = static_cast<uint8_t>((*random)());
  }
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::printf("usage: fuzz_plan SEED COUNT\n");
    return 2;
  }
  std::mt19937_64 random(std::strtoull(argv[1], nullptr, 10));
  std::vector<Input> kept;
  for (long left = std::atol(argv[2]); left > 0; --left) {
    const Input input = Make(kept, &random);
    alarm(kMostSeconds);  // its signal ends the process
    LLVMFuzzerTestOneInput(input.data(), input.size());
    kept.resize(kept.size() < kKept ? kept.size() + 1 : kKept);
    kept[random() % kept.size()] = input;
  }
  return 0;
}
