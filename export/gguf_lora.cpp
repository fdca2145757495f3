#include "export/gguf_lora.h"

#include <algorithm>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_family.h"
#include "checkpoint/gguf_writer.h"
#include "checkpoint/quantize.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/rejected.h"
#include "export/checked_file.h"
#include "export/factors.h"
#include "export/gguf_metadata.h"

namespace weft::exporting {
namespace {

using checkpoint::Storage;
using lora::Factors;

/// Where a module's factors go: beside each tensor that the file has of its weight.
checkpoint::GgufPlaces places_of(const checkpoint::Family& family,
                                 const checkpoint::GgufSizes& sizes, const lora::Target& target) {
  // Factors are those of [out, in], however the weight is stored.
  const lora::Module& module = target.module;
  const auto* const row = checkpoint::find_row(family, module.path);
  const bool input_first = row != nullptr && row->layout == checkpoint::Layout::kTransposed;
  std::vector<std::int64_t> shape{module.out, module.in};
  if (input_first) std::swap(shape[0], shape[1]);
  const bool of_experts =
      row != nullptr && (checkpoint::is_expert(row->part) || checkpoint::is_stack(row->part));
  if (of_experts) {
    throw InputError(
        "the adapter changes the experts' matrix '{}', and weft writes no adapter of a stack of "
        "experts to GGUF; fold it (weft export --to gguf)",
        module.path);
  }
  auto places = checkpoint::gguf_places(family, sizes, module.path + ".weight", shape);
  if (!places) {
    throw InputError("the architecture '{}' has no tensor for the adapted layer '{}'",
                     family.gguf->architecture, module.path);
  }
  return *places;
}

/// The rows of B that belong to one tensor of the file, in its order.
std::vector<float> rows_of(const Factors& module, const checkpoint::GgufPlace& place) {
  if (place.rows.empty()) return module.b;
  const std::int64_t rank = module.target.rank;
  std::vector<float> out(static_cast<std::size_t>(place.outputs * rank));
  for (std::int64_t row = 0; row < place.outputs; ++row) {
    std::copy_n(module.b.data() + place.rows[static_cast<std::size_t>(row)] * rank, rank,
                out.data() + row * rank);
  }
  return out;
}

/// The way back: puts the rows of one tensor into B.
void put_rows(const checkpoint::GgufPlace& place, const std::vector<float>& rows, Factors& module) {
  if (place.rows.empty()) {
    module.b = rows;
    return;
  }
  const std::int64_t rank = module.target.rank;
  for (std::int64_t row = 0; row < place.outputs; ++row) {
    std::copy_n(rows.data() + row * rank, rank,
                module.b.data() + place.rows[static_cast<std::size_t>(row)] * rank);
  }
}

checkpoint::GgufFields fields_of(const GgufLoraRequest& request, const checkpoint::GgufForm& form,
                                 std::span<const lora::Target> targets) {
  checkpoint::GgufFields fields;
  fields.set_string("general.architecture", form.architecture);
  fields.set_string("general.type", "adapter");
  fields.set_string("adapter.type", "lora");
  fields.set_string("general.name",
                    std::filesystem::weakly_canonical(request.inputs.adapters.front().directory)
                        .filename()
                        .string());
  fields.set_f32("adapter.lora.alpha",
                 one_rank(targets) ? static_cast<double>(largest_rank(targets)) : 0);
  fields.set_u32("general.file_type", request.half ? 1 : 0);
  fields.set_u32("general.quantization_version", 2);
  return fields;
}

void write(checkpoint::GgufWriter& writer, Storage storage, std::span<const float> values,
           const std::string& name) {
  if (!checkpoint::fits(storage, values)) {
    throw NumericError("'{}' holds numbers beyond the range of {}", name,
                       checkpoint::name_of(storage));
  }
  const auto width = checkpoint::block_size(storage).bytes;
  std::vector<std::byte> bytes(values.size() * width);
  checkpoint::quantize(storage, values, bytes);
  writer.write(bytes);
}

std::vector<float> read(const checkpoint::Gguf& file, const std::string& name) {
  const checkpoint::GgufTensor* const tensor = file.find_tensor(name);
  if (tensor == nullptr) {
    throw NumericError("{}: '{}' was not read back", file.path().string(), name);
  }
  std::int64_t count = 1;
  for (const std::int64_t size : tensor->shape) count *= size;
  std::vector<float> values(static_cast<std::size_t>(count));
  checkpoint::dequantize(checkpoint::storage_of(tensor->type->name), file.bytes(*tensor), values);
  file.release(*tensor);
  return values;
}

/// Opens the file and reads each update as llama.cpp does: B A alpha / rank.
double compare(const GgufLoraRequest& request, const std::filesystem::path& written,
               const PlainUpdates& updates, const std::vector<checkpoint::GgufPlaces>& places) {
  const auto file = checkpoint::Gguf::open(written);
  const double alpha = file.real("adapter.lora.alpha").value_or(0);
  std::vector<double> differences(places.size());
  const auto count = static_cast<std::int64_t>(places.size());
  core::parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      const Factors source = updates.load(i);
      Factors back;
      back.target = source.target;
      back.b.resize(source.b.size());
      for (const checkpoint::GgufPlace& place : places[i].tensors) {
        back.a = read(file, place.name + ".lora_a");
        put_rows(place, read(file, place.name + ".lora_b"), back);
      }
      back.target.scale = alpha != 0 ? alpha / static_cast<double>(back.target.rank) : 1;
      differences[i] = relative_difference(source, back);
    }
  });
  double largest = 0;
  for (std::size_t i = 0; i < places.size(); ++i) {
    require_same_update(differences[i], updates.targets()[i].module.path, request.out.string(),
                        request.half ? 1e-2 : 1e-5);
    largest = std::max(largest, differences[i]);
  }
  return largest;
}

}  // namespace

AdapterReport write_gguf_lora(const GgufLoraRequest& request, const core::Log& log) {
  CheckedFile file(request.out, all_paths(request.inputs), request.overwrite);
  const OpenInputs inputs = open_inputs(request.inputs, log, Output::kAdapter);
  for (const lora::PeftFile& adapter : inputs.files) {
    for (const lora::Target& target : adapter.targets()) {
      static_cast<void>(lora::base_weight(inputs.base, target));
    }
  }
  const checkpoint::Family& family = family_of(inputs.base);
  const checkpoint::GgufSizes sizes = sizes_of(inputs.base);
  const PlainUpdates updates(inputs.adapters);
  const std::vector<lora::Target>& targets = updates.targets();
  const Storage storage = request.half ? Storage::kF16 : Storage::kF32;
  std::vector<checkpoint::GgufPlaces> places;
  std::vector<checkpoint::GgufTensorPlan> plans;
  for (const lora::Target& target : targets) {
    places.push_back(places_of(family, sizes, target));
    for (const checkpoint::GgufPlace& place : places.back().tensors) {
      plans.push_back({place.name + ".lora_a", {target.rank, target.module.in}, storage});
      plans.push_back({place.name + ".lora_b", {place.outputs, target.rank}, storage});
    }
  }
  AdapterReport report{targets.size(), largest_rank(targets), !one_rank(targets), 0, 0};
  {
    checkpoint::GgufWriter writer(file.path(), fields_of(request, *family.gguf, targets),
                                  std::move(plans));
    for (std::size_t i = 0; i < targets.size(); ++i) {
      const Factors factors = updates.load(i);
      for (const checkpoint::GgufPlace& place : places[i].tensors) {
        write(writer, storage, factors.a, place.name);
        write(writer, storage, rows_of(factors, place), place.name);
      }
    }
    writer.finish();
    report.bytes = writer.total_bytes();
  }
  file.check([&] { report.largest_error = compare(request, file.path(), updates, places); });
  file.accept();
  core::tell_about_rejected(request.out, log);
  return report;
}

}  // namespace weft::exporting
