#include "merge/certificate.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "checkpoint/json_file.h"
#include "core/error.h"
#include "core/hash.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOwnDigest = "certificate_sha256";

std::string text_of(const nlohmann::json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

/// A member of the certificate; InputError when it is missing or of another type.
template <typename Value>
Value member(const nlohmann::json& json, const char* key, const fs::path& certificate) {
  try {
    return json.at(key).get<Value>();
  } catch (const nlohmann::json::exception&) {
    throw InputError("'{}': '{}' is missing or no {}; the certificate is damaged",
                     certificate.string(), key,
                     std::is_same_v<Value, std::string> ? "text" : "value of the right kind");
  }
}

void verify_itself(nlohmann::json json, const fs::path& certificate) {
  if (!json.contains("outputs")) {
    throw InputError(
        "'{}' was written by a version of weft that recorded no digests of the outputs; there is "
        "nothing to verify",
        certificate.string());
  }
  const auto recorded = member<std::string>(json, kOwnDigest, certificate);
  json.erase(kOwnDigest);
  if (core::sha256(text_of(json)) == recorded) return;
  throw InputError("'{}' was changed after it was written: its own digest does not fit",
                   certificate.string());
}

/// A name that stays inside the folder, whatever the certificate says.
fs::path inside(const std::string& name, const fs::path& certificate) {
  const fs::path path = fs::path(name).lexically_normal();
  if (path.is_relative() && !path.empty() && *path.begin() != "..") return path;
  throw InputError("'{}': the file '{}' lies outside the folder; the certificate is damaged",
                   certificate.string(), name);
}

void verify_file(const fs::path& path, std::uint64_t bytes, const std::string& sha256) {
  std::error_code error;
  const auto found = fs::file_size(path, error);
  if (error) throw InputError("'{}' is missing; merge.json lists it", path.string());
  if (found != bytes) {
    throw InputError("'{}' has {} bytes, merge.json records {}", path.string(), found, bytes);
  }
  const std::string now = core::sha256_file(path);
  if (now == sha256) return;
  throw InputError("'{}' has changed: its SHA-256 is {}, merge.json records {}", path.string(), now,
                   sha256);
}

/// Notes for people, which no program loads with the model.
bool is_for_people(const fs::path& path) {
  std::string name = path.filename();
  std::ranges::transform(name, name.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name.ends_with(".md") || name.starts_with("license") || name.starts_with("notice") ||
         name == ".gitattributes" || name == ".gitignore" || name == ".ds_store";
}

/// "sub/file" for every file of the folder, in order.
std::vector<std::string> files_of(const fs::path& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_directory()) continue;
    names.push_back(entry.path().lexically_relative(folder).generic_string());
  }
  std::ranges::sort(names);
  return names;
}

/// What was added may change the model as well as what was altered: a reader loads weights, a chat
/// template, a tokenizer, an adapter or code because it is there.
void refuse_unlisted(const fs::path& folder, const std::set<std::string>& listed) {
  for (const std::string& name : files_of(folder)) {
    if (name == kCertificateFile || listed.contains(name) || is_for_people(name)) continue;
    throw InputError(
        "'{}' is not listed in merge.json: it was added after the merge, and may change what is "
        "loaded; move it elsewhere, or merge again",
        (folder / name).string());
  }
}

/// Every tensor of an adapter went into one tensor of the model.
std::size_t verify_keys(const nlohmann::json& adapter, const fs::path& certificate) {
  const auto keys = member<std::size_t>(adapter, "keys", certificate);
  const auto used = member<std::map<std::string, std::string>>(adapter, "used", certificate);
  if (used.size() == keys) return keys;
  throw InputError("'{}': {} of the {} tensors of adapter '{}' are recorded as used",
                   certificate.string(), used.size(), keys,
                   member<std::string>(adapter, "path", certificate));
}

/// `digest` is asked only for what is there.
template <typename Digest>
CertificateCheck::Input verify_input(const std::string& path, const std::string& recorded,
                                     VerifyInputs inputs, const Digest& digest) {
  std::error_code error;
  if (!fs::exists(path, error)) return {path, InputState::kAbsent};
  if (inputs == VerifyInputs::kNo) return {path, InputState::kSkipped};
  const std::string now = digest();
  if (now == recorded) return {path, InputState::kSame};
  throw InputError(
      "the input '{}' is no longer what was merged: its digest is {}, merge.json records {}", path,
      now, recorded);
}

}  // namespace

void write_certificate(MergeReport& report, const fs::path& folder) {
  std::set<std::string> listed;
  for (const WrittenFile& file : report.outputs) listed.insert(file.name);
  for (const std::string& name : files_of(folder)) {
    if (listed.contains(name) || name == kCertificateFile) continue;
    report.outputs.push_back(
        {name, fs::file_size(folder / name), core::sha256_file(folder / name)});
  }
  std::ranges::sort(report.outputs, {}, &WrittenFile::name);
  nlohmann::json json = report_json(report);
  json[kOwnDigest] = core::sha256(text_of(json));
  core::write_text(folder / kCertificateFile, text_of(json));
}

CertificateCheck verify_certificate(const fs::path& folder, VerifyInputs inputs) {
  const fs::path certificate = folder / kCertificateFile;
  if (!fs::exists(certificate)) {
    throw InputError("'{}' has no {}: it was not written by weft merge, or the file is lost",
                     folder.string(), kCertificateFile);
  }
  const nlohmann::json json = checkpoint::read_json_object(certificate);
  verify_itself(json, certificate);
  CertificateCheck result;
  std::set<std::string> listed;
  for (const auto& output : json.at("outputs")) {
    const auto name = member<std::string>(output, "file", certificate);
    const auto bytes = member<std::uint64_t>(output, "bytes", certificate);
    verify_file(folder / inside(name, certificate), bytes,
                member<std::string>(output, "sha256", certificate));
    listed.insert(name);
    result.files += 1;
    result.bytes += bytes;
  }
  refuse_unlisted(folder, listed);
  for (const auto& adapter : member<nlohmann::json>(json, "adapters", certificate)) {
    result.keys += verify_keys(adapter, certificate);
    const auto path = member<std::string>(adapter, "path", certificate);
    result.inputs.push_back(verify_input(path, member<std::string>(adapter, "digest", certificate),
                                         inputs,
                                         [&] { return lora::PeftFile::open(path).digest(); }));
  }
  const auto check_model = [&](const nlohmann::json& model) {
    const auto path = member<std::string>(model, "path", certificate);
    result.inputs.push_back(
        verify_input(path, member<std::string>(model, "weights_digest", certificate), inputs,
                     [&] { return checkpoint::Checkpoint::open(path).weights_digest(); }));
  };
  if (!json.contains("models")) check_model(member<nlohmann::json>(json, "base", certificate));
  for (const auto& model : json.value("models", nlohmann::json::array())) check_model(model);
  return result;
}

}  // namespace weft::merge
