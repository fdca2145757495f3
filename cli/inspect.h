#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

// weft inspect says what a path holds. Each kind of thing is a row of the table in inspect.cpp and
// a function that describes it; a new kind is a new file and a new row.

namespace weft::cli {

struct InspectOptions {
  bool tensors = false;  ///< List every tensor.
  bool hash = true;      ///< Compute digests that cost a pass over the weights.
};

/// What inspect says: the same facts for people and for programs.
class InspectReport {
 public:
  /// A line for people: "family   llama (LlamaForCausalLM)".
  void line(std::string label, std::string text);
  /// A table or another block of text after the lines.
  void block(std::string text);
  /// For programs; the first key is "kind".
  nlohmann::ordered_json json = nlohmann::ordered_json::object();

  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::pair<std::string, std::string>> lines_;
  std::vector<std::string> blocks_;
};

/// Tensors of a file, counted by the type they are stored in.
class TensorCensus {
 public:
  void add(std::string name, std::string storage, std::vector<std::int64_t> shape,
           std::uint64_t bytes);
  /// Lines, blocks and JSON: parameters, bytes, types, and with options.tensors every tensor.
  void describe(InspectReport& report, const InspectOptions& options) const;

 private:
  struct Tensor {
    std::string name;
    std::string storage;
    std::vector<std::int64_t> shape;
    std::uint64_t elements;
    std::uint64_t bytes;
  };
  struct Sum {
    std::uint64_t tensors = 0;
    std::uint64_t elements = 0;
    std::uint64_t bytes = 0;
  };
  std::vector<Tensor> tensors_;
  std::map<std::string, Sum> storages_;
};

struct InspectKind {
  bool (*matches)(const std::filesystem::path& path);
  InspectReport (*inspect)(const std::filesystem::path& path, const InspectOptions& options);
};

// inspect_adapter.cpp
bool is_adapter_folder(const std::filesystem::path& path);
InspectReport inspect_adapter(const std::filesystem::path& path, const InspectOptions& options);

// inspect_run.cpp
bool is_run_folder(const std::filesystem::path& path);
InspectReport inspect_run(const std::filesystem::path& path, const InspectOptions& options);

// inspect_verify.cpp: a merged folder against its certificate; throws where it differs.
InspectReport verify_folder(const std::filesystem::path& path, const InspectOptions& options);

// inspect_machine.cpp: the processor, and what it computes with; measures for a second.
InspectReport inspect_machine();

// inspect_model.cpp
bool is_model_folder(const std::filesystem::path& path);
InspectReport inspect_model_folder(const std::filesystem::path& path,
                                   const InspectOptions& options);
bool is_gguf(const std::filesystem::path& path);
InspectReport inspect_gguf(const std::filesystem::path& path, const InspectOptions& options);
bool is_safetensors(const std::filesystem::path& path);
InspectReport inspect_safetensors(const std::filesystem::path& path, const InspectOptions& options);

}  // namespace weft::cli
