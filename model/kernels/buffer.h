#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace weft::model::kernel {

/// Room for elements that are written before they are read. It begins with a line of the cache: a
/// row of 64 bytes that lies in two lines takes the processor twice the time.
template <typename Element>
class Buffer {
 public:
  /// Makes it at least `count` long; what it held is lost where it was shorter.
  void grow(std::int64_t count) {
    if (count <= size_) return;
    size_ = count;
    data_.reset(static_cast<Element*>(
        ::operator new(static_cast<std::size_t>(count) * sizeof(Element), kLine)));
  }

  [[nodiscard]] Element* get() const noexcept { return data_.get(); }
  [[nodiscard]] Element& operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(Element* data) const noexcept { ::operator delete(data, kLine); }
  };
  std::unique_ptr<Element[], Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace weft::model::kernel
