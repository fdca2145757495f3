#include "cli/device_option.h"

#include "core/device_name.h"

namespace weft::cli {

CommandOption declare_device(CommandLine& app, const std::string& option, std::string& device,
                             const std::string& what, const std::string& rest) {
  return app
      .option(option, device,
              what + ": cpu (default), cuda (the first GPU) or cuda:N" + rest + " (docs/gpu.md)")
      .type("NAME")
      .checked([](const std::string& name) { return core::device_name_fault(name).value_or(""); });
}

}  // namespace weft::cli
