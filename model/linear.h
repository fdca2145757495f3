#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "model/kernels/ops.h"
#include "model/kernels/product.h"
#include "model/quantised.h"

namespace weft::model {

/// One module of a Linear: rows [first, first + rows) of its weight.
struct LinearPart {
  std::string path;
  std::uint32_t index = 0;  ///< Among linear_modules(); names its dropout masks.
  std::int64_t first = 0;
  std::int64_t rows = 0;
  /// Row i of the part is row order[i] of the module as it is stored, and as its adapters know it
  /// (checkpoint::stored_row_order); undefined: the same. [rows] int64.
  at::Tensor order{};
};

/// A frozen linear layer with adapters: y = x W^T + bias + sum over adapters of scale (drop(x) A^T)
/// B^T.
///
/// Modules that read the same input (q, k, v; gate, up) are parts of one Linear: one product with
/// all A, one for the gradient of the input. Products with the rank come first; B A is never
/// formed, and B's product is summed with the base's before rounding. Operands are in the element
/// type of the weight, masters and gradients in fp32. A quantised weight is read back panel by
/// panel.
class Linear {
 public:
  Linear() = default;
  /// weight [out, in] contiguous; bias [out] or undefined.
  Linear(at::Tensor weight, at::Tensor bias, std::vector<LinearPart> parts);
  /// One quantised matrix a part; `activations`: their type and device.
  Linear(std::vector<QuantisedMatrix> weights, at::Tensor bias, std::vector<LinearPart> parts,
         const at::TensorOptions& activations);

  [[nodiscard]] std::int64_t in() const { return in_; }
  [[nodiscard]] const std::vector<LinearPart>& parts() const { return parts_; }

  /// The factors of one adapter at one part. Tensors share storage with who trains them.
  struct Slot {
    std::size_t part = 0;
    double scale = 1;
    at::Tensor a;         ///< [r, in] fp32
    at::Tensor b;         ///< [rows, r] fp32
    at::Tensor grad_a{};  ///< undefined: not trained
    at::Tensor grad_b{};
    // Set by attach():
    std::int64_t first = 0;   ///< Column in the stacked rank
    at::Tensor computed_b{};  ///< b in the element type, scale included

    [[nodiscard]] std::int64_t rank() const { return a.size(0); }
    /// This slot's columns of [T, sum of ranks].
    [[nodiscard]] at::Tensor of_ranks(const at::Tensor& all) const {
      return all.narrow(1, first, rank());
    }
  };
  /// Everything that attach() added.
  struct Adapters {
    std::vector<Slot> slots;
    std::int64_t rank = 0;  ///< Of all slots
    at::Tensor a{};         ///< [rank, in], the slots' one below the other
  };
  /// The slot's tensors are in the module's own order of rows.
  void attach(Slot slot);
  void detach_all() { adapters_ = {}; }
  /// Takes these adapters on and hands over those that were attached.
  void exchange(Adapters& other) { std::swap(adapters_, other); }
  /// Takes the masters over into the element type.
  void refresh();
  [[nodiscard]] bool has_adapters() const { return !adapters_.slots.empty(); }
  [[nodiscard]] bool trains() const;

  /// x [T, in] -> [T, out], plus `residual` [T, out] where defined. `middle`, where not null,
  /// receives the ranks' outputs [T, sum of r] that backward() needs.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const at::Tensor& residual = {},
                                   const Dropout& dropout = {}, at::Tensor* middle = nullptr) const;

  /// The ranks' outputs alone, as forward() gives them; undefined without adapters.
  [[nodiscard]] at::Tensor middle(const at::Tensor& x, const Dropout& dropout) const;

  /// dy [T, out] -> dx [T, in] where `want_input`, else undefined; adds to the gradients of trained
  /// slots. `x` is the input of forward() and may be undefined when nothing is trained here.
  [[nodiscard]] at::Tensor backward(const at::Tensor& dy, const at::Tensor& x,
                                    const at::Tensor& middle, const Dropout& dropout,
                                    bool want_input) const;

 private:
  [[nodiscard]] at::Tensor ranks(const at::Tensor& x, const Dropout& dropout) const;
  /// dy [T, out] -> the gradient of the ranks' outputs [T, rank]; adds to the gradients of B.
  [[nodiscard]] at::Tensor backward_ranks(const at::Tensor& dy, const at::Tensor& middle) const;
  /// turned [r, rows]: the transposed gradient, without the scale.
  void add_gradient_of_b(const Slot& slot, const at::Tensor& turned) const;
  /// Adds to the gradients of A where dropout hides parts of x.
  void add_gradients_of_dropped(const at::Tensor& d_middle, const at::Tensor& x,
                                const Dropout& dropout) const;

  /// x times the transposed weight of a part.
  [[nodiscard]] Factors base_term(const at::Tensor& x, std::size_t part) const;
  /// The terms of dy times the weight.
  [[nodiscard]] std::vector<Factors> input_terms(const at::Tensor& dy) const;

  std::int64_t in_ = 0;
  std::int64_t out_ = 0;
  at::TensorOptions options_;  // of activations and of the adapters' factors as they are computed
  at::Tensor weight_;          // undefined where the base is quantised
  std::vector<QuantisedMatrix> quantised_;
  at::Tensor bias_;
  std::vector<LinearPart> parts_;
  Adapters adapters_;
};

}  // namespace weft::model
