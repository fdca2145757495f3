#include "text/sentencepiece_vocabulary.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "core/utf8.h"
#include "text/white_space.h"

namespace weft::text {
namespace {

/// Serialized fields that, appended to a model, set normalizer_spec.add_dummy_prefix: a repeated
/// message field is merged into the earlier one (protobuf encoding, "last one wins").
constexpr std::string_view kWithPrefix{"\x1A\x02\x18\x01", 4};
constexpr std::string_view kWithoutPrefix{"\x1A\x02\x18\x00", 4};

void load(sentencepiece::SentencePieceProcessor& processor, std::string_view model,
          std::string_view prefix, const std::string& where) {
  const std::string bytes = std::string(model).append(prefix);
  std::string problem;
  try {
    if (const auto status = processor.LoadFromSerializedProto(bytes); !status.ok()) {
      problem = status.ToString();
    }
  } catch (const std::exception& error) {  // of the library's own tables
    problem = error.what();
  }
  if (!problem.empty()) {
    throw InputError("{}: SentencePiece cannot read the model: {}", where, problem);
  }
}

/// A reader of protobuf's wire format, as much of it as the list of pieces needs.
class Wire {
 public:
  explicit Wire(std::string_view bytes) : bytes_(bytes) {}

  struct Field {
    std::uint64_t number;
    std::uint64_t value;     ///< Of a varint.
    std::string_view bytes;  ///< Of a length-delimited field.
  };
  /// The next field; nothing at the end, or where the bytes are no protobuf message.
  std::optional<Field> next() {
    std::uint64_t tag = 0;
    if (bytes_.empty() || !varint(tag)) return std::nullopt;
    Field field{tag >> 3, 0, {}};
    switch (tag & 7) {
      case 0: return varint(field.value) ? std::optional(field) : std::nullopt;
      case 1: return take(8) ? std::optional(field) : std::nullopt;
      case 5: return take(4) ? std::optional(field) : std::nullopt;
      case 2: {
        std::uint64_t size = 0;
        if (!varint(size) || size > bytes_.size()) return std::nullopt;
        field.bytes = bytes_.substr(0, size);
        bytes_.remove_prefix(size);
        return field;
      }
      default: return std::nullopt;
    }
  }

 private:
  bool varint(std::uint64_t& value) {
    value = 0;
    for (unsigned shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      const auto byte = static_cast<std::uint8_t>(bytes_.front());
      bytes_.remove_prefix(1);
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if ((byte & 0x80U) == 0) return true;
    }
    return false;
  }
  bool take(std::size_t size) {
    if (size > bytes_.size()) return false;
    bytes_.remove_prefix(size);
    return true;
  }

  std::string_view bytes_;
};

/// The pieces of a model that its trainer was given as symbols (ModelProto.pieces with type
/// USER_DEFINED; sentencepiece_model.proto). SentencePiece's interface does not tell them.
std::vector<std::string_view> user_defined_pieces(std::string_view model) {
  constexpr std::uint64_t kUserDefined = 4;
  std::vector<std::string_view> pieces;
  Wire file(model);
  while (const auto field = file.next()) {
    if (field->number != 1) continue;
    std::string_view text;
    std::uint64_t type = 1;
    Wire piece(field->bytes);
    while (const auto part = piece.next()) {
      if (part->number == 1) text = part->bytes;
      if (part->number == 3) type = part->value;
    }
    if (type == kUserDefined) pieces.push_back(text);
  }
  return pieces;
}

/// Bytes that were tokens of their own: the text they spell, or one U+FFFD each when they spell
/// none (the ByteFallback decoder of the `tokenizers` crate).
void flush(std::string& bytes, std::string& out) {
  if (core::replace_invalid_utf8(bytes) == bytes) {
    out += bytes;
  } else {
    for (std::size_t i = 0; i < bytes.size(); ++i) out += core::kReplacement;
  }
  bytes.clear();
}

/// Appends a piece as it reads: with spaces for SentencePiece's own sign.
void append_piece(std::string_view piece, std::string& out) {
  for (std::size_t at = piece.find(kSentencePieceSpace); at != std::string_view::npos;
       at = piece.find(kSentencePieceSpace)) {
    out += piece.substr(0, at);
    out += ' ';
    piece.remove_prefix(at + kSentencePieceSpace.size());
  }
  out += piece;
}

}  // namespace

struct SentencePieceVocabulary::State {
  struct Added {
    AddedToken token;
    std::int32_t id;
  };
  /// A part of the text: one added token, or what is between two.
  struct Part {
    std::size_t begin;
    std::size_t end;
    const Added* added;  // null: plain text
  };

  std::string where;
  std::string model_digest;
  sentencepiece::SentencePieceProcessor with_prefix;
  sentencepiece::SentencePieceProcessor without_prefix;
  std::vector<Added> added;
  std::unordered_map<std::int32_t, std::size_t> by_id;         // into `added`
  std::unordered_map<char, std::vector<std::size_t>> by_char;  // first byte -> longest first
  std::int32_t size = 0;
  bool prefix = true;                ///< A space goes before the text.
  bool legacy = false;               ///< And after each added token.
  bool llama_rule = true;            ///< But not where the text begins with one.
  std::vector<std::int32_t> before;  ///< BOS and EOS by the tokenizer's own rule.
  std::vector<std::int32_t> after;

  void add(AddedToken token);
  void index();
  void set_ends(const TokenizerConfig& config);
  [[nodiscard]] std::optional<std::int32_t> find(std::string_view token) const;
  [[nodiscard]] const Added* match(std::string_view rest) const;
  [[nodiscard]] std::vector<Part> split(std::string_view text) const;
  void encode(std::string_view text, const Part& part, Tokens& out) const;
};

std::optional<std::int32_t> SentencePieceVocabulary::State::find(std::string_view token) const {
  for (const Added& other : added) {
    if (other.token.content == token) return other.id;
  }
  const std::int32_t id = with_prefix.PieceToId(token);
  if (id < 0 || with_prefix.IdToPiece(id) != token) return std::nullopt;
  return id;
}

/// A token that is there already keeps its place; the configuration's own list decides its flags.
void SentencePieceVocabulary::State::add(AddedToken token) {
  if (token.content.empty()) return;
  if (token.single_word) {
    throw InputError(
        "{}: the added token '{}' is \"single_word\", which is supported only with a "
        "tokenizer.json",
        where, token.content);
  }
  const auto same = std::ranges::find_if(
      added, [&](const Added& other) { return other.token.content == token.content; });
  if (same != added.end()) {
    const bool special = same->token.special || token.special;
    if (token.id) same->token = std::move(token);
    same->token.special = special;
    return;
  }
  const std::int32_t id = find(token.content).value_or(size);
  if (id == size) ++size;
  added.push_back({std::move(token), id});
}

void SentencePieceVocabulary::State::index() {
  for (std::size_t i = 0; i < added.size(); ++i) {
    by_id.emplace(added[i].id, i);
    by_char[added[i].token.content.front()].push_back(i);
  }
  for (auto& [first, candidates] : by_char) {
    std::ranges::stable_sort(candidates, std::ranges::greater{},
                             [&](std::size_t i) { return added[i].token.content.size(); });
  }
}

void SentencePieceVocabulary::State::set_ends(const TokenizerConfig& config) {
  const auto set = [&](bool wanted, const char* name, std::vector<std::int32_t>& out) {
    if (!wanted || !config.special_tokens.contains(name)) return;
    if (const auto id = find(config.special_tokens[name].get<std::string>())) out = {*id};
  };
  set(config.add_bos_token.value_or(false), "bos_token", before);
  set(config.add_eos_token.value_or(false), "eos_token", after);
}

/// The longest added token at the beginning of `rest`; null when there is none.
const SentencePieceVocabulary::State::Added* SentencePieceVocabulary::State::match(
    std::string_view rest) const {
  const auto candidates = by_char.find(rest.front());
  if (candidates == by_char.end()) return nullptr;
  for (const std::size_t i : candidates->second) {
    if (rest.starts_with(added[i].token.content)) return &added[i];
  }
  return nullptr;
}

/// Cuts the text at added tokens, leftmost and longest first; "lstrip" and "rstrip" ones take the
/// white space beside them.
std::vector<SentencePieceVocabulary::State::Part> SentencePieceVocabulary::State::split(
    std::string_view text) const {
  std::vector<Part> parts;
  std::size_t begin = 0;  // of the plain text not yet cut off
  for (std::size_t at = 0; at < text.size();) {
    const Added* found = match(text.substr(at));
    if (found == nullptr) {
      ++at;
      continue;
    }
    std::size_t left = at;
    std::size_t right = at + found->token.content.size();
    if (found->token.lstrip) left -= trailing_white_space(text.substr(begin, left - begin));
    if (found->token.rstrip) right += leading_white_space(text.substr(right));
    if (left > begin) parts.push_back({begin, left, nullptr});
    parts.push_back({left, right, found});
    begin = at = right;
  }
  if (begin < text.size()) parts.push_back({begin, text.size(), nullptr});
  return parts;
}

void SentencePieceVocabulary::State::encode(std::string_view text, const Part& part,
                                            Tokens& out) const {
  if (part.added != nullptr) {
    out.ids.push_back(part.added->id);
    out.offsets.emplace_back(part.begin, part.end);
    return;
  }
  const std::string_view piece = text.substr(part.begin, part.end - part.begin);
  const bool spaced = piece.starts_with(' ') || piece.starts_with(kSentencePieceSpace);
  const bool prefixed = prefix && !(llama_rule && spaced) && (legacy || part.begin == 0);
  const auto& processor = prefixed ? with_prefix : without_prefix;
  const auto encoded = processor.EncodeAsImmutableProto(piece);
  for (const auto& token : encoded.pieces()) {
    out.ids.push_back(static_cast<std::int32_t>(token.id()));
    out.offsets.emplace_back(part.begin + token.begin(), part.begin + token.end());
  }
}

SentencePieceVocabulary::SentencePieceVocabulary(std::string_view model, TokenizerConfig& config,
                                                 std::string where)
    : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.where = std::move(where);
  state.llama_rule = config.tokenizer_class.starts_with("Llama") ||
                     config.tokenizer_class.starts_with("CodeLlama");
  state.model_digest = core::sha256(model);
  load(state.with_prefix, model, state.llama_rule ? kWithPrefix : "", state.where);
  load(state.without_prefix, model, kWithoutPrefix, state.where);
  // transformers' Llama classes do not ask the model whether it was trained with a prefix.
  state.prefix = state.llama_rule
                     ? config.add_prefix_space.value_or(true)
                     : state.with_prefix.EncodeAsIds("a") != state.without_prefix.EncodeAsIds("a");
  state.legacy = config.legacy.value_or(false);
  state.size = state.with_prefix.GetPieceSize();

  const auto own = [&](const char* name, int id) {
    if (id < 0 || config.special_tokens.contains(name)) return;
    config.special_tokens[name] = state.with_prefix.IdToPiece(id);
  };
  own("bos_token", state.with_prefix.bos_id());
  own("eos_token", state.with_prefix.eos_id());
  own("unk_token", state.with_prefix.unk_id());
  for (std::int32_t id = 0; id < state.with_prefix.GetPieceSize(); ++id) {
    if (!state.with_prefix.IsControl(id)) continue;
    state.add({.content = state.with_prefix.IdToPiece(id),
               .special = true,
               .normalized = false,
               .id = std::nullopt});
  }
  for (const std::string_view piece : user_defined_pieces(model)) {
    state.add(
        {.content = std::string(piece), .special = false, .normalized = false, .id = std::nullopt});
  }
  for (const AddedToken& token : config.added_tokens) state.add(token);
  for (const auto& [name, token] : config.special_tokens.items()) {
    state.add({.content = token.get<std::string>(),
               .special = true,
               .normalized = false,
               .id = std::nullopt});
  }
  state.index();
  state.set_ends(config);
}

SentencePieceVocabulary::~SentencePieceVocabulary() = default;

Tokens SentencePieceVocabulary::encode(std::string_view text, bool add_special,
                                       bool with_offsets) const {
  Tokens out;
  const auto add = [&](const std::vector<std::int32_t>& ids) {
    for (const std::int32_t id : ids) {
      out.ids.push_back(id);
      out.offsets.emplace_back(0, 0);  // stands for no text, as the crate reports it
    }
  };
  if (add_special) add(state_->before);
  for (const State::Part& part : state_->split(text)) state_->encode(text, part, out);
  if (add_special) add(state_->after);
  if (!with_offsets) out.offsets.clear();
  return out;
}

std::string SentencePieceVocabulary::decode(std::span<const std::int32_t> ids,
                                            bool skip_special) const {
  std::string out;
  std::string bytes;
  for (const std::int32_t id : ids) {
    if (skip_special && is_special(id)) continue;
    const std::optional<std::string> token = id_to_token(id);
    if (!token) continue;
    if (const auto byte = byte_token(*token)) {
      bytes += static_cast<char>(*byte);
      continue;
    }
    flush(bytes, out);
    append_piece(*token, out);
  }
  flush(bytes, out);
  if (state_->prefix && out.starts_with(' ')) out.erase(0, 1);
  return out;
}

std::int32_t SentencePieceVocabulary::size() const { return state_->size; }

std::optional<std::int32_t> SentencePieceVocabulary::token_to_id(std::string_view token) const {
  return state_->find(token);
}

std::optional<std::string> SentencePieceVocabulary::id_to_token(std::int32_t id) const {
  if (const auto found = state_->by_id.find(id); found != state_->by_id.end()) {
    return state_->added[found->second].token.content;
  }
  if (id < 0 || id >= state_->with_prefix.GetPieceSize()) return std::nullopt;
  return state_->with_prefix.IdToPiece(id);
}

std::string SentencePieceVocabulary::identity() const {
  nlohmann::json added = nlohmann::json::array();
  for (const State::Added& entry : state_->added) {
    added.push_back({entry.id, entry.token.content, entry.token.special, entry.token.lstrip,
                     entry.token.rstrip});
  }
  return nlohmann::json{{"sentencepiece", state_->model_digest},
                        {"added", added},
                        {"prefix", state_->prefix},
                        {"legacy", state_->legacy},
                        {"llama", state_->llama_rule}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool SentencePieceVocabulary::is_special(std::int32_t id) const {
  const auto found = state_->by_id.find(id);
  return found != state_->by_id.end() && state_->added[found->second].token.special;
}

}  // namespace weft::text
