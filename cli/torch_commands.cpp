#include <array>
#include <memory>

#include "cli/batch_engine.h"
#include "cli/command.h"
#include "cli/fold_engine.h"
#include "cli/machine.h"
#include "cli/verify_engine.h"
#include "core/stop.h"
#include "model/device.h"

namespace weft::cli {

Run add_eval(CommandLine& app);      // eval.cpp
Run add_generate(CommandLine& app);  // generate.cpp
Run add_imatrix(CommandLine& app);   // imatrix.cpp
Run add_import(CommandLine& app);    // import.cpp
Run add_logits(CommandLine& app);    // logits.cpp
Run add_train(CommandLine& app);     // train.cpp

namespace {
constexpr std::array kCommands{
    Command{"eval", add_eval},       Command{"generate", add_generate},
    Command{"imatrix", add_imatrix}, Command{"import", add_import},
    Command{"logits", add_logits},   Command{"train", add_train},
};
}  // namespace

}  // namespace weft::cli

/// Entry of the library that the program opens for commands that need LibTorch.
extern "C" __attribute__((visibility("default"))) int weft_run_torch_command(const char* name,
                                                                             int count,
                                                                             char** arguments) {
  return weft::cli::run_command(weft::cli::kCommands, name,
                                {arguments, static_cast<std::size_t>(count)});
}

/// The same for functions that commands of the program call (cli/verification.h, cli/machine.h).
extern "C" __attribute__((visibility("default"))) weft::cli::EngineFailure weft_start_verification(
    const weft::cli::VerificationRequest& request, const weft::core::Log& log,
    weft::cli::EngineVerify& verify) {
  return weft::cli::caught([&] {
    // The program's, which its signal handlers raise: this library has core/stop.cpp once more.
    if (request.stop != nullptr) weft::core::use_stop_flag(*request.stop);
    auto measure = weft::cli::start_engine_verification(request, log);
    verify = [measure = std::move(measure)](const std::filesystem::path& written,
                                            weft::merge::Verification& found) {
      return weft::cli::caught([&] { found = measure(written); });
    };
  });
}

extern "C" __attribute__((visibility("default"))) weft::cli::EngineFailure weft_open_fold_engine(
    const std::string& device, weft::cli::FoldEngineCalls& calls) {
  return weft::cli::caught([&] {
    const std::shared_ptr<weft::lora::FoldEngine> engine =
        weft::model::open_fold_engine(weft::model::open_device(device));
    calls.description = engine->description();
    calls.begin = [engine](const weft::lora::ScaledPairs& pairs, weft::core::DType from,
                           weft::core::DType to) {
      return weft::cli::caught([&] { engine->begin(pairs, from, to); });
    };
    calls.submit = [engine](std::int64_t first_row, std::span<const std::byte> base) {
      return weft::cli::caught([&] { engine->submit(first_row, base); });
    };
    calls.collect = [engine](std::span<std::byte> out, std::span<weft::lora::FoldedRow> rows) {
      return weft::cli::caught([&] { engine->collect(out, rows); });
    };
  });
}

extern "C" __attribute__((visibility("default"))) weft::cli::EngineFailure weft_describe_machine(
    weft::model::Machine& machine) {
  constexpr double kSeconds = 1;
  return weft::cli::caught([&] { machine = weft::model::describe_machine(kSeconds); });
}

extern "C" __attribute__((visibility("default"))) weft::cli::EngineFailure weft_batch_engine(
    std::atomic<bool>& stop, weft::batch::Engine& engine) {
  return weft::cli::caught([&] {
    weft::core::use_stop_flag(stop);
    engine = weft::cli::batch_configurations();
  });
}

extern "C" __attribute__((visibility("default"))) weft::cli::EngineFailure weft_plan_training(
    const std::string& config, weft::batch::TrainPlan& plan) {
  return weft::cli::caught([&] { plan = weft::cli::plan_training(config); });
}
