#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf_family.h"
#include "checkpoint/mxfp4.h"
#include "checkpoint/roles.h"
#include "checkpoint/stored_rows.h"
#include "core/error.h"
#include "export/gguf_metadata.h"
#include "export/gguf_tensors.h"

// Which tensors a GGUF file has, and what each is made of.

namespace weft::exporting {
namespace {

using checkpoint::matrix_rows;
using checkpoint::Storage;
using checkpoint::TensorInfo;

/// Outside the layers first, then by layer, then by name: as llama-quantize orders its output.
std::tuple<std::int64_t, std::string_view, std::int64_t> position(const GgufTensorJob& job) {
  std::int64_t layer = -1;
  const std::string_view name = job.plan.name;
  if (name.starts_with("blk.")) {
    std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  }
  return {layer, name, job.expert};
}

/// Bytes of the base that are the output's already.
std::span<const std::byte> ready_bytes(const checkpoint::Checkpoint& base,
                                       const GgufTensorJob& job) {
  if (!job.uses.empty()) return {};
  const auto part = [](std::span<const std::byte> all, std::int64_t begin, std::int64_t end,
                       std::int64_t of) {
    const std::size_t each = all.size() / static_cast<std::size_t>(std::max<std::int64_t>(1, of));
    return all.subspan(static_cast<std::size_t>(begin) * each,
                       static_cast<std::size_t>(end - begin) * each);
  };
  if (base.gguf() != nullptr) {
    const auto* tensor = base.gguf()->find_tensor(job.plan.name);
    if (tensor == nullptr || checkpoint::storage_of(tensor->type->name) != job.plan.storage)
      return {};
    const auto bytes = base.gguf()->bytes(*tensor);
    return job.experts == 0 ? bytes : part(bytes, job.expert, job.expert + 1, job.experts);
  }
  if (job.info->storage != job.plan.storage || !job.as_stored()) return {};
  const auto bytes = base.raw(*job.info);
  if (job.experts == 0) return bytes;
  // A vector of a stack is a row of it.
  const bool vector = job.plan.shape.size() == 1;
  const std::int64_t width = vector ? job.info->row_elements() : 1;
  const std::int64_t begin =
      (vector ? job.matrix * width : job.matrix * matrix_rows(*job.info)) + job.first;
  return part(bytes, begin, begin + job.plan.shape.front(), job.info->rows() * width);
}

/// The importance of a matrix's columns, as llama-quantize looks it up. The embedding is read row
/// by row, so that its columns have none.
std::span<const float> importance_of(const Importance* importance, const GgufTensorJob& job) {
  if (importance == nullptr || job.plan.shape.size() < 2) return {};
  const std::span<const float> found = importance->find(job.plan.name);
  const std::int64_t columns = job.plan.shape.back();
  if (found.empty() || std::ssize(found) == columns) return found;
  if (job.experts > 0 && std::ssize(found) == job.experts * columns) {
    return found.subspan(static_cast<std::size_t>(job.expert * columns),
                         static_cast<std::size_t>(columns));
  }
  if (job.plan.name == "token_embd.weight") return {};
  throw InputError("{}: '{}' has {} columns, the model's has {}; is it of another model?",
                   importance->path().string(), job.plan.name, found.size(), job.plan.shape.back());
}

ModelShape shape_of(const OpenInputs& inputs, const checkpoint::GgufForm& form,
                    const checkpoint::GgufSizes& sizes, bool importance) {
  const bool of_80_layers = form.architecture == "llama" && sizes.layers == 80;
  return {.layers = sizes.layers,
          .tied_head = checkpoint::roles_of(inputs.base).head == nullptr,
          .importance = importance,
          .shared_heads_of_80_layers = of_80_layers && sizes.heads != sizes.key_heads,
          .falcon = form.architecture == "falcon",
          .experts = sizes.experts};
}

/// Rotary factors: tensors of a GGUF base that are no weights, or made of config.json.
void add_rotary_factors(const OpenInputs& inputs, const checkpoint::GgufForm& form,
                        const checkpoint::GgufSizes& sizes, std::vector<GgufTensorJob>& jobs) {
  const checkpoint::Checkpoint& base = inputs.base;
  const auto made = [&](std::string_view name) -> std::vector<float> {
    if (name == "rope_factors_long.weight") return longrope_factors(base, "long_factor");
    if (name == "rope_factors_short.weight") return longrope_factors(base, "short_factor");
    const auto scaling = form.rotation.llama3 ? llama3_scaling(base) : std::nullopt;
    if (!scaling) return {};
    return checkpoint::llama3_rope_factors(rope_theta(base.config(), form), sizes.head_dim,
                                           *scaling);
  };
  for (const char* name :
       {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}) {
    GgufTensorJob job;
    job.plan.name = name;
    if (const auto* gguf = base.gguf()) {
      const auto* tensor = gguf->find_tensor(name);
      if (tensor == nullptr) continue;
      job.plan.shape = tensor->shape;
      job.stored = gguf->bytes(*tensor);
    } else {
      job.made = made(name);
      if (job.made.empty()) continue;
      job.plan.shape = {std::ssize(job.made)};
    }
    jobs.push_back(std::move(job));
  }
}

/// Baichuan 2 divides the rows of its head by their length when it computes, which llama.cpp does
/// not (modeling_baichuan.py, NormHead); the vocabulary of 64000 tokens tells the first from it.
bool has_unit_head(const checkpoint::Checkpoint& base) {
  constexpr std::int64_t kFirstVocabulary = 64000;
  const nlohmann::json& config = base.config();
  if (base.gguf() != nullptr || config.value("model_type", nlohmann::json()) != "baichuan")
    return false;
  const nlohmann::json stated = config.value("norm_head", nlohmann::json());
  if (stated.is_boolean()) return stated.get<bool>();
  return config.value("vocab_size", nlohmann::json()) != kFirstVocabulary;
}

/// Whether the base has it in MXFP4, in whichever kind of file, and nothing changes it. Gate and up
/// of one tensor of the model can lie in a GGUF file in two types.
bool stays_in_mxfp4(const checkpoint::Checkpoint& base, const GgufTensorJob& job) {
  if (job.info == nullptr || !job.uses.empty()) return false;
  if (base.gguf() == nullptr) return checkpoint::is_mxfp4(*job.info);
  const auto* tensor = base.gguf()->find_tensor(job.plan.name);
  return tensor != nullptr && checkpoint::storage_of(tensor->type->name) == Storage::kMXFP4;
}

/// What all jobs of a place have in common: a tensor, or a matrix of a stack.
GgufTensorJob job_of(const merge::FoldPlan::Tensor& tensor, const checkpoint::GgufPlaces& places,
                     const checkpoint::GgufPlace& place, const FileType& type,
                     const ModelShape& shape) {
  GgufTensorJob job;
  job.info = tensor.info;
  std::vector<std::int64_t> own = tensor.info->shape;
  if (places.experts > 0 && !places.expert) own.erase(own.begin());
  job.plan = {place.name, std::move(own), Storage::kF32};
  if (places.transposed) std::swap(job.plan.shape[0], job.plan.shape[1]);
  job.plan.shape[0] = place.outputs;
  job.plan.storage = storage_for(type, place.name, job.plan.shape, shape);
  job.wanted = wanted_storage(type, place.name, job.plan.shape, shape);
  job.rows = place.rows;
  job.first = place.first;
  job.step = place.step;
  job.group = places.group;
  job.transposed = places.transposed;
  job.shift = places.shift;
  job.experts = places.experts;
  job.uses = tensor.uses;
  return job;
}

/// One tensor of the model, in the tensors that the file has of it, or the matrices of stacks.
void add_jobs(const OpenInputs& inputs, const merge::FoldPlan::Tensor& tensor,
              const checkpoint::GgufPlaces& places, const FileType& type, const ModelShape& shape,
              const Importance* importance, std::vector<GgufTensorJob>& jobs) {
  const bool whole_stack = places.experts > 0 && !places.expert;
  for (const checkpoint::GgufPlace& place : places.tensors) {
    GgufTensorJob job = job_of(tensor, places, place, type, shape);
    job.unit_rows = place.name == "output.weight" && has_unit_head(inputs.base);
    for (std::int64_t matrix = 0; matrix < (whole_stack ? places.experts : 1); ++matrix) {
      job.matrix = matrix;
      job.expert = places.expert.value_or(matrix);
      job.importance = importance_of(importance, job);
      jobs.push_back(job);
    }
  }
}

/// Every expert of a stack once, and all of one shape.
void require_whole_stack(const OpenInputs& inputs, std::span<const GgufTensorJob> stack) {
  const GgufTensorJob& first = stack.front();
  const std::string where = inputs.base.path().string();
  if (std::ssize(stack) > first.experts) {
    throw InputError("{}: '{}' would have {} matrices of {} experts", where, first.plan.name,
                     stack.size(), first.experts);
  }
  for (std::int64_t expert = 0; expert < first.experts; ++expert) {
    const auto at = static_cast<std::size_t>(expert);
    if (at == stack.size() || stack[at].expert != expert) {
      throw InputError("{}: the matrix of expert {} for '{}' is missing", where, expert,
                       first.plan.name);
    }
    const std::vector<std::int64_t>& shape = stack[at].plan.shape;
    if (shape != first.plan.shape) {
      throw InputError(
          "{}: the matrices for '{}' differ in shape: expert {} has [{}], expert 0 has [{}]", where,
          first.plan.name, expert, fmt::join(shape, ", "), fmt::join(first.plan.shape, ", "));
    }
  }
}

/// What the jobs of each tensor of the output have in common: a stack is whole, and stays in MXFP4
/// only where nothing changes any of its matrices.
void settle_tensors(const OpenInputs& inputs, std::span<GgufTensorJob> jobs) {
  for (auto begin = jobs.begin(); begin != jobs.end();) {
    const auto end = std::find_if(begin, jobs.end(), [&](const GgufTensorJob& job) {
      return job.plan.name != begin->plan.name;
    });
    const std::span<GgufTensorJob> tensor(begin, end);
    if (begin->experts > 0) require_whole_stack(inputs, tensor);
    const bool stays = std::ranges::all_of(
        tensor, [&](const GgufTensorJob& job) { return stays_in_mxfp4(inputs.base, job); });
    for (GgufTensorJob& job : tensor) {
      if (stays) job.plan.storage = job.wanted = Storage::kMXFP4;
      if (job.info != nullptr) job.stored = ready_bytes(inputs.base, job);
    }
    begin = end;
  }
}

}  // namespace

std::vector<GgufTensorJob> plan_tensors(const OpenInputs& inputs, const FileType& type,
                                        const Importance* importance) {
  const merge::FoldPlan fold = merge::plan_fold(inputs.base, inputs.adapters, core::DType::kF32,
                                                checkpoint::kDefaultShardBytes);
  const checkpoint::Family& family = family_of(inputs.base);
  const checkpoint::GgufForm& form = *family.gguf;
  const checkpoint::GgufSizes sizes = sizes_of(inputs.base);
  const ModelShape shape = shape_of(inputs, form, sizes, importance != nullptr);
  std::vector<GgufTensorJob> jobs;
  if (fold.untied) {
    throw InputError(
        "{}, so that the output head can no longer be the embedding; fold the adapter first (weft "
        "merge) and export the result",
        fold.untied_because);
  }
  for (const merge::FoldPlan::Tensor& tensor : fold.tensors) {
    if (checkpoint::is_buffer(*tensor.info)) continue;
    const auto places =
        checkpoint::gguf_places(family, sizes, tensor.info->name, tensor.info->shape);
    if (!places) {
      throw InputError("{}: tensor '{}' has no place in a GGUF file of the architecture '{}'",
                       inputs.base.path().string(), tensor.info->name, form.architecture);
    }
    add_jobs(inputs, tensor, *places, type, shape, importance, jobs);
  }
  add_rotary_factors(inputs, form, sizes, jobs);
  std::ranges::sort(jobs, {}, position);
  settle_tensors(inputs, jobs);
  const std::int64_t layers = jobs.empty() ? 0 : std::get<0>(position(jobs.back())) + 1;
  if (layers != sizes.layers) {
    throw InputError("{}: config.json says num_hidden_layers = {}, the weights have {} layers",
                     inputs.base.path().string(), sizes.layers, layers);
  }
  return jobs;
}

std::vector<checkpoint::GgufTensorPlan> tensors_of(std::span<const GgufTensorJob> jobs) {
  std::vector<checkpoint::GgufTensorPlan> tensors;
  for (const GgufTensorJob& job : jobs) {
    if (job.experts > 0 && job.expert > 0) continue;
    tensors.push_back(job.plan);
    auto& shape = tensors.back().shape;
    if (job.experts > 0) shape.insert(shape.begin(), job.experts);
  }
  return tensors;
}

}  // namespace weft::exporting
