#include "export/gguf_lora.h"

#include <algorithm>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_family.h"
#include "checkpoint/gguf_writer.h"
#include "checkpoint/quantize.h"
#include "core/error.h"
#include "core/parallel.h"
#include "export/checked_file.h"
#include "export/factors.h"
#include "export/gguf_metadata.h"

namespace weft::exporting {
namespace {

using checkpoint::RowOrder;
using checkpoint::Storage;
using lora::Factors;

/// One module's place in the file.
struct Place {
  std::string tensor;     ///< "blk.0.attn_q.weight"
  std::int64_t head = 0;  ///< Head width by which B's rows are interleaved; 0: not.
};

Place place_of(const checkpoint::GgufFamily& family, const Sizes& sizes,
               const lora::Target& target) {
  const std::string& path = target.module.path;
  const auto mapped = checkpoint::gguf_name(family, path + ".weight");
  if (!mapped) {
    throw InputError("the architecture '{}' has no tensor for the adapted layer '{}'",
                     family.architecture, path);
  }
  if (mapped->rows == RowOrder::kSame) return {mapped->name, 0};
  const std::int64_t heads =
      mapped->rows == RowOrder::kInterleavedQuery ? sizes.heads : sizes.key_heads;
  if (target.module.out != heads * sizes.head_dim || sizes.head_dim % 2 != 0) {
    throw InputError(
        "'{}' has {} outputs, and config.json of the model says {} heads of {}: their rows cannot "
        "be put in the order of GGUF",
        path, target.module.out, heads, sizes.head_dim);
  }
  return {mapped->name, sizes.head_dim};
}

/// B with its rows in the file's order, or back.
std::vector<float> reorder(const Factors& module, std::int64_t head, bool to_file) {
  if (head == 0) return module.b;
  const std::int64_t rank = module.target.rank;
  std::vector<float> out(module.b.size());
  for (std::int64_t row = 0; row < module.target.module.out; ++row) {
    const std::int64_t within = row % head;
    const std::int64_t other = row - within + within % 2 * (head / 2) + within / 2;
    const auto [from, to] = to_file ? std::pair(other, row) : std::pair(row, other);
    std::copy_n(module.b.data() + from * rank, rank, out.data() + to * rank);
  }
  return out;
}

checkpoint::GgufFields fields_of(const GgufLoraRequest& request,
                                 const checkpoint::GgufFamily& family,
                                 std::span<const lora::Target> targets) {
  checkpoint::GgufFields fields;
  fields.set_string("general.architecture", family.architecture);
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
               const PlainUpdates& updates, const std::vector<Place>& places) {
  const auto file = checkpoint::Gguf::open(written);
  const double alpha = file.real("adapter.lora.alpha").value_or(0);
  std::vector<double> differences(places.size());
  const auto count = static_cast<std::int64_t>(places.size());
  core::parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      const Factors source = updates.load(i);
      Factors back;
      back.target = source.target;
      back.a = read(file, places[i].tensor + ".lora_a");
      back.b = read(file, places[i].tensor + ".lora_b");
      back.b = reorder(back, places[i].head, false);
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
  const OpenInputs inputs = open_inputs(request.inputs, log, CheckWeights::kNo);
  for (const lora::PeftFile& adapter : inputs.files) {
    for (const lora::Target& target : adapter.targets()) {
      static_cast<void>(lora::base_weight(inputs.base, target));
    }
  }
  const checkpoint::GgufFamily& family = family_of(inputs.base);
  const Sizes sizes = sizes_of(inputs.base);
  const PlainUpdates updates(inputs.adapters);
  const std::vector<lora::Target>& targets = updates.targets();
  const Storage storage = request.half ? Storage::kF16 : Storage::kF32;
  std::vector<Place> places;
  std::vector<checkpoint::GgufTensorPlan> plans;
  for (const lora::Target& target : targets) {
    places.push_back(place_of(family, sizes, target));
    plans.push_back({places.back().tensor + ".lora_a", {target.rank, target.module.in}, storage});
    plans.push_back({places.back().tensor + ".lora_b", {target.module.out, target.rank}, storage});
  }
  AdapterReport report{targets.size(), largest_rank(targets), !one_rank(targets), 0, 0};
  {
    checkpoint::GgufWriter writer(file.path(), fields_of(request, family, targets),
                                  std::move(plans));
    for (std::size_t i = 0; i < targets.size(); ++i) {
      const Factors factors = updates.load(i);
      write(writer, storage, factors.a, places[i].tensor);
      write(writer, storage, reorder(factors, places[i].head, true), places[i].tensor);
    }
    writer.finish();
    report.bytes = writer.total_bytes();
  }
  file.check([&] { report.largest_error = compare(request, file.path(), updates, places); });
  file.accept();
  return report;
}

}  // namespace weft::exporting
