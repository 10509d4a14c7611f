// The external delegate: reads options, picks nodes, and puts kernels in their places.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "c_api.h"
#include "graph.h"
#include "kernel.h"
#include "planner.h"

namespace tfc::tflite {
namespace {

constexpr int kMostThreads = 1024;

struct Options {
  int threads = 0;  // 0 for those of the interpreter
  bool force = false;
  int verbosity = 0;
  std::string kernel;                 // empty for the best
  std::string machine, int8_machine;  // numbers of a tfc_machine, with commas between; empty to measure them

  // The kernel for one type of maps; NULL for the best.
  const char* KernelOf(bool int8) const {
    const bool other = (kernel.rfind("int8_", 0) == 0) != int8;
    return kernel.empty() || other ? nullptr : kernel.c_str();
  }
};

bool ReadNumber(const std::string& text, int most, int* number) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < 0 || value > most) return false;
  *number = static_cast<int>(value);
  return true;
}

bool ReadOption(const std::string& key, const std::string& value, Options* options) {
  int number = 0;
  if (key == "num_threads") return ReadNumber(value, kMostThreads, &options->threads) && options->threads > 0;
  if (key == "force") {
    if (!ReadNumber(value, 1, &number)) return false;
    options->force = number == 1;
    return true;
  }
  if (key == "verbosity") return ReadNumber(value, 2, &options->verbosity);
  if (key == "kernel") {
    options->kernel = value;
    return true;
  }
  if (key != "machine" && key != "int8_machine") return false;
  (key == "machine" ? options->machine : options->int8_machine) = value;
  return true;
}

bool ReadMachine(const std::string& text, tfc_machine* machine) {
  double* numbers[1 + sizeof(machine->steps) / sizeof(double)] = {&machine->dense};
  for (size_t i = 1; i < sizeof(numbers) / sizeof(*numbers); ++i) numbers[i] = &machine->steps[i - 1];
  const char* at = text.c_str();
  for (double* number : numbers) {
    char* end = nullptr;
    *number = std::strtod(at, &end);
    if (end == at || !(*number >= 0) || *number > 1e300) return false;
    at = *end == ',' ? end + 1 : end;
  }
  return *at == '\0' && machine->dense > 0;
}

using MeasureMachine = decltype(&tfc_measure_machine);

// Measured once in a process, by kernel.
tfc_status MachineOfThisProcess(MeasureMachine measure, const char* kernel, tfc_machine* machine) {
  static std::mutex mutex;
  static std::map<std::pair<MeasureMachine, std::string>, tfc_machine> machines;
  const std::lock_guard lock(mutex);
  const auto key = std::make_pair(measure, std::string(kernel == nullptr ? "" : kernel));
  const auto found = machines.find(key);
  if (found != machines.end()) {
    *machine = found->second;
    return TFC_OK;
  }
  const auto status = measure(kernel, machine);
  if (status == TFC_OK) machines[key] = *machine;
  return status;
}

class Delegate {
 public:
  Delegate(const Options& options, const tfc_machine& machine, const tfc_machine& int8_machine)
      : options_(options), machine_(machine), int8_machine_(int8_machine) {
    delegate_.data_ = this;
    delegate_.Prepare = [](TfLiteContext* context, TfLiteDelegate* delegate) {
      try {
        return static_cast<Delegate*>(delegate->data_)->Prepare(context);
      } catch (const std::exception& error) {
        context->ReportError(context, "tfcompress: %s", error.what());
        return kTfLiteError;
      }
    };
    delegate_.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  }

  TfLiteDelegate* get() { return &delegate_; }

 private:
  TfLiteStatus Prepare(TfLiteContext* context) {
    const std::lock_guard lock(mutex_);  // interpreters may share a delegate
    graph_ = {};
    if (ReadGraph(context, &graph_) != kTfLiteOk) {
      context->ReportError(context, "tfcompress: this runtime does not show its graph");
      return kTfLiteError;
    }
    std::vector<Sizes> sizes;
    LeaveOutUnsized(context, &sizes);
    if (const auto status = MeasureInt8()) {
      context->ReportError(context, "tfcompress: kernel %s: %s", options_.kernel.c_str(),
                           tfc_status_message(status));
      return kTfLiteError;
    }
    setting_ = {options_.KernelOf(false), options_.KernelOf(true), machine_, int8_machine_,
                Threads(*context),        options_.force};
    std::vector<Unit> units = UnitsOf(graph_.steps, sizes);
    if (FindFollowers(context, &units) != kTfLiteOk) return kTfLiteError;
    const std::vector<Choice> choices = Plan(units, VisibleTensors(), setting_);
    Report(*context, choices);
    std::vector<int> nodes = NodesOf(choices);
    while (nodes[0] > 0 && PartAdditions(context, nodes)) nodes = NodesOf(choices);
    if (nodes[0] == 0) return kTfLiteOk;
    const auto status =
        context->ReplaceNodeSubsetsWithDelegateKernels(context, Registration(), ArrayOf(nodes), &delegate_);
    graph_ = {};  // kernels have what they need of its weights
    return status;
  }

  // Which units run without others' nodes between them and the ones before.
  TfLiteStatus FindFollowers(TfLiteContext* context, std::vector<Unit>* units) const {
    TfLiteIntArray* order = nullptr;
    if (context->GetExecutionPlan(context, &order) != kTfLiteOk) return kTfLiteError;
    std::map<int, size_t> unit_of;
    for (size_t i = 0; i < units->size(); ++i) {
      for (const int node : graph_.steps[i].nodes) unit_of[node] = i;
    }
    std::vector<bool> begun(units->size(), false);
    bool others = true;
    for (int i = 0; i < order->size; ++i) {
      const auto unit = unit_of.find(order->data[i]);
      if (unit == unit_of.end()) {
        others = true;
      } else if (!begun[unit->second]) {
        begun[unit->second] = true;
        (*units)[unit->second].follows = !others;
        others = false;
      }
    }
    return kTfLiteOk;
  }

  // Few graphs have convolutions in int8.
  tfc_status MeasureInt8() {
    const auto in_int8 = [](const Step& step) { return step.convolution.weights_in_int8; };
    const bool known = int8_machine_.dense > 0;
    if (known || std::none_of(graph_.steps.begin(), graph_.steps.end(), in_int8)) return TFC_OK;
    return MachineOfThisProcess(tfc_int8_measure_machine, options_.KernelOf(true), &int8_machine_);
  }

  // All that is taken, behind their number.
  std::vector<int> NodesOf(const std::vector<Choice>& choices) const {
    std::vector<int> nodes = {0};
    for (size_t i = 0; i < choices.size(); ++i) {
      if (choices[i].taken) nodes.insert(nodes.end(), graph_.steps[i].nodes.begin(), graph_.steps[i].nodes.end());
    }
    nodes[0] = static_cast<int>(nodes.size()) - 1;
    return nodes;
  }

  static const TfLiteIntArray* ArrayOf(const std::vector<int>& nodes) {
    return reinterpret_cast<const TfLiteIntArray*>(nodes.data());
  }

  // TFLite runs what is taken in parts, with nodes of others in between. Additions that come to another part than
  // their convolution, since they wait for such nodes, are left to others. Whether there were any.
  bool PartAdditions(TfLiteContext* context, const std::vector<int>& nodes) {
    TfLiteDelegateParams* parts = nullptr;
    int count = 0;
    if (context->PreviewDelegatePartitioning(context, ArrayOf(nodes), &parts, &count) != kTfLiteOk) count = 0;
    bool any = false;
    for (Step& step : graph_.steps) {
      const auto has = [&](const TfLiteDelegateParams& part) { return Together(step, *part.nodes_to_replace); };
      if (step.residual < 0 || !Has(ArrayOf(nodes), step.nodes.back()) || std::any_of(parts, parts + count, has))
        continue;
      LeaveAddition(&step);
      any = true;
    }
    return any;
  }

  static bool Has(const TfLiteIntArray* nodes, int node) {
    return std::count(nodes->data, nodes->data + nodes->size, node) > 0;
  }

  // Whether the convolution and the addition behind it are among these.
  static bool Together(const Step& step, const TfLiteIntArray& nodes) {
    const size_t last = step.nodes.size() - 1;
    return Has(&nodes, step.nodes[last]) && (step.residual < 0 || Has(&nodes, step.nodes[last - 1]));
  }

  int32_t Threads(const TfLiteContext& context) const {
    return options_.threads > 0 ? options_.threads
                                : std::min(std::max(1, context.recommended_num_threads), kMostThreads);
  }

  // Sizes as tensors have them now; they may change later, but what is worth while rarely does.
  void LeaveOutUnsized(TfLiteContext* context, std::vector<Sizes>* sizes) {
    std::vector<Step> kept;
    for (Step& step : graph_.steps) {
      Sizes found;
      if (FindSizes(step.convolution, DimsOf(context->tensors[step.input]), &found) != TFC_OK) {
        graph_.refusals.push_back({step.nodes.back(), "its sizes are not known, or make no convolution"});
        continue;
      }
      found.images = std::max(found.images, 1);
      sizes->push_back(found);
      kept.push_back(std::move(step));
    }
    graph_.steps = std::move(kept);
  }

  // Tensors that nodes read which no step stands for.
  std::vector<bool> VisibleTensors() const {
    std::vector<bool> visible(graph_.readers.size(), false);
    std::vector<int> ours;
    for (const Step& step : graph_.steps) ours.insert(ours.end(), step.nodes.begin(), step.nodes.end());
    for (size_t tensor = 0; tensor < visible.size(); ++tensor) {
      const std::vector<int>& readers = graph_.readers[tensor];
      visible[tensor] = readers.empty();  // an output of the model
      for (const int node : readers) {
        if (std::count(ours.begin(), ours.end(), node) == 0) visible[tensor] = true;
      }
    }
    return visible;
  }

  void Report(const TfLiteContext& context, const std::vector<Choice>& choices) const {
    if (options_.verbosity == 0) return;
    size_t taken = 0;
    for (size_t i = 0; i < choices.size(); ++i) {
      const Choice& choice = choices[i];
      taken += choice.taken;
      if (options_.verbosity < 2) continue;
      const char* name = context.tensors[graph_.steps[i].output].name;
      std::fprintf(stderr, "tfcompress: %s %s: dense %.0f us, %s %.0f us%s%s\n", choice.taken ? "takes" : "leaves",
                   name == nullptr ? "" : name, choice.dense_seconds * 1e6,
                   choice.kernel == nullptr ? "sparse" : choice.kernel, choice.sparse_seconds * 1e6,
                   choice.tiled_input ? ", input in tiles" : "", choice.tiled_output ? ", output in tiles" : "");
    }
    for (const Refusal& refusal : graph_.refusals) {
      if (options_.verbosity >= 2)
        std::fprintf(stderr, "tfcompress: leaves node %d: %s\n", refusal.node, refusal.reason.c_str());
    }
    std::fprintf(stderr, "tfcompress: takes %zu of %zu convolutions\n", taken,
                 choices.size() + graph_.refusals.size());
  }

  // ------------------------------------------------------------ kernels

  static TfLiteRegistration Registration() {
    TfLiteRegistration registration = {};
    registration.init = [](TfLiteContext* context, const char* params, size_t) {
      return MakeKernel(context, *reinterpret_cast<const TfLiteDelegateParams*>(params));
    };
    registration.free = [](TfLiteContext*, void* kernel) { delete static_cast<Kernel*>(kernel); };
    registration.prepare = [](TfLiteContext* context, TfLiteNode* node) {
      return Guarded(context, node, &Kernel::Prepare);
    };
    registration.invoke = [](TfLiteContext* context, TfLiteNode* node) {
      return Guarded(context, node, &Kernel::Invoke);
    };
    registration.builtin_code = kTfLiteBuiltinDelegate;
    registration.custom_name = "TfcompressSparseConv";
    registration.version = 1;
    return registration;
  }

  static TfLiteStatus Guarded(TfLiteContext* context, TfLiteNode* node,
                              TfLiteStatus (Kernel::*call)(TfLiteContext*)) {
    if (node->user_data == nullptr) return kTfLiteError;
    try {
      return (static_cast<Kernel*>(node->user_data)->*call)(context);
    } catch (const std::exception& error) {
      context->ReportError(context, "tfcompress: %s", error.what());
      return kTfLiteError;
    }
  }

  // Called by TFLite while Prepare runs, so the graph is that of this interpreter.
  static void* MakeKernel(TfLiteContext* context, const TfLiteDelegateParams& params) {
    auto& self = *static_cast<Delegate*>(params.delegate->data_);
    try {
      const TfLiteIntArray& nodes = *params.nodes_to_replace;
      std::vector<Step> steps;
      for (const Step& step : self.graph_.steps) {
        if (Together(step, nodes)) steps.push_back(step);
      }
      const TfLiteIntArray& outputs = *params.output_tensors;
      return new Kernel(std::move(steps), {outputs.data, outputs.data + outputs.size}, self.setting_);
    } catch (const std::exception& error) {
      context->ReportError(context, "tfcompress: %s", error.what());
      return nullptr;
    }
  }

  TfLiteDelegate delegate_ = {};
  const Options options_;
  const tfc_machine machine_;
  tfc_machine int8_machine_;  // zeros while it is not known
  std::mutex mutex_;
  Graph graph_;
  Setting setting_ = {};
};

}  // namespace
}  // namespace tfc::tflite

TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t count,
                                              void (*report_error)(const char*)) {
  using namespace tfc::tflite;
  const auto fail = [&](const std::string& message) -> TfLiteDelegate* {
    if (report_error != nullptr) report_error(message.c_str());
    return nullptr;
  };
  try {
    Options options;
    for (size_t i = 0; i < count; ++i) {
      if (keys[i] == nullptr || values[i] == nullptr || !ReadOption(keys[i], values[i], &options)) {
        return fail(std::string("tfcompress: the option ") + (keys[i] == nullptr ? "" : keys[i]) + "=" +
                    (values[i] == nullptr ? "" : values[i]) +
                    " is none of num_threads=1..1024, force=0|1, verbosity=0|1|2, kernel=NAME, machine=NUMBERS, "
                    "int8_machine=NUMBERS");
      }
    }
    tfc_machine machine, int8_machine = {};
    const bool read = (options.machine.empty() || ReadMachine(options.machine, &machine)) &&
                      (options.int8_machine.empty() || ReadMachine(options.int8_machine, &int8_machine));
    if (!read) return fail("tfcompress: the option machine or int8_machine has no such numbers");
    if (options.machine.empty()) {
      const auto status = MachineOfThisProcess(tfc_measure_machine, options.KernelOf(false), &machine);
      if (status != TFC_OK)
        return fail(std::string("tfcompress: kernel ") + options.kernel + ": " + tfc_status_message(status));
    }
    return (new Delegate(options, machine, int8_machine))->get();
  } catch (const std::exception& error) {
    return fail(std::string("tfcompress: ") + error.what());
  }
}

void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) {
  if (delegate != nullptr) delete static_cast<tfc::tflite::Delegate*>(delegate->data_);
}
