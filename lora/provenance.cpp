#include "lora/provenance.h"

#include "checkpoint/json_file.h"
#include "core/error.h"
#include "core/file.h"
#include "lora/peft_file.h"

namespace weft::lora {
namespace {

constexpr int kFormat = 1;

struct Entry {
  const char* key;
  std::string Provenance::*member;
};
constexpr Entry kEntries[] = {{"base_weights", &Provenance::base_weights},
                              {"base_storage", &Provenance::base_storage},
                              {"compute_dtype", &Provenance::compute_dtype},
                              {"base_quantization", &Provenance::base_quantization},
                              {"tokenizer", &Provenance::tokenizer},
                              {"chat_template", &Provenance::chat_template}};

}  // namespace

std::optional<Provenance> read_provenance(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / kProvenanceFile;
  if (!std::filesystem::exists(file)) return std::nullopt;
  const nlohmann::json json = checkpoint::read_json_object(file);
  if (json.value("format", nlohmann::json()) != kFormat) {
    throw InputError(
        "'{}' must be an object with \"format\": {}; remove the file to use the adapter "
        "without a check of its base",
        file.string(), kFormat);
  }
  Provenance provenance;
  for (const Entry& entry : kEntries) {
    const auto found = json.find(entry.key);
    if (found == json.end()) continue;
    if (!found->is_string()) {
      throw InputError("'{}': '{}' must be a string", file.string(), entry.key);
    }
    provenance.*entry.member = found->get<std::string>();
  }
  provenance.more = json.value("more", nlohmann::json());
  return provenance;
}

void write_provenance(const Provenance& provenance, const std::filesystem::path& directory) {
  nlohmann::json json = {{"format", kFormat}, {"more", provenance.more}};
  for (const Entry& entry : kEntries) json[entry.key] = provenance.*entry.member;
  core::write_text(directory / kProvenanceFile,
                   json.dump(2, ' ', true, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace weft::lora
