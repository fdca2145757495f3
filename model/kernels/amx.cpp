#include "model/kernels/amx.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "model/kernels/kernel_math.h"

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define WEFT_AMX
#endif

namespace weft::model::kernel {
namespace {

constexpr std::int64_t kTileRows = 16;
constexpr std::int64_t kTileBytes = 64;  ///< Of a row
constexpr std::int64_t kTileDepth = 32;  ///< BFloat16 in it

/// The memory operand of ldtilecfg.
struct alignas(64) Shapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(Shapes) == 64);

// Tiles 0 to 3 are sums of [2, 2] blocks, 4 and 5 rows of the left operand, 6 and 7 columns of the
// right one.
constexpr int kLeft = 4;
constexpr int kRight = 6;

/// Tiles for blocks of `upper` rows above `lower` others.
constexpr Shapes shapes_of(std::int64_t upper, std::int64_t lower) {
  Shapes shapes;
  const auto set = [&](int tile, std::int64_t rows) {
    shapes.rows[tile] = static_cast<std::uint8_t>(rows);
    shapes.row_bytes[tile] = rows > 0 ? kTileBytes : 0;
  };
  for (const int column : {0, 1}) {
    set(column, upper);
    set(2 + column, lower);
    set(kRight + column, kTileRows);
  }
  set(kLeft, upper);
  set(kLeft + 1, lower);
  return shapes;
}

#ifdef WEFT_AMX
/// The processor's tiles. Written as assembly with all operands: GCC 12's intrinsics tell the
/// compiler neither of the whole configuration nor of the memory that tiles read and write. The
/// configuration is a thread's, and libraries set their own on the same threads, so that it is
/// loaded for each product.
struct Hardware {
  static void configure(const Shapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
  static void release() { asm volatile("tilerelease" ::); }
  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  static void load(const void* from, std::int64_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(from), "r"(stride) : "memory");
  }
  template <int kTile>
  static void store(void* to, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kTile), "r"(to), "r"(stride) : "memory");
  }
  template <int kSum, int kA, int kB>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
  }
};
#endif

/// Tiles in memory.
struct Emulated {
  struct Tile {
    std::array<std::byte, kTileRows * kTileBytes> bytes;
  };
  struct State {
    Shapes shapes;
    std::array<Tile, 8> tiles;
  };
  static State& state() {
    thread_local State state;
    return state;
  }
  static void configure(const Shapes& shapes) { state().shapes = shapes; }
  static void release() { state().shapes = {}; }
  template <int kTile>
  static void zero() {
    state().tiles[kTile].bytes.fill({});
  }
  template <int kTile>
  static void load(const void* from, std::int64_t stride) {
    zero<kTile>();
    State& s = state();
    for (int row = 0; row < s.shapes.rows[kTile]; ++row)
      std::memcpy(s.tiles[kTile].bytes.data() + row * kTileBytes,
                  static_cast<const std::byte*>(from) + row * stride, s.shapes.row_bytes[kTile]);
  }
  template <int kTile>
  static void store(void* to, std::int64_t stride) {
    State& s = state();
    for (int row = 0; row < s.shapes.rows[kTile]; ++row)
      std::memcpy(static_cast<std::byte*>(to) + row * stride,
                  s.tiles[kTile].bytes.data() + row * kTileBytes, s.shapes.row_bytes[kTile]);
  }
  static float normal(float value) {
    return std::abs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0F, value) : value;
  }
  template <typename T>
  static T element(const Tile& tile, std::int64_t row, std::int64_t column) {
    T value;
    std::memcpy(
        &value,
        tile.bytes.data() + row * kTileBytes + column * static_cast<std::int64_t>(sizeof(T)),
        sizeof value);
    return value;
  }
  template <int kSum, int kA, int kB>
  static void multiply() {
    State& s = state();
    const Tile& a = s.tiles[kA];
    const Tile& b = s.tiles[kB];
    for (std::int64_t i = 0; i < s.shapes.rows[kSum]; ++i) {
      for (std::int64_t j = 0; j < kTileRows; ++j) {
        float chains[2] = {0, 0};
        for (std::int64_t p = 0; p < kTileDepth; ++p) {
          const float left = normal(widen(element<c10::BFloat16>(a, i, p)));
          const float right = normal(widen(element<c10::BFloat16>(b, p / 2, 2 * j + p % 2)));
          float& chain = chains[p % 2];
          chain = normal(std::fma(left, right, chain));
        }
        const float sum =
            normal(normal(element<float>(s.tiles[kSum], i, j)) + normal(chains[0] + chains[1]));
        std::memcpy(
            s.tiles[kSum].bytes.data() + i * kTileBytes + j * static_cast<std::int64_t>(sizeof sum),
            &sum, sizeof sum);
      }
    }
  }
};

/// Operands of the last, incomplete depth of tiles, filled up with zeros: filling one alone would
/// make NaN of infinities.
struct Tail {
  std::vector<c10::BFloat16> left;                         ///< [m, 32]
  alignas(64) std::array<c10::BFloat16, 32 * 32> right{};  ///< [16][32 columns][2]

  void take_left(const c10::BFloat16* a, std::int64_t a_stride, std::int64_t rows,
                 std::int64_t depth) {
    left.assign(static_cast<std::size_t>(rows * kTileDepth), c10::BFloat16());
    for (std::int64_t i = 0; i < rows; ++i)
      std::copy_n(a + i * a_stride, depth, left.begin() + i * kTileDepth);
  }
  void take_right(const c10::BFloat16* b, std::int64_t b_columns, std::int64_t columns,
                  std::int64_t depth) {
    right.fill(c10::BFloat16());
    for (std::int64_t pair = 0; pair < depth / 2; ++pair)
      std::copy_n(b + 2 * pair * b_columns, 2 * columns, right.begin() + pair * 2 * kTileDepth);
  }
};

/// Blocks of kA tiles of rows times kB tiles of columns over all of k.
template <typename Tiles, int kA, int kB>
void block(float* c, std::int64_t c_stride, const c10::BFloat16* a, std::int64_t a_stride,
           const c10::BFloat16* b, std::int64_t b_columns, std::int64_t whole,
           const c10::BFloat16* left_tail, const c10::BFloat16* right_tail, bool add) {
  const std::int64_t c_bytes = c_stride * static_cast<std::int64_t>(sizeof(float));
  float* const lower = c + kTileRows * c_stride;
  if (add) {
    Tiles::template load<0>(c, c_bytes);
    if constexpr (kB > 1) Tiles::template load<1>(c + kTileRows, c_bytes);
    if constexpr (kA > 1) Tiles::template load<2>(lower, c_bytes);
    if constexpr (kA > 1 && kB > 1) Tiles::template load<3>(lower + kTileRows, c_bytes);
  } else {
    Tiles::template zero<0>();
    if constexpr (kB > 1) Tiles::template zero<1>();
    if constexpr (kA > 1) Tiles::template zero<2>();
    if constexpr (kA > 1 && kB > 1) Tiles::template zero<3>();
  }
  const auto step = [](const c10::BFloat16* left, std::int64_t left_stride,
                       const c10::BFloat16* right, std::int64_t right_columns) {
    constexpr auto kElement = static_cast<std::int64_t>(sizeof(c10::BFloat16));
    const std::int64_t left_bytes = left_stride * kElement;
    const std::int64_t right_bytes = right_columns * 2 * kElement;
    Tiles::template load<kLeft>(left, left_bytes);
    Tiles::template load<kRight>(right, right_bytes);
    Tiles::template multiply<0, kLeft, kRight>();
    if constexpr (kB > 1) {
      Tiles::template load<kRight + 1>(right + 2 * kTileRows, right_bytes);
      Tiles::template multiply<1, kLeft, kRight + 1>();
    }
    if constexpr (kA > 1) {
      Tiles::template load<kLeft + 1>(left + kTileRows * left_stride, left_bytes);
      Tiles::template multiply<2, kLeft + 1, kRight>();
    }
    if constexpr (kA > 1 && kB > 1) Tiles::template multiply<3, kLeft + 1, kRight + 1>();
  };
  for (std::int64_t k = 0; k < whole; k += kTileDepth)
    step(a + k, a_stride, b + k * b_columns, b_columns);
  if (left_tail != nullptr) step(left_tail, kTileDepth, right_tail, kTileDepth);
  Tiles::template store<0>(c, c_bytes);
  if constexpr (kB > 1) Tiles::template store<1>(c + kTileRows, c_bytes);
  if constexpr (kA > 1) Tiles::template store<2>(lower, c_bytes);
  if constexpr (kA > 1 && kB > 1) Tiles::template store<3>(lower + kTileRows, c_bytes);
}

/// All columns for rows [row, row + rows), two tiles of rows or less.
template <typename Tiles>
void multiply_by_tiles(float* c, std::int64_t c_stride, const c10::BFloat16* a,
                       std::int64_t a_stride, const c10::BFloat16* b, const Extent& e, bool add) {
  static constexpr Shapes kWhole = shapes_of(kTileRows, kTileRows);
  thread_local Tail tail;
  const std::int64_t whole = e.k / kTileDepth * kTileDepth;
  const bool has_tail = whole < e.k;
  if (has_tail) tail.take_left(a + whole, a_stride, e.m, e.k - whole);
  const std::int64_t rest = e.m % (2 * kTileRows);
  const auto columns = [&]<int kA>(std::int64_t first_row, std::int64_t last_row) {
    for (std::int64_t column = 0; column < e.n; column += 2 * kTileRows) {
      const std::int64_t width = std::min(2 * kTileRows, e.n - column);
      const c10::BFloat16* const right = b + 2 * column;
      if (has_tail) tail.take_right(right + whole * e.n, e.n, width, e.k - whole);
      for (std::int64_t row = first_row; row < last_row; row += 2 * kTileRows) {
        const c10::BFloat16* const left_tail =
            has_tail ? tail.left.data() + row * kTileDepth : nullptr;
        float* const sums = c + row * c_stride + column;
        const c10::BFloat16* const left = a + row * a_stride;
        if (width > kTileRows) {
          block<Tiles, kA, 2>(sums, c_stride, left, a_stride, right, e.n, whole, left_tail,
                              tail.right.data(), add);
        } else {
          block<Tiles, kA, 1>(sums, c_stride, left, a_stride, right, e.n, whole, left_tail,
                              tail.right.data(), add);
        }
      }
    }
  };
  if (e.m > rest) {
    Tiles::configure(kWhole);
    columns.template operator()<2>(0, e.m - rest);
  }
  if (rest > 0) {
    const Shapes shapes =
        shapes_of(std::min(rest, kTileRows), std::max<std::int64_t>(rest - kTileRows, 0));
    Tiles::configure(shapes);
    if (rest > kTileRows) {
      columns.template operator()<2>(e.m - rest, e.m);
    } else {
      columns.template operator()<1>(e.m - rest, e.m);
    }
  }
  Tiles::release();
}

}  // namespace

#ifdef WEFT_AMX
bool has_amx() noexcept {
  static const bool kHas = [] {
    if (!__builtin_cpu_supports("amx-tile") || !__builtin_cpu_supports("amx-bf16")) return false;
    // The state of tiles is large; Linux gives it to processes that ask (Documentation/arch/x86/
    // xstate.rst).
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return kHas;
}

void multiply_amx(float* c, std::int64_t c_stride, const c10::BFloat16* a, std::int64_t a_stride,
                  const c10::BFloat16* b, const Extent& extent, bool add) {
  multiply_by_tiles<Hardware>(c, c_stride, a, a_stride, b, extent, add);
}
#else
bool has_amx() noexcept { return false; }

void multiply_amx(float* c, std::int64_t c_stride, const c10::BFloat16* a, std::int64_t a_stride,
                  const c10::BFloat16* b, const Extent& extent, bool add) {
  multiply_amx_emulated(c, c_stride, a, a_stride, b, extent, add);
}
#endif

void multiply_amx_emulated(float* c, std::int64_t c_stride, const c10::BFloat16* a,
                           std::int64_t a_stride, const c10::BFloat16* b, const Extent& extent,
                           bool add) {
  multiply_by_tiles<Emulated>(c, c_stride, a, a_stride, b, extent, add);
}

}  // namespace weft::model::kernel
