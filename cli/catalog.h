#pragma once

#include <array>
#include <string_view>

namespace weft::cli {

/// Where a command's code lives: in the program itself, or in the library that needs LibTorch.
enum class Home { kProgram, kTorchLibrary };

struct CatalogEntry {
  std::string_view name;
  std::string_view summary;
  Home home;
};

/// Every command, in the order of `weft --help`. Known to the program without loading LibTorch.
inline constexpr std::array kCatalog{
    CatalogEntry{"train", "train an adapter as a YAML file describes", Home::kTorchLibrary},
    CatalogEntry{"generate", "answer a prompt, or chat", Home::kTorchLibrary},
    CatalogEntry{"merge", "fold adapters, combine models or adapters; convert GGUF",
                 Home::kProgram},
    CatalogEntry{"unmerge", "restore the base's very files from a merged model",
                 Home::kProgram},
    CatalogEntry{"extract", "make an adapter of a fine-tuned model and its base", Home::kProgram},
    CatalogEntry{"export", "write GGUF models and adapters, portable PEFT, and Ollama folders",
                 Home::kProgram},
    CatalogEntry{"imatrix", "measure which inputs of a model's matrices matter, for quantising",
                 Home::kTorchLibrary},
    CatalogEntry{"eval", "measure loss, bits per byte and chrF of a model and its stages",
                 Home::kTorchLibrary},
    CatalogEntry{"score", "score answers of any program: chrF, BLEU, TER, exact match, F1",
                 Home::kProgram},
    CatalogEntry{"ledger", "list, compare and plot the evaluations that were recorded",
                 Home::kProgram},
    CatalogEntry{"report", "one page on training runs and evaluations, or a model card's section",
                 Home::kProgram},
    CatalogEntry{"inspect", "show what a model, adapter, GGUF file or run folder holds",
                 Home::kProgram},
    CatalogEntry{"tokenize", "text to token ids and back, with a fertility report", Home::kProgram},
    CatalogEntry{"logits", "write a model's logits for given token ids", Home::kTorchLibrary},
};

}  // namespace weft::cli
