#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "model/kernels/bf16_rows.h"
#include "model/kernels/blocks.h"
#include "model/kernels/buffer.h"
#include "model/kernels/kernel_math.h"
#include "model/kernels/multiply.h"
#include "model/kernels/pack.h"
#include "model/kernels/processor.h"

namespace weft::model {
namespace {

using kernel::MatrixView;
using kernel::round_up;

/// Rows whose sums are kept at once, and whose left operands are packed at once.
constexpr std::int64_t kMostRows = 1024;

/// The sums' way to c.
struct Target {
  void* c = nullptr;
  std::int64_t stride = 0;
  const void* bias = nullptr;
  const void* residual = nullptr;
  std::int64_t residual_stride = 0;
  double scale = 1;
  bool add = false;
};

/// A block of sums and where it goes.
struct Block {
  std::int64_t row = 0, rows = 0, column = 0, columns = 0;
  std::int64_t stride = 0;  ///< Of the sums' rows
};

/// E: element of bias and residual; C: of c; W: of the sums.
template <typename E, typename C, typename W>
WEFT_INLINE void finish_of(const Target& t, const W* sums, const Block& block) {
  const auto scale = static_cast<W>(t.scale);
  const auto to_element = [](auto value) WEFT_INLINED {
    return kernel::narrow<C>(static_cast<kernel::Wide<C>>(value));
  };
  for (std::int64_t i = 0; i < block.rows; ++i) {
    const W* sum = sums + i * block.stride;
    C* c = static_cast<C*>(t.c) + (block.row + i) * t.stride + block.column;
    const std::int64_t n = block.columns;
    if (t.add) {
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j) c[j] = to_element(kernel::widen(c[j]) + scale * sum[j]);
      continue;
    }
    if (t.bias != nullptr) {
      const E* bias = static_cast<const E*>(t.bias) + block.column;
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j)
        c[j] = to_element(scale * sum[j] + kernel::widen(bias[j]));
    } else {
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j) c[j] = to_element(scale * sum[j]);
    }
    if (t.residual != nullptr) {
      const E* residual =
          static_cast<const E*>(t.residual) + (block.row + i) * t.residual_stride + block.column;
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j)
        c[j] = to_element(kernel::widen(c[j]) + kernel::widen(residual[j]));
    }
  }
}

#define WEFT_FINISH(E, C, W)                                                          \
  WEFT_CLONES void finish(const Target& t, E, C, const W* sums, const Block& block) { \
    finish_of<E, C, W>(t, sums, block);                                               \
  }
WEFT_FINISH(float, float, float)
WEFT_FINISH(double, double, double)
WEFT_FINISH(c10::BFloat16, c10::BFloat16, float)
/// The same by the row kernels of BFloat16.
void finish(const kernel::RowKernels& fast, const Target& t, const float* sums,
            const Block& block) {
  using c10::BFloat16;
  kernel::Finish rows{.to = static_cast<BFloat16*>(t.c) + block.row * t.stride + block.column,
                      .sums = sums,
                      .to_stride = t.stride,
                      .sums_stride = block.stride,
                      .rows = block.rows,
                      .columns = block.columns,
                      .scale = static_cast<float>(t.scale)};
  if (t.bias != nullptr) rows.bias = static_cast<const BFloat16*>(t.bias) + block.column;
  if (t.residual != nullptr) {
    rows.residual_stride = t.residual_stride;
    rows.residual =
        static_cast<const BFloat16*>(t.residual) + block.row * t.residual_stride + block.column;
  }
  fast.finish_rows(rows);
}
WEFT_FINISH(c10::BFloat16, float, float)
WEFT_FINISH(double, float, double)

template <typename E>
struct Term {
  MatrixView<E> a{};  // [m, k]
  MatrixView<E> b{};  // [k, n], unless it is quantised
  std::int64_t k = 0;
  const QuantisedMatrix* quantised = nullptr;
  bool turned = false;
};

/// How a product is shared out at first: `row_parts` times `column_parts` threads, each with its
/// rows of all panels of its part.
struct Shares {
  std::int64_t row_parts = 1, column_parts = 1;
};

/// Rows that are worth a panel packed for them alone.
constexpr std::int64_t kRowsOfShare = 256;

/// By rows where there are enough: the loops between products share rows out in the same way, so
/// that a thread finds what it wrote in its own cache.
Shares share(std::int64_t rows, std::int64_t panels, std::int64_t threads) {
  Shares shares;
  shares.row_parts = std::clamp<std::int64_t>(rows / kRowsOfShare, 1, threads);
  while (threads / shares.row_parts > panels) ++shares.row_parts;
  shares.column_parts = threads / shares.row_parts;
  return shares;
}

/// Rows of a product that are so few that its time is that of reading the right operand: as many as
/// a step of generation has. Panels then stay in the first cache. Sums are the same.
constexpr std::int64_t kFewRows = 16;
constexpr std::int64_t kDepthOfFew = 256;

/// Of operands whose sums have their own precision: short chains keep its digits.
constexpr kernel::Cut kCutOfFloats{.columns = 64, .depth = 2048, .rows = 96, .step = 256};

template <typename E>
kernel::Cut cut_of(std::int64_t rows) {
  kernel::Cut cut = kCutOfFloats;
  if constexpr (kernel::Operand<E>::kPair == 2) cut = kernel::kernels().bfloat16_cut;
  if (rows <= kFewRows) cut.depth = kDepthOfFew;
  return cut;
}

/// A product that threads work on together.
class Shared {
 public:
  Shared() = default;
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  virtual ~Shared() = default;

  /// Cuts it for so many threads; how many of them have a part of their own.
  virtual std::int64_t share_out(std::int64_t threads) = 0;
  /// Every thread begins with its own part, and then helps with what is left of the others': cores
  /// are seldom equally fast, and a number of panels is seldom a multiple of theirs.
  virtual void help(std::int64_t thread) = 0;
};

/// E: element of the operands; C: of the result.
template <typename E, typename C>
class Product final : public Shared {
 public:
  using Sum = typename kernel::Operand<E>::Sum;

  Product(std::vector<Term<E>> terms, std::int64_t m, std::int64_t n, const Target& target)
      : terms_(std::move(terms)),
        m_(m),
        n_(n),
        target_(target),
        unit_(kernel::layout_of<E>().depth),
        cut_(cut_of<E>(m)),
        multiplies_woven_(is_woven(terms_, m)),
        groups_(group()) {
    if (multiplies_woven_) cut_.columns = kernel::kColumnsOfWoven;
  }

  std::int64_t share_out(std::int64_t threads) override {
    cut_for(threads);
    const std::int64_t panels = (n_ + cut_.columns - 1) / cut_.columns;
    const Shares shares = share(m_, panels, threads);
    const auto cut = [](std::int64_t count, std::int64_t parts, std::int64_t i) {
      return count * i / parts;
    };
    for (std::int64_t r = 0; r < shares.row_parts; ++r) {
      for (std::int64_t c = 0; c < shares.column_parts; ++c) {
        parts_.emplace_back(cut(m_, shares.row_parts, r), cut(m_, shares.row_parts, r + 1),
                            cut(panels, shares.column_parts, c),
                            cut(panels, shares.column_parts, c + 1));
      }
    }
    return std::ssize(parts_);
  }

  void help(std::int64_t thread) override {
    const std::int64_t count = std::ssize(parts_);
    for (std::int64_t other = 0; other < count; ++other)
      work(parts_[static_cast<std::size_t>((thread + other) % count)]);
  }

 private:
  /// Whether the first term is multiplied without a packed panel.
  static bool is_woven(const std::vector<Term<E>>& terms, std::int64_t m) {
    if constexpr (!std::is_same_v<E, c10::BFloat16>) return false;
    if (terms.empty() || m > kernel::kMostRowsOfWoven ||
        kernel::woven_kernels().multiply == nullptr)
      return false;
    const Term<E>& term = terms.front();
    return term.turned && term.a.column_stride == 1 && term.quantised->woven().data != nullptr;
  }

  static constexpr std::int64_t kFewestColumns = 64;
  static constexpr std::int64_t kFewestRows = 64;
  static constexpr std::int64_t kUsualRows = 512;

  /// Blocks that a thread takes at once are large enough to pay for a panel and so many that the
  /// threads end together.
  void cut_for(std::int64_t threads) {
    const auto blocks = [&](std::int64_t rows) {
      return ((n_ + cut_.columns - 1) / cut_.columns) * ((m_ + rows - 1) / rows);
    };
    const std::int64_t wanted = threads == 1 ? 1 : 4 * threads;
    while (cut_.columns > kFewestColumns && blocks(kFewestRows) < wanted) cut_.columns /= 2;
    rows_ = kMostRows;
    if (groups_.size() > 1) return;  // each would pack all groups
    rows_ = kUsualRows;
    while (rows_ > kFewestRows && blocks(rows_) < wanted) rows_ /= 2;
  }

  /// Left operands as the kernel reads them.
  struct Left {
    const E* data = nullptr;
    std::int64_t stride = 0;
  };

  [[nodiscard]] std::int64_t depth_of(const Term<E>& term) const { return round_up(term.k, unit_); }

  /// Whether the kernel can read a where it lies.
  [[nodiscard]] bool is_direct(const Term<E>& term) const {
    return term.a.column_stride == 1 && term.k % unit_ == 0;
  }

  /// Rows and panels of the result, in blocks of rows_ rows of a panel: of kMostRows rows all
  /// panels, of a panel all blocks, so that what was packed is used again. `next` is the first that
  /// no thread has taken.
  struct Part {
    Part(std::int64_t from_row, std::int64_t to_row, std::int64_t from_panel, std::int64_t to_panel)
        : first_row(from_row), last_row(to_row), first_panel(from_panel), last_panel(to_panel) {}
    std::int64_t first_row, last_row, first_panel, last_panel;
    std::atomic<std::int64_t> next{0};
  };

  /// A block of a part, and the rows whose left operands are packed with its own.
  struct Taken {
    std::int64_t first_row = 0, last_row = 0;
    std::int64_t panel = 0;
    Block block;
  };

  /// The next block that no thread has taken yet.
  bool take(Part& part, Taken& taken) const {
    const std::int64_t panels = part.last_panel - part.first_panel;
    if (panels == 0) return false;
    const std::int64_t all = kMostRows / rows_;  // blocks of a panel, but at the end
    const std::int64_t index = part.next.fetch_add(1, std::memory_order_relaxed);
    taken.first_row = part.first_row + index / (panels * all) * kMostRows;
    if (taken.first_row >= part.last_row) return false;
    taken.last_row = std::min(taken.first_row + kMostRows, part.last_row);
    const std::int64_t blocks = (taken.last_row - taken.first_row + rows_ - 1) / rows_;
    const std::int64_t rest = index % (panels * all);
    if (rest >= panels * blocks) return false;
    taken.panel = part.first_panel + rest / blocks;
    Block& block = taken.block;
    block.row = taken.first_row + rest % blocks * rows_;
    block.rows = std::min(rows_, taken.last_row - block.row);
    block.column = taken.panel * cut_.columns;
    block.columns = std::min(cut_.columns, n_ - block.column);
    block.stride = cut_.columns;
    return true;
  }

  /// Computes what no thread has taken yet.
  void work(Part& part) const {
    thread_local kernel::Buffer<E> left_buffer;
    thread_local kernel::Buffer<E> panel;
    thread_local kernel::Buffer<Sum> sums;
    std::vector<Left> left;
    std::int64_t left_row = -1;
    std::int64_t packed_panel = -1;
    for (Taken taken; take(part, taken);) {
      if (taken.first_row != left_row) {
        left = pack_lefts(taken.first_row, taken.last_row, left_buffer);
        left_row = taken.first_row;
      }
      const bool is_one_group = groups_.size() == 1;
      sums.grow((is_one_group ? cut_.rows : taken.block.rows) * cut_.columns);
      panel.grow(cut_.depth * cut_.columns);
      for (std::size_t g = 0; g < groups_.size(); ++g) {
        if (!is_one_group || packed_panel != taken.panel)
          pack_group(panel.get(), groups_[g], taken.block);
        packed_panel = taken.panel;
        fill(sums.get(), left, left_row, g, taken.block, panel.get());
      }
    }
  }

  std::vector<Left> pack_lefts(std::int64_t row, std::int64_t end,
                               kernel::Buffer<E>& buffer) const {
    std::int64_t size = 0;
    for (const Term<E>& term : terms_)
      if (!is_direct(term)) size += depth_of(term) * (end - row);
    buffer.grow(size);
    std::vector<Left> left;
    E* packed = buffer.get();
    for (const Term<E>& term : terms_) {
      if (is_direct(term)) {
        left.push_back({term.a.data + row * term.a.row_stride, term.a.row_stride});
        continue;
      }
      const std::int64_t depth = depth_of(term);
      kernel::pack_left(packed, term.a, row, end, term.k);
      left.push_back({packed, depth});
      packed += depth * (end - row);
    }
    return left;
  }

  /// Rows [first, first + depth) of a term's right operand, in the columns of `block`.
  static void pack(E* to, const Term<E>& term, std::int64_t first, std::int64_t depth,
                   const Block& block) {
    if (term.quantised == nullptr) {
      MatrixView<E> b = term.b;
      b.data += first * b.row_stride;
      return kernel::pack_panel(to, b, block.column, block.columns, depth);
    }
    if constexpr (!std::is_same_v<E, double>) {
      const kernel::WovenRows rows = term.quantised->woven();
      if (term.turned && rows.data != nullptr)
        return kernel::pack_woven(to, rows, block.column, block.columns, first, depth);
    }
    thread_local kernel::Buffer<E> values;
    const std::int64_t stride = term.turned ? round_up(depth, kernel::kLanes) : block.stride;
    values.grow(stride * (term.turned ? block.columns : depth));
    MatrixView<E> view{values.get(), stride, 1};
    if (term.turned) {
      term.quantised->read({block.column, block.columns, first, depth}, values.get(), stride);
      view = {values.get(), 1, stride};
    } else {
      term.quantised->read({first, depth, block.column, block.columns}, values.get(), stride);
    }
    kernel::pack_panel(to, view, 0, block.columns, depth);
  }

  /// Rows [first, first + depth) of a term's right operand.
  struct Piece {
    std::size_t term = 0;
    std::int64_t first = 0, depth = 0;
  };

  /// All pieces, in groups that are packed at once: of cut_.depth together at most.
  [[nodiscard]] std::vector<std::vector<Piece>> group() const {
    std::vector<std::vector<Piece>> groups(1);
    std::int64_t used = 0;
    for (std::size_t i = 0; i < terms_.size(); ++i) {
      const std::int64_t all = depth_of(terms_[i]);
      if (i == 0 && multiplies_woven_) {
        groups.back().push_back({0, 0, all});
        used = cut_.depth;  // a group of its own
        continue;
      }
      for (std::int64_t first = 0; first < all; first += cut_.depth) {
        const std::int64_t depth = std::min(cut_.depth, all - first);
        if (used + depth > cut_.depth) {
          groups.emplace_back();
          used = 0;
        }
        groups.back().push_back({i, first, depth});
        used += depth;
      }
    }
    return groups;
  }

  void pack_group(E* to, const std::vector<Piece>& pieces, const Block& block) const {
    const std::int64_t lanes = round_up(block.columns, kernel::kLanes);
    for (const Piece& piece : pieces) {
      const Term<E>& term = terms_[piece.term];
      if (piece.term == 0 && multiplies_woven_) continue;
      pack(to, term, piece.first, std::min(piece.depth, term.k - piece.first), block);
      to += piece.depth * lanes;
    }
  }

  /// Sums of `block` over group g, and after the last their way to c. A chunk of rows meets all
  /// pieces while its sums are in the first cache. left: from row `left_row` on.
  void fill(Sum* sums, const std::vector<Left>& left, std::int64_t left_row, std::size_t g,
            const Block& block, const E* panel) const {
    const std::int64_t lanes = round_up(block.columns, kernel::kLanes);
    for (std::int64_t row = 0; row < block.rows; row += cut_.rows) {
      Block chunk = block;
      chunk.row += row;
      chunk.rows = std::min(cut_.rows, block.rows - row);
      Sum* const of_chunk = groups_.size() == 1 ? sums : sums + row * block.stride;
      if (groups_[g].empty()) std::fill_n(of_chunk, chunk.rows * block.stride, Sum{});
      multiply(of_chunk, left, chunk.row - left_row, groups_[g], chunk, lanes, panel, g > 0);
      if (g + 1 == groups_.size()) finish_chunk(of_chunk, chunk);
    }
  }

  void finish_chunk(const Sum* sums, const Block& block) const {
    if constexpr (std::is_same_v<C, c10::BFloat16>) {
      const kernel::RowKernels* const fast = kernel::bf16_rows();
      if (!target_.add && fast != nullptr) return finish(*fast, target_, sums, block);
    }
    finish(target_, E{}, C{}, sums, block);
  }

  /// Sums of `chunk`, whose left operands begin at `row`, over pieces that are packed in `panel`.
  void multiply(Sum* sums, const std::vector<Left>& left, std::int64_t row,
                const std::vector<Piece>& pieces, const Block& chunk, std::int64_t lanes,
                const E* panel, bool add) const {
    if constexpr (std::is_same_v<E, c10::BFloat16>) {
      if (multiplies_woven_ && !pieces.empty() && pieces.front().term == 0) {
        const Left& a = left.front();
        return kernel::woven_kernels().multiply(sums, chunk.stride, a.data + row * a.stride,
                                                a.stride, terms_.front().quantised->woven(),
                                                chunk.column,
                                                {chunk.rows, lanes, pieces.front().depth});
      }
      if (const kernel::MultiplyChain chain = kernel::kernels().chain_of_bfloat16) {
        thread_local std::vector<kernel::Link> links;
        links.clear();
        for (const Piece& piece : pieces) {
          const Left& a = left[piece.term];
          links.push_back({a.data + row * a.stride + piece.first, a.stride, panel, piece.depth});
          panel += piece.depth * lanes;
        }
        return chain(sums, chunk.stride, links, chunk.rows, lanes, add);
      }
    }
    for (const Piece& piece : pieces) {
      const Left& a = left[piece.term];
      const E* const from = a.data + row * a.stride + piece.first;
      for (std::int64_t k = 0; k < piece.depth; k += cut_.step) {
        kernel::multiply(sums, chunk.stride, from + k, a.stride, panel + k * lanes,
                         {chunk.rows, lanes, std::min(cut_.step, piece.depth - k)}, add);
        add = true;
      }
      panel += piece.depth * lanes;
    }
  }

  std::vector<Term<E>> terms_;
  std::int64_t m_, n_;
  Target target_;
  std::int64_t unit_;  ///< What k is filled up to a multiple of
  kernel::Cut cut_;
  bool multiplies_woven_;
  std::vector<std::vector<Piece>> groups_;
  std::int64_t rows_ = kMostRows;  ///< Of a block
  std::deque<Part> parts_;
};

template <typename E>
MatrixView<E> view(const at::Tensor& matrix) {
  TORCH_INTERNAL_ASSERT(matrix.dim() == 2);
  const bool by_row = matrix.stride(1) == 1 || matrix.size(1) == 1;
  TORCH_INTERNAL_ASSERT(by_row || matrix.stride(0) == 1 || matrix.size(0) == 1,
                        "a product of a matrix that is contiguous along no dimension");
  return {matrix.const_data_ptr<E>(), by_row ? matrix.stride(0) : 1, by_row ? 1 : matrix.stride(1)};
}

template <typename E, typename C>
std::unique_ptr<Shared> make(const at::Tensor& c, std::span<const Factors> terms,
                             const Target& target) {
  std::vector<Term<E>> views;
  for (const Factors& f : terms) {
    std::int64_t depth = 0;
    std::int64_t width = 0;
    if (f.quantised != nullptr) {
      depth = f.turned ? f.quantised->columns() : f.quantised->rows();
      width = f.turned ? f.quantised->rows() : f.quantised->columns();
    } else {
      depth = f.b.size(0);
      width = f.b.size(1);
    }
    TORCH_INTERNAL_ASSERT(f.a.size(0) == c.size(0) && width == c.size(1) && f.a.size(1) == depth);
    if (depth == 0) continue;
    views.push_back({.a = view<E>(f.a), .k = depth, .quantised = f.quantised, .turned = f.turned});
    if (f.quantised == nullptr) views.back().b = view<E>(f.b);
  }
  return std::make_unique<Product<E, C>>(std::move(views), c.size(0), c.size(1), target);
}

std::unique_ptr<Shared> make(const at::Tensor& c, std::span<const Factors> terms,
                             const Epilogue& finish) {
  TORCH_INTERNAL_ASSERT(!terms.empty() && c.dim() == 2 && (c.stride(1) == 1 || c.size(1) == 1));
  TORCH_INTERNAL_ASSERT(!finish.add || !(finish.bias.defined() || finish.residual.defined()));
  const at::ScalarType type = terms.front().a.scalar_type();
  Target target{
      .c = c.mutable_data_ptr(), .stride = c.stride(0), .scale = finish.scale, .add = finish.add};
  if (finish.bias.defined()) {
    TORCH_INTERNAL_ASSERT(finish.bias.scalar_type() == type && finish.bias.is_contiguous());
    target.bias = finish.bias.const_data_ptr();
  }
  if (finish.residual.defined()) {
    TORCH_INTERNAL_ASSERT(finish.residual.scalar_type() == type && finish.residual.stride(1) == 1);
    target.residual = finish.residual.const_data_ptr();
    target.residual_stride = finish.residual.stride(0);
  }
  if (c.scalar_type() == at::kFloat && type == at::kBFloat16)
    return make<c10::BFloat16, float>(c, terms, target);
  if (c.scalar_type() == at::kFloat && type == at::kDouble)
    return make<double, float>(c, terms, target);
  TORCH_INTERNAL_ASSERT(c.scalar_type() == type);
  std::unique_ptr<Shared> made;
  kernel::for_type(type, [&]<typename E>(E) { made = make<E, E>(c, terms, target); });
  return made;
}

void run(std::span<const std::unique_ptr<Shared>> all) {
  const std::int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  std::int64_t used = 0;
  for (const auto& one : all) used = std::max(used, one->share_out(threads));
  at::parallel_for(0, used, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t thread = begin; thread < end; ++thread)
      for (const auto& one : all) one->help(thread);
  });
}

}  // namespace

void Processor::products_(std::span<const ProductOf> all) const {
  if (Meter::running()) return;
  std::vector<std::unique_ptr<Shared>> made;
  for (const ProductOf& one : all) {
    if (one.c.numel() > 0) made.push_back(make(one.c, one.terms, one.finish));
  }
  run(made);
}

}  // namespace weft::model
