#include <fmt/format.h>

#include "schema/schema.h"

namespace weft::schema {
namespace {

void append_comment(std::string& out, const std::string& margin, const std::string& text) {
  constexpr std::size_t kColumns = 96;
  const std::string start = margin + "# ";
  std::string line = start;
  std::size_t begin = 0;
  while (begin < text.size()) {
    std::size_t end = text.find(' ', begin);
    if (end == std::string::npos) end = text.size();
    const std::string word = text.substr(begin, end - begin);
    if (line.size() > start.size() && line.size() + word.size() + 1 > kColumns) {
      out += line + "\n";
      line = start;
    }
    if (line.size() > start.size()) line += ' ';
    line += word;
    begin = end + 1;
  }
  out += line + "\n";
}

std::string explain(const FieldInfo& field, void* defaults) {
  std::string text = field.doc;
  if (field.shape != FieldInfo::Shape::kValue) return text;
  std::string facts = field.type.name();
  if (const std::string bounds = field.bounds.text(); !bounds.empty()) facts += ", " + bounds;
  if (field.is_required)
    facts += "; required";
  else
    facts += "; default " + emit_flow(field.write(defaults));
  return fmt::format("{} ({})", text, facts);
}

class Dumper {
 public:
  explicit Dumper(Dump dump) : dump_(dump) {}

  /// The lines of a section. `defaults` is the object that the values are compared with.
  std::string section(const SectionInfo& info, void* object, void* defaults, int indent) {
    std::string out;
    for (const FieldInfo& field : info.fields) {
      std::string text = one(field, object, defaults, indent);
      if (text.empty()) continue;
      if (dump_ == Dump::kFull) {
        if (!out.empty()) out += "\n";
        append_comment(out, std::string(static_cast<std::size_t>(indent), ' '),
                       explain(field, defaults));
      }
      out += text;
    }
    return out;
  }

 private:
  std::string one(const FieldInfo& field, void* object, void* defaults, int indent) {
    const std::string key = std::string(static_cast<std::size_t>(indent), ' ') + field.name + ":";
    if (field.shape == FieldInfo::Shape::kValue) return value(field, object, defaults, indent);
    const std::vector<void*> present = field.present(object);
    if (field.shape == FieldInfo::Shape::kSection) {
      const std::vector<void*> usual = field.present(defaults);
      if (present.empty()) {
        const bool same = usual.empty() && dump_ == Dump::kMinimal;
        return same ? "" : key + " null\n";
      }
      const std::shared_ptr<void> fresh = field.section->make();
      void* compare = usual.empty() ? fresh.get() : usual.front();
      const std::string inner = section(*field.section, present.front(), compare, indent + 2);
      if (inner.empty()) return usual.empty() ? key + " {}\n" : "";
      return key + "\n" + inner;
    }
    if (present.empty()) {
      const bool same = field.present(defaults).empty() && dump_ == Dump::kMinimal;
      return same ? "" : key + " []\n";
    }
    std::string out = key + "\n";
    for (void* item : present) out += list_item(field, item, indent + 2);
    return out;
  }

  std::string value(const FieldInfo& field, void* object, void* defaults, int indent) {
    const ConfigNode now = field.write(object);
    if (dump_ == Dump::kMinimal && !field.is_required &&
        emit_flow(now) == emit_flow(field.write(defaults))) {
      return "";
    }
    ConfigNode entry = ConfigNode::map();
    entry.add(field.name, now);
    return emit_yaml(entry, indent);
  }

  std::string list_item(const FieldInfo& field, void* item, int indent) {
    const std::shared_ptr<void> fresh = field.section->make();
    const std::string margin(static_cast<std::size_t>(indent), ' ');
    std::string text = section(*field.section, item, fresh.get(), indent + 2);
    if (text.empty()) return margin + "- {}\n";
    if (dump_ == Dump::kFull) return margin + "-\n" + text;
    text[static_cast<std::size_t>(indent)] = '-';
    return text;
  }

  Dump dump_;
};

}  // namespace

std::string dump_config(const SectionInfo& info, const void* object, Dump dump) {
  const std::shared_ptr<void> defaults = info.make();
  // The accessors are shared with reading and take a mutable object; dumping changes nothing.
  std::string text = Dumper(dump).section(info, const_cast<void*>(object), defaults.get(), 0);
  return text.empty() ? "{}\n" : text;
}

}  // namespace weft::schema
