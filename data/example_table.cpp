#include "data/example_table.h"

#include <algorithm>
#include <utility>

#include "data/token_file.h"

namespace weft::data {

ExampleTable::ExampleTable(std::vector<std::shared_ptr<const TokenFile>> files) {
  auto table = std::make_shared<Files>();
  std::size_t count = 0;
  for (const auto& file : files) table->ends.push_back(count += file->size());
  table->all = std::move(files);
  files_ = std::move(table);
}

std::size_t ExampleTable::size() const {
  if (chosen_) return chosen_->size();
  if (!files_) return examples_.size();
  return files_->ends.empty() ? 0 : files_->ends.back();
}

ExampleView ExampleTable::operator[](std::size_t place) const {
  const std::size_t i = chosen_ ? (*chosen_)[place] : place;
  if (!files_) return ExampleView(examples_[i]);
  const auto end = std::ranges::upper_bound(files_->ends, i);
  const std::size_t before = end == files_->ends.begin() ? 0 : *(end - 1);
  return (*files_->all[static_cast<std::size_t>(end - files_->ends.begin())])[i - before];
}

ExampleTable ExampleTable::select(std::vector<std::uint32_t> numbers) const {
  ExampleTable some = *this;
  if (chosen_) {
    for (std::uint32_t& number : numbers) number = (*chosen_)[number];
  }
  some.chosen_ = std::make_shared<const std::vector<std::uint32_t>>(std::move(numbers));
  return some;
}

std::uint64_t ExampleTable::mapped_bytes() const {
  std::uint64_t bytes = 0;
  if (files_) {
    for (const auto& file : files_->all) bytes += file->bytes();
  }
  return bytes;
}

void ExampleTable::release() const {
  if (!files_) return;
  for (const auto& file : files_->all) file->release();
}

}  // namespace weft::data
