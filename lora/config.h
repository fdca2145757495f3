#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lora/adapter.h"

namespace weft::lora {

/// Reads the text of an adapter_config.json. `where` (the file) begins every message.
///
/// Every key is one that weft applies, one that has no bearing on the numbers (peft_version,
/// inference_mode, ...), or one that must hold its neutral value (use_dora false, modules_to_save
/// null, ...). Anything else is an InputError that names the key: also a key weft has never heard
/// of, unless its value is null, false or empty. Duplicate keys and deep nesting are refused.
///
/// `training_methods`, where it is given, gets the keys of methods that changed how the factors
/// were trained and not what they do ("velora_config"): what they keep beside the factors is not
/// used.
[[nodiscard]] AdapterConfig parse_config(std::string_view text, std::string_view where,
                                         std::vector<std::string>* training_methods = nullptr);

/// The text that PEFT 0.21.2 writes for this configuration (LoraConfig.save_pretrained): same keys,
/// sorted, indent 2, defaults of LoraConfig for what weft does not have.
/// `targets`: what "all-linear" was resolved to; PEFT saves names, never the word.
[[nodiscard]] std::string config_text(const AdapterConfig& config,
                                      const std::vector<Target>& targets);

}  // namespace weft::lora
