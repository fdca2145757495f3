#include "text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <mutex>

#include "checkpoint/gguf.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/utf8.h"
#include "text/crate_vocabulary.h"
#include "text/gguf_vocabulary.h"
#include "text/sentencepiece_vocabulary.h"
#include "text/tokenizer_config.h"
#include "text/white_space.h"

namespace weft::text {

struct Tokenizer::State {
  std::unique_ptr<Vocabulary> vocabulary;
  TokenizerConfig config;
  std::optional<std::int32_t> bos;
  std::optional<std::int32_t> eos;
  std::string description;
  std::string legacy_digest;
  std::once_flag digest_made;
  std::string digest;
};

namespace {

constexpr std::array kFileNames{"tokenizer.json",
                                "tokenizer.model",
                                "tokenizer_config.json",
                                "special_tokens_map.json",
                                "added_tokens.json",
                                "generation_config.json",
                                "config.json"};

FileTexts read_files(const std::filesystem::path& folder) {
  FileTexts files;
  for (const char* name : kFileNames) {
    if (std::filesystem::is_regular_file(folder / name)) {
      files[name] = core::read_text(folder / name);
    }
  }
  return files;
}

std::optional<std::int32_t> id_of(const Vocabulary& vocabulary, const TokenizerConfig& config,
                                  const char* name, const std::string& where) {
  const auto found = config.special_tokens.find(name);
  if (found == config.special_tokens.end()) return std::nullopt;
  const auto token = found->get<std::string>();
  const auto id = vocabulary.token_to_id(token);
  if (!id) throw InputError("{}: {} is '{}', which is not in the vocabulary", where, name, token);
  return id;
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_files(const FileTexts& files, const std::string& where,
                                const std::string& kind) {
  auto state = std::make_unique<State>();
  state->config = TokenizerConfig::parse(files, where);
  TokenizerConfig& config = state->config;
  std::string bytes;
  if (const auto json = files.find("tokenizer.json"); json != files.end()) {
    auto vocabulary = std::make_unique<CrateVocabulary>(json->second, config.added_tokens, where);
    state->description =
        kind.empty() ? fmt::format("tokenizer.json ({})", vocabulary->model_type()) : kind;
    state->vocabulary = std::move(vocabulary);
    bytes = json->second;
  } else if (const auto model = files.find("tokenizer.model"); model != files.end()) {
    state->vocabulary = std::make_unique<SentencePieceVocabulary>(model->second, config, where);
    state->description = "tokenizer.model (SentencePiece)";
    bytes = model->second;
  } else {
    throw InputError("{} has no tokenizer: neither tokenizer.json nor tokenizer.model is there",
                     where);
  }
  state->bos = id_of(*state->vocabulary, config, "bos_token", where);
  state->eos = id_of(*state->vocabulary, config, "eos_token", where);
  if (!state->bos) state->bos = config.bos_id;
  if (!state->eos && !config.eos_ids.empty()) state->eos = config.eos_ids.front();
  core::Sha256 hash;
  hash.update(bytes);
  hash.update(config.special_tokens.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  state->legacy_digest = hash.finish();
  return Tokenizer(std::move(state));
}

Tokenizer Tokenizer::load(const checkpoint::Checkpoint& model) {
  if (const checkpoint::Gguf* gguf = model.gguf()) {
    return from_files(tokenizer_files(*gguf), model.path().string(),
                      fmt::format("GGUF ({})", vocabulary_kind(*gguf)));
  }
  return from_files(read_files(model.path()), model.path().string(), "");
}

Tokenizer Tokenizer::open(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return from_files(read_files(path), path.string(), "");
  const checkpoint::Gguf gguf = checkpoint::Gguf::open(path);
  return from_files(tokenizer_files(gguf), path.string(),
                    fmt::format("GGUF ({})", vocabulary_kind(gguf)));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, AddSpecial special) const {
  return state_->vocabulary
      ->encode(core::replace_invalid_utf8(text), special == AddSpecial::kYes,
               /*with_offsets=*/false)
      .ids;
}

Tokenizer::Encoding Tokenizer::encode_with_offsets(std::string_view text,
                                                   AddSpecial special) const {
  Tokens tokens = state_->vocabulary->encode(core::replace_invalid_utf8(text),
                                             special == AddSpecial::kYes, /*with_offsets=*/true);
  return {std::move(tokens.ids), std::move(tokens.offsets)};
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, Specials specials) const {
  return state_->vocabulary->decode(ids, specials == Specials::kSkip);
}

std::int32_t Tokenizer::vocabulary_size() const { return state_->vocabulary->size(); }
std::optional<std::int32_t> Tokenizer::bos() const { return state_->bos; }
std::optional<std::int32_t> Tokenizer::eos() const { return state_->eos; }

std::vector<std::int32_t> Tokenizer::stop_ids() const {
  std::vector<std::int32_t> ids;
  if (state_->eos) ids.push_back(*state_->eos);
  for (const std::int32_t id : state_->config.eos_ids) {
    if (std::ranges::find(ids, id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
  return state_->vocabulary->token_to_id(token);
}

std::optional<std::string> Tokenizer::id_to_token(std::int32_t id) const {
  return state_->vocabulary->id_to_token(id);
}

bool Tokenizer::is_special(std::int32_t id) const { return state_->vocabulary->is_special(id); }

const nlohmann::json& Tokenizer::special_tokens() const { return state_->config.special_tokens; }
const std::string& Tokenizer::description() const { return state_->description; }

const std::string& Tokenizer::digest() const {
  std::call_once(state_->digest_made, [&] {
    const std::vector<std::int32_t> plain = encode("a");
    const std::vector<std::int32_t> whole = encode("a", AddSpecial::kYes);
    // What the tokenizer's own rule puts around a text.
    const auto begin = std::ranges::search(whole, plain).begin() - whole.begin();
    const auto end = std::min(begin + std::ssize(plain), std::ssize(whole));
    std::vector<std::int32_t> stops = stop_ids();
    std::ranges::sort(stops);
    const nlohmann::json ends{
        {"before", std::vector<std::int32_t>(whole.begin(), whole.begin() + begin)},
        {"after", std::vector<std::int32_t>(whole.begin() + end, whole.end())},
        {"bos", state_->bos.value_or(-1)},
        {"eos", state_->eos.value_or(-1)},
        {"stops", stops}};
    core::Sha256 hash;
    hash.update(state_->vocabulary->identity());
    hash.update(ends.dump());
    state_->digest = hash.finish();
  });
  return state_->digest;
}

const std::string& Tokenizer::legacy_digest() const { return state_->legacy_digest; }

bool Tokenizer::matches(std::string_view recorded) const {
  return recorded == legacy_digest() || recorded == digest();
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, Tokenizer::Specials specials)
    : tokenizer_(&tokenizer), specials_(specials) {}

std::string StreamDecoder::decode_from(std::size_t begin, std::size_t end) const {
  return tokenizer_->decode(std::span(ids_).subspan(begin, end - begin), specials_);
}

std::string StreamDecoder::push(std::int32_t id) {
  ids_.push_back(id);
  if (specials_ == Tokenizer::Specials::kSkip && tokenizer_->is_special(id)) {
    return {};  // no text, and no end to a run of bytes before it
  }
  const std::optional<std::string> token = tokenizer_->id_to_token(id);
  if (!token || byte_token(*token)) return {};

  const std::string before = decode_from(context_, settled_);
  const std::string now = decode_from(context_, ids_.size());
  if (now.ends_with(core::kReplacement) || !now.starts_with(before)) return {};
  std::string fresh = now.substr(before.size());
  if (!fresh.empty()) {
    // The last settled stretch stays as context: a decoder may treat the first token differently.
    context_ = settled_;
    settled_ = ids_.size();
    emitted_ += fresh;
  }
  return fresh;
}

std::string StreamDecoder::finish() {
  const std::string all = tokenizer_->decode(ids_, specials_);
  std::string rest = all.starts_with(emitted_) ? all.substr(emitted_.size()) : std::string();
  context_ = settled_ = ids_.size();
  emitted_ += rest;
  return rest;
}

}  // namespace weft::text
