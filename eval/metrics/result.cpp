#include "eval/metrics/result.h"

namespace weft::eval {

const char* word(SuiteKind kind) {
  switch (kind) {
    case SuiteKind::kText: return "text";
    case SuiteKind::kInstruction: return "instruction";
    case SuiteKind::kChoice: return "choice";
  }
  return "";
}

const char* word(Unit unit) {
  switch (unit) {
    case Unit::kDocument: return "document";
    case Unit::kWindow: return "window";
    case Unit::kExample: return "example";
    case Unit::kQuestion: return "question";
  }
  return "";
}

}  // namespace weft::eval
