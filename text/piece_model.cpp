#include "text/piece_model.h"

#include <sentencepiece_processor.h>

#include <exception>

#include "core/error.h"
#include "core/file.h"

namespace weft::text {

struct PieceModel::State {
  sentencepiece::SentencePieceProcessor processor;
};

PieceModel::PieceModel(const std::filesystem::path& file) : state_(std::make_unique<State>()) {
  std::string problem;
  try {
    const auto status = state_->processor.LoadFromSerializedProto(core::read_text(file));
    if (!status.ok()) problem = status.ToString();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {  // of the library's own tables
    problem = error.what();
  }
  if (!problem.empty()) {
    throw InputError("{}: SentencePiece cannot read the model: {}", file.string(), problem);
  }
}

PieceModel::~PieceModel() = default;

std::vector<std::string> PieceModel::pieces(std::string_view text) const {
  std::vector<std::string> pieces;
  const auto status = state_->processor.Encode(text, &pieces);
  if (!status.ok()) throw InputError("SentencePiece cannot cut a text: {}", status.ToString());
  return pieces;
}

}  // namespace weft::text
