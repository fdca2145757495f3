#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lora/adapter.h"

// Who reads an adapter as it is, who refuses it, and who takes it and computes something else. The
// rules are what the readers' sources do (docs/export.md, "Who reads what").

namespace weft::exporting {

/// What an adapter has that readers differ on, found in its configuration and its tensors' names.
/// Unlike lora::PeftFile this takes adapters that weft itself cannot use.
struct AdapterTraits {
  bool rslora = false;
  bool alpha_differs = false;     ///< alpha_pattern is not empty.
  bool rank_differs = false;      ///< rank_pattern is not empty, or the tensors' ranks differ.
  bool alpha_fractional = false;  ///< lora_alpha is not a whole number.
  bool dora = false;
  bool full_modules = false;    ///< modules_to_save, or whole embeddings beside the factors.
  bool bias = false;            ///< bias or lora_bias
  bool trained_tokens = false;  ///< trainable_token_indices
  bool changed_base = false;    ///< PiSSA, OLoRA, CorDA, LoftQ: the base was changed in training.
  bool experts = false;         ///< target_parameters
  bool other_method = false;    ///< peft_type is not LORA.
  bool head = false;            ///< Factors of lm_head.
  bool embedding = false;       ///< Factors of an embedding.
  bool attention_qk = false;    ///< Factors of q_proj or k_proj.
  bool activated = false;       ///< aLoRA: works from its invocation tokens on.
  bool block_diagonal = false;  ///< use_bdlora
  bool replicated = false;      ///< layer_replication
  /// Other variants of LoRA by the key that turns them on ("use_qalora").
  std::vector<std::string> variants{};

  /// What weft itself cannot read, so that none of its commands is a way out.
  [[nodiscard]] bool is_foreign() const {
    return other_method || changed_base || activated || block_diagonal || replicated ||
           !variants.empty();
  }
  std::int64_t rank = 0;  ///< The largest.
};

/// InputError when the directory holds no PEFT adapter, or no pair of factors.
[[nodiscard]] AdapterTraits traits_of(const std::filesystem::path& directory);
/// Those that the adapter will have when it is written as a PEFT directory.
[[nodiscard]] AdapterTraits traits_of(const lora::Adapter& adapter);

enum class Verdict { kReads, kRefuses, kMisreads };

/// "reads", "refuses", "misreads"
[[nodiscard]] std::string_view name_of(Verdict verdict) noexcept;

struct ReaderReport {
  std::string reader;
  Verdict verdict = Verdict::kReads;  ///< The worst of the reasons; misreading is worse.
  std::vector<std::string> reasons;   ///< Why it does not, one sentence each.
  std::vector<std::string> notes;     ///< What to mind where it does.
  std::vector<std::string> repairs;   ///< Commands that make an output it reads.
};

/// "vllm", "llama.cpp", "ollama", "lorax", "transformers"
[[nodiscard]] std::span<const std::string_view> known_readers() noexcept;

/// ConfigError for a reader that is not known.
[[nodiscard]] ReaderReport check_reader(const AdapterTraits& adapter, std::string_view reader);

[[nodiscard]] nlohmann::json report_json(std::span<const ReaderReport> reports);
/// A few lines for people.
[[nodiscard]] std::string report_table(std::span<const ReaderReport> reports);

}  // namespace weft::exporting
