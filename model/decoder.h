#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "data/row.h"
#include "lora/adapter.h"
#include "model/device.h"
#include "model/head.h"
#include "model/quantised.h"
#include "model/spec.h"

namespace weft::model {

/// Precision of frozen weights, activations and matrix products. Statistics of norms, softmax, loss
/// and the adapters' masters are fp32 either way.
enum class Compute { kF32, kBF16 };

/// What is faster with the kernels of this process (model/kernels/sets.h), or on that device: a GPU
/// has products of bfloat16 from compute capability 8.0 on.
[[nodiscard]] Compute best_compute();
[[nodiscard]] Compute best_compute(const ComputeDevice& device);

/// A trained adapter's factors and gradients as one list of numbers each, fp32 [n]: what an
/// optimiser needs. Factors follow one another as parameters() has them, A before B; each begins at
/// a multiple of 16, and what is between them stays zero.
struct Trainables {
  at::Tensor values;
  at::Tensor gradients;  ///< Accumulated by Decoder::train()
};

/// An adapter's factors on their way through training: fp32 masters and gradients, parts of
/// Trainables.
struct AdapterParameter {
  lora::Target target;
  at::Tensor a;       ///< [r, in] fp32; of a stack of experts [E r, in]
  at::Tensor b;       ///< [out, r] fp32; of a stack of experts [out, r E]
  at::Tensor grad_a;  ///< like a
  at::Tensor grad_b;
  std::int64_t begin_a = 0;  ///< Of a and grad_a in Trainables
  std::int64_t begin_b = 0;
};

class Attached;

/// What one training pass over a row needs to know.
struct TrainPass {
  double gradient_scale =
      1;               ///< d(objective)/d(sum of token losses): 1 / supervised tokens of the update
  double dropout = 0;  ///< Share of an adapter's inputs dropped
  std::uint64_t dropout_seed = 0;  ///< With the module's index it determines the dropped places
  /// So many layers, from the lowest trained one up, keep their input only and are computed again
  /// in the backward: less memory for time, the same bits. More than there are means all.
  std::int64_t recomputed_layers = 0;
};

/// Sum of the cross-entropy (natural logarithm) over supervised positions, and their number.
struct LossSum {
  double loss = 0;
  std::int64_t tokens = 0;
};

/// Writes the named tensor into the given one (contiguous, the shape the spec says, of any type).
/// Of a stack of matrices a part may be asked for: `into` then takes rows from `first_row` on, the
/// stack seen as rows of its last dimension.
using FillTensor =
    std::function<void(const std::string& name, const at::Tensor& into, std::int64_t first_row)>;

/// Of each linear layer, in the order of Decoder::linear_modules(): sums of the squares of its
/// input columns, [in].
using InputSquares = std::vector<std::vector<double>>;

struct KvCache;  ///< Keys and values of past tokens (model/generate.h).

/// A decoder-only model: frozen base and, optionally, adapters. A chain of operations with explicit
/// forward and backward (model/kernels/ops.h); no autograd.
///
/// Not thread-safe: one call at a time. Uses LibTorch's threads.
class Decoder {
 public:
  /// Reads the weights. InputError for an unsupported family (names the supported ones), a missing
  /// or misshapen tensor (names it).
  /// The linear layers' matrices are kept as `format` says. On another device than the processor
  /// weights, adapters, gradients and activations live there; rows come from and losses go to the
  /// host.
  [[nodiscard]] static Decoder load(const checkpoint::Checkpoint& checkpoint, Compute compute,
                                    BaseFormat format = BaseFormat::kDense,
                                    at::Device device = at::kCPU);
  /// From tensors in memory under their Hugging Face names, computing in `type`: kFloat, kBFloat16,
  /// or kDouble for tests of gradients.
  [[nodiscard]] static Decoder from_weights(const Spec& spec,
                                            const std::map<std::string, at::Tensor>& weights,
                                            at::ScalarType type,
                                            BaseFormat format = BaseFormat::kDense,
                                            at::Device device = at::kCPU);
  /// From a source of tensors as makers of models in memory give them.
  [[nodiscard]] static Decoder filled(const Spec& spec, Compute compute, const FillTensor& fill,
                                      at::Device device = at::kCPU);
  /// A decoder without numbers, whose memory a Meter on this thread measures.
  /// `stored`: the checkpoint whose blocks BaseFormat::kStored keeps.
  [[nodiscard]] static Decoder unfilled(const Spec& spec, Compute compute, BaseFormat format,
                                        const checkpoint::Checkpoint* stored = nullptr);
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;
  ~Decoder();

  [[nodiscard]] at::Device device() const;
  [[nodiscard]] const Spec& spec() const;
  [[nodiscard]] Compute compute() const;
  /// The linear layers that an adapter can take, in the order of the model.
  [[nodiscard]] std::vector<lora::Module> linear_modules() const;

  /// Adds an adapter (several add up), of linear layers and of stacks of experts. Trainable:
  /// gradients are kept for its factors; there is one such at a time. InputError for a module this
  /// model lacks or factors of another shape, naming it; nothing is attached then.
  enum class Use { kInference, kTraining };
  void attach(const lora::Adapter& adapter, Use use, double weight = 1.0);
  /// The same for factors without numbers (Meter).
  void attach_room(std::span<const lora::Target> targets, bool trained);
  void detach_all();
  /// Takes on what is in `other` and puts there what was attached, so that several adapters can
  /// take turns on one base. Nothing is copied. `other` is empty, or comes from this decoder.
  void exchange(Attached& other);
  /// Masters and gradients of adapters attached for training; writing a and b (in place) takes
  /// effect after refresh().
  [[nodiscard]] std::vector<AdapterParameter>& parameters();
  /// All of them; undefined tensors where nothing is trained.
  [[nodiscard]] const Trainables& trainables() const;
  /// Takes over changed masters into the compute precision.
  void refresh();
  void zero_gradients();
  /// The attached training adapter's current factors as a lora::Adapter.
  [[nodiscard]] std::vector<lora::Factors> factors() const;

  // Rows: InputError for a token or target outside the vocabulary, lengths that disagree, or
  // segments that do not cover the row.

  /// Forward and backward of one row; adds to the gradients of parameters(). The backward ends at
  /// the lowest trained adapter.
  LossSum train(const data::Row& row, const TrainPass& pass);
  /// Forward only.
  [[nodiscard]] LossSum loss(const data::Row& row);
  /// Cross-entropy per supervised position in order of position (fp32).
  [[nodiscard]] std::vector<float> token_losses(const data::Row& row);
  /// What the head reads at the supervised positions, in their order: [S, D] after the final norm,
  /// in the compute precision. head() of them gives the logits, its cross_entropy the losses of
  /// token_losses(), bit for bit.
  [[nodiscard]] at::Tensor supervised_states(const data::Row& row);
  /// A copy shares the weights and keeps them when the decoder goes.
  [[nodiscard]] Head head() const;
  /// Logits of every position, fp32 [T, V]. These and all logits below are on the host.
  [[nodiscard]] at::Tensor logits(std::span<const std::int32_t> tokens);
  /// Adds the squares of what every linear layer is multiplied with, summed over `tokens`, a text
  /// of its own. An empty `squares` is filled with zeros first.
  void add_input_squares(std::span<const std::int32_t> tokens, InputSquares& squares);
  /// Logits [V] fp32 of the last of `tokens`, which continue what `cache` holds and are added to
  /// it.
  [[nodiscard]] at::Tensor next_logits(std::span<const std::int32_t> tokens, KvCache& cache);
  /// The same of several sequences with distinct caches: [n, V]. The weights are read once for all,
  /// and a sequence's logits have the same bits whatever the others are.
  [[nodiscard]] at::Tensor next_logits(std::span<const std::span<const std::int32_t>> sequences,
                                       std::span<KvCache* const> caches);
  /// One token more of each of several sequences: logits [n, V] fp32 of tokens[i], which continues
  /// what caches[i] (distinct) holds and is added to it. The weights are read once for all, and
  /// a sequence's logits have the same bits whatever the others are (model/kernels/product.h).
  [[nodiscard]] at::Tensor step_logits(std::span<const std::int32_t> tokens,
                                       std::span<KvCache* const> caches);

 private:
  struct State;
  explicit Decoder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// The adapters of a decoder, set aside (Decoder::exchange): masters, gradients, and the copies in
/// the compute precision.
class Attached {
 public:
  Attached();
  Attached(Attached&&) noexcept;
  Attached& operator=(Attached&&) noexcept;
  ~Attached();

 private:
  friend class Decoder;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft::model
