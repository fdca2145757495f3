#include "checkpoint/json_file.h"

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/printable.h"
#include "core/error.h"
#include "core/file.h"

namespace weft::checkpoint {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;
constexpr std::uint64_t kMaxFile = std::uint64_t{256} << 20;

/// What nlohmann's parser cannot refuse by itself: depth and keys that come twice.
template <typename Value>
class Guard {
 public:
  explicit Guard(std::string_view where) : where_(where) {}

  bool operator()(int depth, typename Value::parse_event_t event, const Value& value) {
    using Event = typename Value::parse_event_t;
    if (event == Event::object_start) {
      if (depth >= kMaxDepth) throw_deep();
      keys_.emplace_back();
    } else if (event == Event::array_start) {
      if (depth >= kMaxDepth) throw_deep();
    } else if (event == Event::object_end) {
      keys_.pop_back();
    } else if (event == Event::key) {
      const auto& key = value.template get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        throw InputError("{}: the key {} appears twice in one object", where_, printable(key));
      }
    }
    return true;
  }

 private:
  [[noreturn]] void throw_deep() const {
    throw InputError("{}: nested deeper than {} levels", where_, kMaxDepth);
  }

  std::string_view where_;
  std::vector<std::set<std::string>> keys_;  ///< Of the objects that are open.
};

[[noreturn]] void throw_not_json(std::string_view text, std::size_t position,
                                 std::string_view where) {
  const std::string_view before = text.substr(0, position);
  const auto line = 1 + std::ranges::count(before, '\n');
  const auto newline = before.rfind('\n');
  const auto column = before.size() - (newline == std::string_view::npos ? 0 : newline + 1) + 1;
  throw InputError("{}:{}:{}: not JSON", where, line, column);
}

template <typename Value>
Value parse(std::string_view text, std::string_view where) {
  // nlohmann's parser takes a zero byte for the end of its input.
  if (const auto zero = text.find('\0'); zero != std::string_view::npos) {
    throw_not_json(text, zero, where);
  }
  Guard<Value> guard(where);
  try {
    return Value::parse(text, std::ref(guard));
  } catch (const typename Value::parse_error& error) {
    throw_not_json(text, error.byte == 0 ? 0 : error.byte - 1, where);
  } catch (const typename Value::exception& error) {  // A number out of range.
    throw InputError("{}: not JSON that can be read: {}", where, error.what());
  }
}

}  // namespace

json parse_json(std::string_view text, std::string_view where) { return parse<json>(text, where); }

nlohmann::ordered_json parse_ordered_json(std::string_view text, std::string_view where) {
  return parse<nlohmann::ordered_json>(text, where);
}

json read_json(const std::filesystem::path& path) {
  return parse_json(core::read_text(path, kMaxFile), path.string());
}

json read_json_object(const std::filesystem::path& path) {
  json value = read_json(path);
  if (!value.is_object()) {
    throw InputError("{}: expected a JSON object, found {}", path.string(), value.type_name());
  }
  return value;
}

}  // namespace weft::checkpoint
