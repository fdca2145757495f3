#include "eval/run/quantised_stage.h"

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <map>
#include <span>

#include "checkpoint/dequantize.h"
#include "core/error.h"
#include "core/parallel.h"
#include "export/file_type.h"
#include "export/gguf_tensors.h"
#include "export/inputs.h"

namespace weft::eval {
namespace {

/// Takes a tensor's bytes as they come and puts its rows where the model wants them.
class TensorReader {
 public:
  TensorReader(const exporting::GgufTensorJob& job, const at::Tensor& into)
      : job_(job), into_(into) {
    // The elements of a vector are moved and shifted as the rows of a matrix are.
    const bool by_element = job.plan.shape.size() == 1;
    width_ = by_element ? 1 : job.plan.shape.back();
    const checkpoint::BlockSize block = checkpoint::block_size(job.plan.storage);
    row_bytes_ = static_cast<std::size_t>(width_) / block.elements * block.bytes;
  }

  void take(std::span<const std::byte> bytes) {
    if (held_.empty() && bytes.size() % row_bytes_ == 0) return read(bytes);
    held_.insert(held_.end(), bytes.begin(), bytes.end());
    const std::size_t whole = held_.size() / row_bytes_ * row_bytes_;
    read(std::span(held_).first(whole));
    held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(whole));
  }

 private:
  void read(std::span<const std::byte> rows) {
    const auto count = static_cast<std::int64_t>(rows.size() / row_bytes_);
    core::parallel_for(count, 16, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> values(static_cast<std::size_t>(width_));
      for (std::int64_t i = begin; i < end; ++i) {
        checkpoint::dequantize(job_.plan.storage,
                               rows.subspan(static_cast<std::size_t>(i) * row_bytes_, row_bytes_),
                               values);
        const std::int64_t row = next_ + i;
        for (float& value : values) value -= job_.shift;
        put(values, job_.output(row));
      }
    });
    next_ += count;
  }

  void put(const std::vector<float>& values, std::int64_t row) const {
    if (into_.scalar_type() == at::kFloat) {
      copy(values, row, into_.mutable_data_ptr<float>());
    } else {
      copy(values, row, into_.mutable_data_ptr<c10::BFloat16>());
    }
  }

  /// A row of the file: a row of the model, or a column where that has [in, out].
  template <typename T>
  void copy(const std::vector<float>& values, std::int64_t row, T* out) const {
    const std::int64_t stride = job_.transposed ? job_.info->row_elements() : 1;
    T* to = out + (job_.transposed ? row : row * width_);
    for (const float value : values) {
      *to = T(value);
      to += stride;
    }
  }

  const exporting::GgufTensorJob& job_;
  const at::Tensor& into_;
  std::int64_t width_ = 0;
  std::size_t row_bytes_ = 0;
  std::int64_t next_ = 0;        ///< Row of the file.
  std::vector<std::byte> held_;  ///< A row that has not come whole.
};

}  // namespace

model::Decoder load_quantised(const QuantisedModel& model, model::Compute compute,
                              at::Device device, const core::Log& log) {
  exporting::InputPaths paths{
      .model = model.model, .adapters = {}, .allow_other_base = model.allow_other_base};
  for (const std::filesystem::path& adapter : model.adapters)
    paths.adapters.push_back({adapter, 1});
  const exporting::OpenInputs inputs =
      exporting::open_inputs(paths, log, exporting::Output::kModel);
  const exporting::FileType& type = exporting::find_file_type(model.type);
  std::map<std::string, std::vector<exporting::GgufTensorJob>> jobs;
  for (exporting::GgufTensorJob& job : exporting::plan_tensors(inputs, type)) {
    if (job.info == nullptr) continue;  // Rotary factors: the spec has them.
    const std::string name = job.info->name;
    jobs[name].push_back(std::move(job));
  }
  model::Spec spec = model::read_spec(inputs.base);
  model::round_to_gguf(spec);
  return model::Decoder::filled(
      spec, compute,
      [&](const std::string& name, const at::Tensor& to, std::int64_t first_row) {
        const auto job = jobs.find(name);
        if (job == jobs.end())
          throw InputError("{}: tensor '{}' is missing", model.model.string(), name);
        for (const exporting::GgufTensorJob& part : job->second) {
          // Of a stack of the model one matrix is asked for, or one vector.
          const bool of_stack = part.experts > 0 && part.info->shape.front() == part.experts &&
                                part.info->elements() == part.experts * to.numel();
          if (of_stack && part.matrix != first_row / std::max<std::int64_t>(1, to.size(0)))
            continue;
          if (!of_stack && part.info->elements() != to.numel())
            throw InputError("{}: tensor '{}' has another shape than config.json says",
                             model.model.string(), name);
          TensorReader reader(part, to);
          exporting::write_tensor(inputs, part,
                                  [&](std::span<const std::byte> bytes) { reader.take(bytes); });
          inputs.base.release(*part.info);
        }
      },
      device);
}

}  // namespace weft::eval
