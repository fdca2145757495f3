#include "model/kernels/amx.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

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

/// Part of a link's k.
struct Slice {
  const c10::BFloat16* a = nullptr;
  std::int64_t a_stride = 0;
  const c10::BFloat16* b = nullptr;
  std::int64_t strip_stride = 0;
  std::int64_t k = 0;
};

/// Of k, while 32 rows of the left operand meet all columns: with 32 columns they fill two thirds
/// of a first cache of 48 KiB. Beyond it both come from the second one.
constexpr std::int64_t kSliceDepth = 320;

/// The links of a chain in parts of kSliceDepth, or of several links that are less together. Calls
/// body(slices, is_first).
template <typename Body>
void for_slices(std::span<const Link> chain, const Body& body) {
  std::array<Slice, 8> slices;
  std::size_t count = 0;
  std::int64_t depth = 0;
  bool is_first = true;
  const auto flush = [&] {
    if (count > 0) body(std::span<const Slice>(slices.data(), count), is_first);
    is_first = is_first && count == 0;
    count = 0;
    depth = 0;
  };
  for (const Link& link : chain) {
    const std::int64_t parts = (link.k + kSliceDepth - 1) / kSliceDepth;
    const std::int64_t step = (link.k + parts * kTileDepth - 1) / (parts * kTileDepth) * kTileDepth;
    for (std::int64_t k = 0; k < link.k; k += step) {
      const std::int64_t part = std::min(step, link.k - k);
      if (depth + part > kSliceDepth || count == slices.size()) flush();
      slices[count++] = {link.a + k, link.a_stride, link.b + k * kTileRows, link.k * kTileRows,
                         part};
      depth += part;
    }
  }
  flush();
}

/// Sums of kA tiles of rows, from `row` on, by kB tiles of columns, from `column` on.
template <typename Tiles, int kA, int kB>
void block(float* c, std::int64_t c_stride, std::span<const Slice> slices, std::int64_t row,
           std::int64_t column, bool add) {
  constexpr auto kElement = static_cast<std::int64_t>(sizeof(c10::BFloat16));
  const std::int64_t c_bytes = c_stride * static_cast<std::int64_t>(sizeof(float));
  float* const upper = c + row * c_stride + column;
  float* const lower = upper + kTileRows * c_stride;
  if (add) {
    Tiles::template load<0>(upper, c_bytes);
    if constexpr (kB > 1) Tiles::template load<1>(upper + kTileRows, c_bytes);
    if constexpr (kA > 1) Tiles::template load<2>(lower, c_bytes);
    if constexpr (kA > 1 && kB > 1) Tiles::template load<3>(lower + kTileRows, c_bytes);
  } else {
    Tiles::template zero<0>();
    if constexpr (kB > 1) Tiles::template zero<1>();
    if constexpr (kA > 1) Tiles::template zero<2>();
    if constexpr (kA > 1 && kB > 1) Tiles::template zero<3>();
  }
  for (const Slice& slice : slices) {
    const std::int64_t left_bytes = slice.a_stride * kElement;
    const c10::BFloat16* left = slice.a + row * slice.a_stride;
    const c10::BFloat16* right = slice.b + column / kTileRows * slice.strip_stride;
    for (std::int64_t k = 0; k < slice.k; k += kTileDepth) {
      Tiles::template load<kLeft>(left, left_bytes);
      Tiles::template load<kRight>(right, kTileBytes);
      Tiles::template multiply<0, kLeft, kRight>();
      if constexpr (kA > 1) {
        Tiles::template load<kLeft + 1>(left + kTileRows * slice.a_stride, left_bytes);
        Tiles::template multiply<2, kLeft + 1, kRight>();
      }
      if constexpr (kB > 1) {
        Tiles::template load<kRight + 1>(right + slice.strip_stride, kTileBytes);
        Tiles::template multiply<1, kLeft, kRight + 1>();
      }
      if constexpr (kA > 1 && kB > 1) Tiles::template multiply<3, kLeft + 1, kRight + 1>();
      left += kTileDepth;
      right += kTileDepth * kTileRows;
    }
  }
  Tiles::template store<0>(upper, c_bytes);
  if constexpr (kB > 1) Tiles::template store<1>(upper + kTileRows, c_bytes);
  if constexpr (kA > 1) Tiles::template store<2>(lower, c_bytes);
  if constexpr (kA > 1 && kB > 1) Tiles::template store<3>(lower + kTileRows, c_bytes);
}

template <typename Tiles>
void multiply_by_tiles(float* c, std::int64_t c_stride, std::span<const Link> chain, std::int64_t m,
                       std::int64_t n, bool add) {
  static constexpr Shapes kWhole = shapes_of(kTileRows, kTileRows);
  const auto all_columns = [&]<int kA>(std::int64_t row) {
    for_slices(chain, [&](std::span<const Slice> slices, bool is_first) {
      const bool go_on = add || !is_first;
      std::int64_t column = 0;
      for (; column + kTileRows < n; column += 2 * kTileRows)
        block<Tiles, kA, 2>(c, c_stride, slices, row, column, go_on);
      if (column < n) block<Tiles, kA, 1>(c, c_stride, slices, row, column, go_on);
    });
  };
  const std::int64_t rest = m % (2 * kTileRows);
  if (m > rest) {
    Tiles::configure(kWhole);
    for (std::int64_t row = 0; row < m - rest; row += 2 * kTileRows)
      all_columns.template operator()<2>(row);
  }
  if (rest > kTileRows) {
    const Shapes shapes = shapes_of(kTileRows, rest - kTileRows);
    Tiles::configure(shapes);
    all_columns.template operator()<2>(m - rest);
  } else if (rest > 0) {
    const Shapes shapes = shapes_of(rest, 0);
    Tiles::configure(shapes);
    all_columns.template operator()<1>(m - rest);
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

void chain_amx(float* c, std::int64_t c_stride, std::span<const Link> chain, std::int64_t m,
               std::int64_t n, bool add) {
  multiply_by_tiles<Hardware>(c, c_stride, chain, m, n, add);
}
#else
bool has_amx() noexcept { return false; }

void chain_amx(float* c, std::int64_t c_stride, std::span<const Link> chain, std::int64_t m,
               std::int64_t n, bool add) {
  chain_amx_emulated(c, c_stride, chain, m, n, add);
}
#endif

void chain_amx_emulated(float* c, std::int64_t c_stride, std::span<const Link> chain,
                        std::int64_t m, std::int64_t n, bool add) {
  multiply_by_tiles<Emulated>(c, c_stride, chain, m, n, add);
}

void multiply_amx(float* c, std::int64_t c_stride, const c10::BFloat16* a, std::int64_t a_stride,
                  const c10::BFloat16* b, const Extent& extent, bool add) {
  const Link link{a, a_stride, b, extent.k};
  chain_amx(c, c_stride, {&link, 1}, extent.m, extent.n, add);
}

void multiply_amx_emulated(float* c, std::int64_t c_stride, const c10::BFloat16* a,
                           std::int64_t a_stride, const c10::BFloat16* b, const Extent& extent,
                           bool add) {
  const Link link{a, a_stride, b, extent.k};
  chain_amx_emulated(c, c_stride, {&link, 1}, extent.m, extent.n, add);
}

}  // namespace weft::model::kernel
