#include "eval/metrics/bleu_pieces.h"

#include <array>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "text/piece_model.h"

namespace weft::eval {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDigits = 12;

struct Published {
  std::string_view name;
  std::string_view signature;
  std::string_view file;
};

/// sacrebleu/tokenizers/tokenizer_spm.py: the names of the files are those of its addresses.
constexpr std::array kPublished{
    Published{"flores200", "flores200", "flores200sacrebleuspm"},
    Published{"flores101", "flores101", "sacrebleu_tokenizer_spm.model"},
    Published{"spm", "flores101", "sacrebleu_tokenizer_spm.model"},
    Published{"spBLEU-1K", "spBLEU-1K", "spbleu-1k_tokenizer_spm.model"},
};

fs::path sacrebleu_folder() {
  const char* const own = std::getenv("SACREBLEU");
  if (own != nullptr && *own != '\0') return own;
  const char* const home = std::getenv("HOME");
  return fs::path(home != nullptr ? home : ".") / ".sacrebleu";
}

/// Where the digest begins in "FILE@0123456789ab", at the '@'.
std::optional<std::size_t> digest_in(std::string_view text) {
  const std::size_t at = text.rfind('@');
  if (at == text.npos || text.size() - at - 1 != kDigits) return std::nullopt;
  const bool hex = text.find_first_not_of("0123456789abcdef", at + 1) == text.npos;
  return hex ? std::optional(at) : std::nullopt;
}

}  // namespace

struct BleuPieces::State {
  std::once_flag once;
  std::unique_ptr<text::PieceModel> model;
};

BleuPieces::BleuPieces(fs::path file, std::string digest, std::string signature)
    : file_(std::move(file)),
      digest_(std::move(digest)),
      signature_(std::move(signature)),
      state_(std::make_unique<State>()) {}

BleuPieces::~BleuPieces() = default;

const text::PieceModel& BleuPieces::model() const {
  std::call_once(state_->once, [this] {
    std::error_code error;
    if (!fs::exists(file_, error)) {
      throw InputError(
          "BLEU is counted on the pieces of {}, which is not there; {}", file_.string(),
          digest_.empty() ? "let sacrebleu download it once (sacrebleu -tok " + signature_ +
                                "), or copy its folder models/ from a machine that has it"
                          : "name the file where it is");
    }
    if (!core::sha256(core::read_text(file_)).starts_with(digest_)) {
      throw InputError(
          "{} is another file than the one that was recorded, whose SHA-256 begins "
          "with {}",
          file_.string(), digest_);
    }
    state_->model = std::make_unique<text::PieceModel>(file_);
  });
  return *state_->model;
}

std::shared_ptr<const BleuPieces> sacrebleu_pieces(std::string_view name) {
  for (const Published& published : kPublished) {
    if (published.name != name) continue;
    return std::make_shared<BleuPieces>(sacrebleu_folder() / "models" / published.file, "",
                                        std::string(published.signature));
  }
  return nullptr;
}

std::shared_ptr<const BleuPieces> pieces_of_file(std::string_view text) {
  const std::string whole = with_digest(text);
  const std::size_t at = whole.rfind('@');
  const std::string digest = whole.substr(at + 1);
  return std::make_shared<BleuPieces>(whole.substr(0, at), digest, "spm-" + digest);
}

std::string with_digest(std::string_view text) {
  if (digest_in(text)) return std::string(text);
  return fmt::format("{}@{}", text, core::sha256(core::read_text(text)).substr(0, kDigits));
}

}  // namespace weft::eval
