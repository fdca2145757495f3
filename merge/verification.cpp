#include "merge/verification.h"

#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "core/rejected.h"

namespace weft::merge {

bool Verification::accepted() const noexcept {
  return other_ids.empty() && std::isfinite(kl) && (!limit || kl <= *limit);
}

namespace {

std::string reason_of(const Verification& verification) {
  if (!verification.other_ids.empty()) {
    return fmt::format("the written tokenizer is not the base's: {}", verification.other_ids);
  }
  return fmt::format(
      "the written model is not the base with its adapters: KL divergence {:.2e} on '{}' ({} "
      "tokens; same top token {:.2f} %), the limit is {:.0e}",
      verification.kl, verification.text, verification.tokens, 100 * verification.same_top,
      verification.limit.value_or(0));
}

}  // namespace

void refuse(const Verification& verification, const std::filesystem::path& out) {
  const std::string reason = reason_of(verification);
  core::note_rejected(out, reason);
  throw Refused("{}; it is kept as '{}'", reason, core::rejected_path(out).string());
}

nlohmann::json verification_json(const Verification& verification) {
  nlohmann::json json = {{"text", verification.text},
                         {"text_sha256", verification.text_sha256},
                         {"compute", verification.compute},
                         {"device", verification.device},
                         {"tokens", verification.tokens},
                         {"kl", verification.kl},
                         {"largest_kl", verification.largest_kl},
                         {"same_top", verification.same_top},
                         {"largest_difference", verification.largest_difference},
                         {"same_ids", verification.other_ids.empty()},
                         {"accepted", verification.accepted()}};
  if (verification.limit) json["limit"] = *verification.limit;
  return json;
}

std::string verification_line(const Verification& verification) {
  const std::string limit =
      verification.limit ? fmt::format(" (limit {:.0e})", *verification.limit) : "";
  return fmt::format(
      "verified  on {} tokens of {}, in {}{}: KL {:.2e}{}, largest {:.2e}, same top token {:.2f} "
      "%, "
      "largest difference of a logit {:.2e}; the text's token ids are the base's\n",
      verification.tokens, verification.text, verification.compute,
      verification.device == "cpu" ? "" : " on " + verification.device, verification.kl, limit,
      verification.largest_kl, 100 * verification.same_top, verification.largest_difference);
}

}  // namespace weft::merge
