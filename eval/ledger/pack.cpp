#include "eval/ledger/pack.h"

#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "core/error.h"
#include "eval/metrics/answer.h"

namespace weft::eval {
namespace {

using Json = nlohmann::json;

// Columns are the numbers as they lie in memory.
static_assert(std::endian::native == std::endian::little);

constexpr int kFormat = 1;
constexpr int kLevel = 9;
constexpr unsigned long long kMaxBytes = 1ULL << 30;

/// f(item) of every item, as one string of bytes.
template <typename Range, typename Get>
Json column(const Range& items, const Get& get) {
  using Value = std::remove_cvref_t<std::invoke_result_t<Get, decltype(*items.begin())>>;
  static_assert(std::is_arithmetic_v<Value>);
  std::vector<std::uint8_t> bytes(items.size() * sizeof(Value));
  std::size_t at = 0;
  for (const auto& item : items) {
    const Value value = std::invoke(get, item);
    std::memcpy(bytes.data() + at, &value, sizeof value);
    at += sizeof value;
  }
  return Json::binary(std::move(bytes));
}

template <typename Value>
std::vector<Value> values(const Json& column) {
  const auto& bytes = column.get_binary();
  if (bytes.size() % sizeof(Value) != 0) throw std::invalid_argument("a column is cut off");
  std::vector<Value> result(bytes.size() / sizeof(Value));
  if (!result.empty()) std::memcpy(result.data(), bytes.data(), bytes.size());
  return result;
}

/// values(), which have to be as many as `count`.
template <typename Value>
std::vector<Value> values(const Json& column, std::size_t count) {
  std::vector<Value> result = values<Value>(column);
  if (result.size() != count) throw std::invalid_argument("columns differ in length");
  return result;
}

Json items_json(const std::vector<Item>& items) {
  return {{"tokens", column(items, &Item::tokens)},
          {"bytes", column(items, &Item::bytes)},
          {"loss", column(items, &Item::loss)}};
}

std::vector<Item> items_from(const Json& json) {
  const auto tokens = values<std::int64_t>(json.at("tokens"));
  const auto bytes = values<std::int64_t>(json.at("bytes"), tokens.size());
  const auto loss = values<double>(json.at("loss"), tokens.size());
  std::vector<Item> items(tokens.size());
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = {tokens[i], bytes[i], loss[i]};
  return items;
}

Json generations_json(const std::vector<Generation>& generations) {
  Json all = Json::array();
  for (const Generation& g : generations) {
    all.push_back({g.prompt, g.reference, g.output});
    if (!g.more_references.empty()) all.back().push_back(g.more_references);
  }
  return all;
}

std::vector<Generation> generations_from(const Json& json) {
  std::vector<Generation> generations;
  for (const Json& g : json) {
    generations.push_back(compare_answer(
        g.at(0).get<std::string>(), g.at(1).get<std::string>(), g.at(2).get<std::string>(),
        g.size() > 3 ? g.at(3).get<std::vector<std::string>>() : std::vector<std::string>{}));
  }
  return generations;
}

Json choices_json(const std::vector<ChoiceResult>& choices) {
  Json all = Json::array();
  for (const ChoiceResult& choice : choices) {
    const auto same = [](const auto& value) { return value; };
    Json entry{{"answer", choice.answer},
               {"log_p", column(choice.log_p, same)},
               {"log_p_alone", column(choice.log_p_alone, same)},
               {"characters", column(choice.characters, same)},
               {"bytes", column(choice.bytes, same)}};
    if (choice.flipped) entry["flipped"] = *choice.flipped;
    all.push_back(std::move(entry));
  }
  return all;
}

std::vector<ChoiceResult> choices_from(const Json& json) {
  std::vector<ChoiceResult> choices;
  for (const Json& entry : json) {
    ChoiceResult& choice = choices.emplace_back();
    choice.log_p = values<double>(entry.at("log_p"));
    const std::size_t count = choice.log_p.size();
    choice.log_p_alone = values<double>(entry.at("log_p_alone"), count);
    choice.characters = values<std::int64_t>(entry.at("characters"), count);
    choice.bytes = values<std::int64_t>(entry.at("bytes"), count);
    choice.answer = entry.at("answer").get<std::int32_t>();
    if (choice.answer < 0 || static_cast<std::size_t>(choice.answer) >= count)
      throw std::invalid_argument("an answer is none of the choices");
    if (entry.contains("flipped")) choice.flipped = entry.at("flipped").get<bool>();
  }
  return choices;
}

Json distances_json(const std::vector<TokenDistance>& distances) {
  return {{"item", column(distances, &TokenDistance::item)},
          {"kl", column(distances, &TokenDistance::kl)},
          {"loss", column(distances, &TokenDistance::loss)},
          {"reference_loss", column(distances, &TokenDistance::reference_loss)},
          {"same_top", column(distances, [](const TokenDistance& d) {
             return static_cast<std::uint8_t>(d.same_top ? 1 : 0);
           })}};
}

std::vector<TokenDistance> distances_from(const Json& json, std::size_t items) {
  const auto item = values<std::uint32_t>(json.at("item"));
  const auto kl = values<float>(json.at("kl"), item.size());
  const auto loss = values<float>(json.at("loss"), item.size());
  const auto reference_loss = values<float>(json.at("reference_loss"), item.size());
  const auto same_top = values<std::uint8_t>(json.at("same_top"), item.size());
  std::vector<TokenDistance> distances(item.size());
  for (std::size_t i = 0; i < item.size(); ++i) {
    if (item[i] >= items) throw std::invalid_argument("a token is of no item");
    distances[i] = {item[i], kl[i], loss[i], reference_loss[i], same_top[i] != 0};
  }
  return distances;
}

Json labels_json(const SuiteLabels& labels) {
  return {{"language", labels.language},
          {"must_keep", labels.must_keep},
          {"sources", column(labels.sources, [](std::uint32_t source) { return source; })},
          {"source_names", labels.source_names},
          {"metrics", labels.metrics},
          {"references", labels.references}};
}

SuiteLabels labels_from(const Json& json, std::size_t items) {
  SuiteLabels labels{.language = json.at("language").get<std::string>(),
                     .must_keep = json.at("must_keep").get<bool>(),
                     .sources = values<std::uint32_t>(json.at("sources")),
                     .source_names = json.at("source_names").get<std::vector<std::string>>(),
                     .metrics = json.value("metrics", std::vector<std::string>{}),
                     .references = json.value("references", std::size_t{1})};
  if (!labels.sources.empty() && labels.sources.size() != items)
    throw std::invalid_argument("columns differ in length");
  for (const std::uint32_t source : labels.sources) {
    if (source >= labels.source_names.size())
      throw std::invalid_argument("an item is of no source");
  }
  return labels;
}

template <typename Enum>
Enum enum_from(const Json& json, Enum last) {
  const int value = json.get<int>();
  if (value < 0 || value > static_cast<int>(last)) throw std::invalid_argument("an unknown kind");
  return static_cast<Enum>(value);
}

/// Refuses what is nested deeper than pack() nests: the reader calls itself at each level.
class DepthGuard : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool key(string_t&) override { return true; }
  bool start_object(std::size_t) override { return ++depth_ <= kDeepest; }
  bool end_object() override { return --depth_ >= 0; }
  bool start_array(std::size_t) override { return ++depth_ <= kDeepest; }
  bool end_array() override { return --depth_ >= 0; }
  bool parse_error(std::size_t, const std::string&, const Json::exception&) override {
    return false;
  }

 private:
  static constexpr int kDeepest = 8;
  int depth_ = 0;
};

Json parse(const std::vector<std::uint8_t>& plain) {
  DepthGuard guard;
  if (!Json::sax_parse(plain, &guard, Json::input_format_t::cbor))
    throw std::invalid_argument("they are not well-formed");
  return Json::from_cbor(plain);
}

std::vector<std::byte> compress(const std::vector<std::uint8_t>& plain) {
  if (plain.size() > kMaxBytes) throw IoError("the results of a suite are more than 1 GiB");
  const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(),
                                                                     &ZSTD_freeCCtx);
  if (!context) throw std::bad_alloc();
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, kLevel);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1);
  std::vector<std::byte> packed(ZSTD_compressBound(plain.size()));
  const std::size_t size =
      ZSTD_compress2(context.get(), packed.data(), packed.size(), plain.data(), plain.size());
  if (ZSTD_isError(size) != 0) throw IoError("zstd: {}", ZSTD_getErrorName(size));
  packed.resize(size);
  return packed;
}

SuiteResult suite_from(const Json& json) {
  if (json.at("format").get<int>() != kFormat)
    throw std::invalid_argument("it has another format than this program reads");
  SuiteResult suite{.name = json.at("name").get<std::string>(),
                    .kind = enum_from(json.at("kind"), SuiteKind::kChoice),
                    .unit = enum_from(json.at("unit"), Unit::kQuestion),
                    .items = items_from(json.at("items")),
                    .generations = generations_from(json.at("generations"))};
  suite.labels = labels_from(json.at("labels"), suite.items.size());
  suite.choices = choices_from(json.at("choices"));
  if (suite.kind == SuiteKind::kChoice && suite.choices.size() != suite.items.size())
    throw std::invalid_argument("columns differ in length");
  suite.distances = distances_from(json.at("distances"), suite.items.size());
  suite.other_tokenizer = json.at("other_tokenizer").get<bool>();
  suite.digest = json.at("digest").get<std::string>();
  suite.asked_digest = json.value("asked_digest", std::string());
  return suite;
}

}  // namespace

std::vector<std::byte> pack(const SuiteResult& suite) {
  const Json json{{"format", kFormat},
                  {"name", suite.name},
                  {"kind", static_cast<int>(suite.kind)},
                  {"unit", static_cast<int>(suite.unit)},
                  {"items", items_json(suite.items)},
                  {"generations", generations_json(suite.generations)},
                  {"labels", labels_json(suite.labels)},
                  {"choices", choices_json(suite.choices)},
                  {"distances", distances_json(suite.distances)},
                  {"other_tokenizer", suite.other_tokenizer},
                  {"digest", suite.digest},
                  {"asked_digest", suite.asked_digest}};
  return compress(Json::to_cbor(json));
}

SuiteResult unpack(std::span<const std::byte> bytes, std::string_view where) {
  const unsigned long long size = ZSTD_getFrameContentSize(bytes.data(), bytes.size());
  if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN || size > kMaxBytes)
    throw InputError("{}: these are no packed results", where);
  try {
    std::vector<std::uint8_t> plain(size);
    const std::size_t read =
        ZSTD_decompress(plain.data(), plain.size(), bytes.data(), bytes.size());
    if (ZSTD_isError(read) != 0 || read != size)
      throw InputError("{}: the packed results are damaged", where);
    return suite_from(parse(plain));
  } catch (const Json::exception& error) {
    throw InputError("{}: the packed results are damaged ({})", where, error.what());
  } catch (const std::invalid_argument& error) {
    throw InputError("{}: the packed results cannot be read: {}", where, error.what());
  }
}

}  // namespace weft::eval
