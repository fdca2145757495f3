#include "data/example_table.h"

#include "data/token_file.h"

namespace weft::data {

std::size_t ExampleTable::size() const { return file_ ? file_->size() : examples_.size(); }

ExampleView ExampleTable::operator[](std::size_t i) const {
  return file_ ? (*file_)[i] : ExampleView(examples_[i]);
}

std::uint64_t ExampleTable::mapped_bytes() const { return file_ ? file_->bytes() : 0; }

void ExampleTable::release() const {
  if (file_) file_->release();
}

}  // namespace weft::data
