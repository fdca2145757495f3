#include "data/example_table.h"

#include <utility>

#include "data/token_file.h"

namespace weft::data {

std::size_t ExampleTable::size() const {
  if (chosen_) return chosen_->size();
  return file_ ? file_->size() : examples_.size();
}

ExampleView ExampleTable::operator[](std::size_t i) const {
  const std::size_t at = chosen_ ? (*chosen_)[i] : i;
  return file_ ? (*file_)[at] : ExampleView(examples_[at]);
}

ExampleTable ExampleTable::select(std::vector<std::uint32_t> numbers) const {
  ExampleTable some = *this;
  if (chosen_) {
    for (std::uint32_t& number : numbers) number = (*chosen_)[number];
  }
  some.chosen_ = std::make_shared<const std::vector<std::uint32_t>>(std::move(numbers));
  return some;
}

std::uint64_t ExampleTable::mapped_bytes() const { return file_ ? file_->bytes() : 0; }

void ExampleTable::release() const {
  if (file_) file_->release();
}

}  // namespace weft::data
