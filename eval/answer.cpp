#include "eval/answer.h"

#include <vector>

namespace weft::eval {

Generation compare_answer(std::string prompt, std::string reference, std::string output) {
  Generation generation{
      .prompt = std::move(prompt), .reference = std::move(reference), .output = std::move(output)};
  const std::vector<std::string> references{generation.reference};
  generation.chrf = chrf_statistics(generation.output, references, kChrf);
  generation.chrf_plus_plus = chrf_statistics(generation.output, references, kChrfPlusPlus);
  return generation;
}

}  // namespace weft::eval
