#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace weft::text {

/// A SentencePiece model that cuts texts into pieces, for scores that are counted on pieces. It is
/// no model's tokenizer: there are no ids and no added tokens. Several threads may use one.
class PieceModel {
 public:
  /// InputError when the file cannot be read or SentencePiece refuses it.
  explicit PieceModel(const std::filesystem::path& file);
  ~PieceModel();
  PieceModel(const PieceModel&) = delete;
  PieceModel& operator=(const PieceModel&) = delete;

  /// SentencePiece's EncodeAsPieces.
  [[nodiscard]] std::vector<std::string> pieces(std::string_view text) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft::text
