// YAML through the schema: whatever the bytes, the result is a configuration or a ConfigError, and
// a configuration survives being dumped and read again. The first line, when it begins with '#set
// ', is given as an override.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"
#include "schema/schema.h"

namespace {

using weft::schema::Schema;

enum class Kind { kOne, kTwo };

struct Inner {
  std::int64_t r = 8;
  double alpha = 8;
  std::vector<std::string> names;
  std::map<std::string, double> by_name;
  bool operator==(const Inner&) const = default;
};
struct Item {
  std::string text;
  std::optional<std::int64_t> limit;
  bool operator==(const Item&) const = default;
};
struct Config {
  std::filesystem::path path;
  std::string text;
  bool flag = false;
  Kind kind = Kind::kOne;
  std::optional<double> number;
  weft::schema::Duration duration;
  weft::schema::Share share;
  weft::schema::Bytes bytes;
  Inner inner;
  std::optional<Inner> maybe;
  std::vector<Item> items;
  bool operator==(const Config&) const = default;
};

void describe(Schema<Inner>& s) {
  s.field("r", &Inner::r, "rank").at_least(1).alias("rank");
  s.field("alpha", &Inner::alpha, "alpha").positive();
  s.field("names", &Inner::names, "names");
  s.field("by_name", &Inner::by_name, "numbers by name");
}
void describe(Schema<Item>& s) {
  s.field("text", &Item::text, "text").required();
  s.field("limit", &Item::limit, "limit");
}
void describe(Schema<Config>& s) {
  s.field("path", &Config::path, "path");
  s.field("text", &Config::text, "text");
  s.field("flag", &Config::flag, "flag");
  s.choice("kind", &Config::kind, {{"one", Kind::kOne}, {"two", Kind::kTwo}}, "kind");
  s.field("number", &Config::number, "number");
  s.field("duration", &Config::duration, "duration");
  s.field("share", &Config::share, "share");
  s.field("bytes", &Config::bytes, "bytes");
  s.section("inner", &Config::inner, "inner");
  s.section("maybe", &Config::maybe, "maybe");
  s.list("items", &Config::items, "items");
  s.alias("lora_r", "inner.r");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> overrides;
  if (text.starts_with("#set ")) {
    overrides.emplace_back(text.substr(5, text.find('\n') - 5));
  }
  Config config;
  try {
    config = weft::schema::parse_config<Config>(text, {"fuzz", "/base"}, overrides);
  } catch (const weft::ConfigError&) {
    return 0;
  }
  for (const auto dump : {weft::schema::Dump::kMinimal, weft::schema::Dump::kFull}) {
    const std::string again = weft::schema::dump_config(config, dump);
    // A ConfigError here is a finding too: what is dumped has to be readable.
    if (weft::schema::parse_config<Config>(again, {"dump", "/base"}) != config) std::abort();
  }
  return 0;
}
