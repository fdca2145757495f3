#include "eval/run/text.h"

#include <algorithm>

#include "core/error.h"
#include "data/record.h"
#include "eval/statistics/spread.h"
#include "eval/statistics/statistics_of.h"

namespace weft::eval {
namespace {

std::string document_of(const data::Record& record) {
  const auto text = record.values.find("text");
  if (text == record.values.end() || !text->is_string()) {
    throw InputError("{}: expected a string \"text\" in the row", record.origin.text());
  }
  return text->get<std::string>();
}

void require_text(const std::vector<std::string>& documents, const std::filesystem::path& path) {
  if (std::ranges::all_of(documents, &std::string::empty))
    throw InputError("{}: there is no text to score in it", path.string());
}

/// Tokens of one document and, where bytes per window are wanted, where each token ends.
text::Tokenizer::Encoding encode(const std::string& document, const text::Tokenizer& tokenizer,
                                 std::int32_t prefix, text::AddSpecial special, bool offsets) {
  const auto marker = tokenizer.id_to_token(prefix);
  if (marker && document.starts_with(*marker)) special = text::AddSpecial::kNo;
  if (offsets) return tokenizer.encode_with_offsets(document, special);
  return {.ids = tokenizer.encode(document, special), .offsets = {}};
}

}  // namespace

std::int32_t prefix_token(const text::Tokenizer& tokenizer) {
  if (const auto bos = tokenizer.bos()) return *bos;
  if (const auto eos = tokenizer.eos()) return *eos;
  throw InputError(
      "the tokenizer ({}) has neither BOS nor EOS, so nothing can stand before a text's first "
      "token; set bos_token or eos_token in tokenizer_config.json",
      tokenizer.description());
}

std::string source_text(const nlohmann::ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number()) return value.dump();
  throw InputError("the source of a row must be text or a number, found {}", value.dump());
}

std::vector<std::string> read_documents(const std::filesystem::path& path,
                                        std::optional<std::int64_t> limit) {
  return read_sourced_documents(path, limit, {}).texts;
}

SourcedDocuments read_sourced_documents(const std::filesystem::path& path,
                                        std::optional<std::int64_t> limit,
                                        const std::string& source) {
  const auto format = data::format_of(path);
  const bool by_line = format == data::Format::kJsonl || format == data::Format::kJson;
  data::RecordOptions options;
  options.format = by_line ? *format : data::Format::kText;
  options.documents = data::Documents::kFile;
  const auto reader = data::open_records(path, options, [](const data::Fault& fault) {
    throw InputError("{}: {}", fault.origin.text(), fault.what);
  });
  std::vector<std::string> documents, sources;
  while (const auto record = reader->next()) {
    documents.push_back(document_of(*record));
    if (source.empty()) continue;
    const auto found = record->values.find(source);
    if (found == record->values.end())
      throw InputError("{}: there is no column '{}'", record->origin.text(), source);
    sources.push_back(source_text(*found));
  }
  require_text(documents, path);
  SourcedDocuments chosen;
  for (const std::size_t index : spread(documents.size(), limit)) {
    chosen.texts.push_back(std::move(documents[index]));
    if (!sources.empty()) chosen.sources.push_back(std::move(sources[index]));
  }
  return chosen;
}

std::vector<std::string> data_documents(const data::DatasetConfig& config,
                                        std::optional<std::int64_t> limit, const core::Log& log) {
  std::vector<std::string> documents;
  for (data::Sample& sample : data::load_samples(config, log)) {
    documents.push_back(std::move(sample.text));
  }
  require_text(documents, config.path.front());
  std::vector<std::string> chosen;
  for (const std::size_t index : spread(documents.size(), limit)) {
    chosen.push_back(std::move(documents[index]));
  }
  return chosen;
}

Pass window_pass(std::span<const std::int32_t> tokens, std::int32_t prefix, const Window& window) {
  const auto token = [&](std::int64_t at) {
    return at < 0 ? prefix : tokens[static_cast<std::size_t>(at)];
  };
  Pass pass;
  for (std::int64_t at = window.begin - window.context; at + 1 < window.end; ++at) {
    pass.tokens.push_back(token(at));
    pass.targets.push_back(at + 1 < window.begin ? data::kNoTarget : token(at + 1));
  }
  return pass;
}

RollingText rolling_text(std::span<const std::string> documents, const text::Tokenizer& tokenizer,
                         std::int64_t max_tokens, text::AddSpecial special,
                         std::optional<std::int64_t> stride) {
  const std::int32_t prefix = prefix_token(tokenizer);
  const bool by_window = documents.size() < kEnoughDocuments;
  RollingText result;
  result.unit = by_window ? Unit::kWindow : Unit::kDocument;
  for (std::uint32_t number = 0; const std::string& document : documents) {
    const auto encoding = encode(document, tokenizer, prefix, special, by_window);
    const auto length = static_cast<std::int64_t>(document.size());
    if (!by_window) result.items.push_back({.bytes = length});
    std::int64_t counted = 0;  // bytes that earlier windows stand for
    for (const Window& window :
         rolling_windows(static_cast<std::int64_t>(encoding.ids.size()), max_tokens, stride)) {
      if (by_window) {
        const auto last = static_cast<std::size_t>(window.end - 1);
        const bool is_last = last + 1 == encoding.ids.size();
        const std::int64_t end =
            is_last ? length : std::max<std::int64_t>(counted, encoding.offsets[last].second);
        result.items.push_back({.bytes = end - counted});
        counted = end;
      }
      result.item_of_pass.push_back(result.items.size() - 1);
      result.passes.push_back(window_pass(encoding.ids, prefix, window));
    }
    result.document_of_item.resize(result.items.size(), number++);
  }
  return result;
}

RollingText chunked_text(std::span<const std::string> documents, const text::Tokenizer& tokenizer,
                         std::int64_t chunk) {
  const auto bos = tokenizer.bos();
  const std::vector<std::int32_t> nothing = tokenizer.encode("", text::AddSpecial::kYes);
  const bool adds_bos = bos && !nothing.empty() && nothing.front() == *bos;
  RollingText result;
  result.unit = Unit::kWindow;
  for (std::uint32_t number = 0; const std::string& document : documents) {
    const auto encoding = tokenizer.encode_with_offsets(
        document, adds_bos ? text::AddSpecial::kYes : text::AddSpecial::kNo);
    const auto tokens = static_cast<std::int64_t>(encoding.ids.size());
    if (tokens < 2 * chunk) {
      throw InputError(
          "document {} has {} tokens; windows: llama needs two chunks of {} (window_tokens)",
          number + 1, tokens, chunk);
    }
    for (const Window& window : llama_windows(tokens, chunk)) {
      const auto first = static_cast<std::size_t>(window.begin);
      const auto last = static_cast<std::size_t>(window.end - 1);
      result.items.push_back(
          {.bytes = encoding.offsets[last].second - std::int64_t{encoding.offsets[first].first}});
      result.item_of_pass.push_back(result.items.size() - 1);
      result.passes.push_back(window_pass(encoding.ids, 0, window));
      if (adds_bos) result.passes.back().tokens.front() = *bos;
    }
    result.document_of_item.resize(result.items.size(), number++);
  }
  return result;
}

std::vector<Item> items_with_losses(const RollingText& text, std::span<const PassLoss> losses) {
  std::vector<Item> items = text.items;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    Item& item = items[text.item_of_pass[i]];
    item.tokens += losses[i].tokens;
    item.loss += losses[i].loss;
  }
  return items;
}

}  // namespace weft::eval
