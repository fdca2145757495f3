#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace weft::text {
class PieceModel;
}

namespace weft::eval {

/// A SentencePiece model that BLEU is counted on the pieces of. It is read when it is first needed:
/// a report that has the sums does without.
class BleuPieces {
 public:
  /// `digest`: how the file's SHA-256 has to begin; empty: whatever it is.
  BleuPieces(std::filesystem::path file, std::string digest, std::string signature);
  ~BleuPieces();

  /// As part of BLEU's signature: "flores200", "spm-0123456789ab".
  [[nodiscard]] const std::string& signature() const { return signature_; }
  /// The model. InputError when the file is not there, is another one or cannot be read.
  [[nodiscard]] const text::PieceModel& model() const;

 private:
  struct State;
  std::filesystem::path file_;
  std::string digest_;
  std::string signature_;
  std::unique_ptr<State> state_;
};

/// sacrebleu's tokenizers "flores200", "flores101", "spBLEU-1K" and "spm", which is flores101: the
/// file that sacrebleu keeps in its own folder, $SACREBLEU or ~/.sacrebleu. Null for another name.
[[nodiscard]] std::shared_ptr<const BleuPieces> sacrebleu_pieces(std::string_view name);

/// A model of the user's, "FILE" or "FILE@DIGEST" with the first 12 digits of its SHA-256.
[[nodiscard]] std::shared_ptr<const BleuPieces> pieces_of_file(std::string_view text);

/// "FILE@DIGEST" of such a text, by reading the file where there is no digest yet. InputError when
/// it cannot be read.
[[nodiscard]] std::string with_digest(std::string_view text);

}  // namespace weft::eval
