#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace weft::merge {

/// How far a written model's predictions are from those of the base with its adapters, on a text of
/// the user's. Measured by whoever has the engine (cli/verification.h): this folder only asks for
/// it, records it and acts on it.
struct Verification {
  std::string text;            ///< As given.
  std::string text_sha256;     ///< Of the file's bytes.
  std::string compute;         ///< "f32" or "bf16": the numbers that both were computed in.
  std::string device = "cpu";  ///< What computed them; a GPU as "cuda:0 (NVIDIA H200, 9.0)".
  std::int64_t tokens = 0;     ///< Positions compared.
  double kl = 0;               ///< Mean KL(base and adapters || written), nats a token.
  double largest_kl = 0;       ///< Of one token.
  double same_top = 1;  ///< Share of tokens at which both have the same most likely next one.
  double largest_difference = 0;  ///< Of one logit, absolute.
  std::optional<double> limit;    ///< Of the mean KL; empty: measured, nothing is refused.
  /// The first place of the text at which the written tokenizer gives other ids than the base's;
  /// empty where all are the same.
  std::string other_ids;

  /// Whether the ids are the same, and the mean is a number and within the limit.
  [[nodiscard]] bool accepted() const noexcept;
};

/// The default limit: an order above what storing as bf16 or f16 does to a model, an order below
/// what 4-bit formats do (docs/merge.md).
inline constexpr double kVerificationLimit = 1e-3;

/// Measures a model that lies at `written` but has not got its final name yet.
using Verify = std::function<Verification(const std::filesystem::path& written)>;

/// Refused (exit status 3) with the figures and where the output lies, which is
/// core::rejected_path(out); the same words are noted beside it (core::note_rejected).
[[noreturn]] void refuse(const Verification& verification, const std::filesystem::path& out);

[[nodiscard]] nlohmann::json verification_json(const Verification& verification);
/// One line for people, as in the tables of reports.
[[nodiscard]] std::string verification_line(const Verification& verification);

}  // namespace weft::merge
