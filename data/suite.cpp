#include "data/suite.h"

namespace weft::data {

void describe(schema::Schema<GenerateSection>& s) {
  s.field("examples", &GenerateSection::examples,
          "answers generated (greedily) per data set, spread evenly over it")
      .at_least(1);
  s.field("max_tokens", &GenerateSection::max_tokens, "tokens of an answer at most").at_least(1);
  s.field("repetition_penalty", &GenerateSection::repetition_penalty,
          "logits of tokens seen, prompt included, are divided by it if positive, else multiplied; "
          "1: plain greedy; small models seldom leave a loop without it")
      .positive();
  s.field("stop", &GenerateSection::stop,
          "texts before which an answer ends, beside the end of the turn, as lm-eval's until: base "
          "models seldom end by themselves");
  s.field("show", &GenerateSection::show, "answers printed below the table, of every stage")
      .at_least(0);
  s.field("batch", &GenerateSection::batch,
          "answers written at the same time: time and memory, not results, depend on it")
      .range(1, 1024);
  s.field("metrics", &GenerateSection::metrics,
          "scores of the answers: chrf, chrf++, chrf++_unicode, bleu, ter, exact_match, f1; "
          "variants follow a colon, as in bleu:intl, bleu:spm=FILE or ter:no_punct")
      .non_empty();
}

void describe(schema::Schema<ChoiceSection>& s) {
  s.field("path", &ChoiceSection::path, "JSONL files, a question a row").required().non_empty();
  s.field("context", &ChoiceSection::context,
          "what stands before a choice: {name} is a column, {{ and }} are braces");
  s.field("choices", &ChoiceSection::choices,
          "the column with the list of choices (a.b: column b within a), or a template for each "
          "choice: [\"{mc_answer1}\", \"{mc_answer2}\"], [A, B]")
      .non_empty();
  s.field("answer", &ChoiceSection::answer,
          "the column with the right choice: its number, its text, its label, or its letter")
      .non_empty();
  s.field("labels", &ChoiceSection::labels,
          "the column with a label for each choice, of which the answer is one, as ARC's "
          "choices.label; default: A, B, C, ...");
  s.field("answer_from", &ChoiceSection::answer_from,
          "the number of the first choice where answers are numbers, as Belebele's 1")
      .range(0, 1);
  s.field("delimiter", &ChoiceSection::delimiter,
          "between context and choice; scored with the choice, as in lm-eval");
}

void describe(schema::Schema<SuiteSection>& s) {
  s.field("name", &SuiteSection::name, "what tables and gates call it").required().non_empty();
  s.field("language", &SuiteSection::language,
          "of its texts; suites of one language are summed up together");
  s.field("must_keep", &SuiteSection::must_keep,
          "what the model could do before and should still: measures forgetting");
  s.field("text", &SuiteSection::text,
          "plain text to score: .jsonl ({\"text\": ...} a line) or one document a file");
  s.section(
      "data", &SuiteSection::data,
      "data whose answers are scored; of type text: rows that are plain text, from any columns");
  s.section("choices", &SuiteSection::choices, "multiple-choice questions");
  s.field("source", &SuiteSection::source,
          "the column of text or choices that names the row's source document: intervals take a "
          "document's rows together, and each document is listed; of text files by default the "
          "file");
  s.choice("windows", &SuiteSection::windows,
           {{"rolling", Windows::kRolling}, {"llama", Windows::kLlama}},
           "of text: rolling as lm-eval (every token is scored), or llama as llama-perplexity (the "
           "second half of each chunk)");
  s.field("window_tokens", &SuiteSection::window_tokens,
          "tokens of a window; default: sequence_len, 512 with windows: llama")
      .at_least(4);
  s.field("stride", &SuiteSection::stride,
          "of text: tokens that each window after the first predicts; what is left of the window "
          "is context; default: all of it (windows do not overlap)")
      .at_least(1);
  s.field("limit", &SuiteSection::limit,
          "documents, examples or questions at most, spread evenly; default: the limit of all")
      .at_least(1);
  s.field("metrics", &SuiteSection::metrics,
          "of data: scores of the answers; default: those of generate");
  s.field("references", &SuiteSection::references,
          "the column of data with more references for the scores of answers, beside the answer "
          "itself: a text, or a list of texts as long in every row");
}

}  // namespace weft::data
