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
  std::string_view example;  ///< A whole command, for the help text.
};

/// Every command, in the order of `weft --help`. Known to the program without loading LibTorch.
inline constexpr std::array kCatalog{
    CatalogEntry{"train", "train an adapter as a YAML file describes", Home::kTorchLibrary,
                 "weft train nahuatl.yaml"},
    CatalogEntry{"batch", "run many jobs of one description, and compare what came of them",
                 Home::kProgram, "weft batch jobs.yaml"},
    CatalogEntry{"import", "read a configuration of axolotl or LLaMA-Factory", Home::kTorchLibrary,
                 "weft import qlora.yml --out nahuatl.yaml"},
    CatalogEntry{
        "generate", "answer a prompt, or chat", Home::kTorchLibrary,
        "weft generate --model SmolLM2-135M-Instruct --adapter runs/nahuatl/adapter --chat"},
    CatalogEntry{
        "merge", "fold adapters, combine models or adapters; convert GGUF", Home::kProgram,
        "weft merge --model SmolLM2-135M-Instruct --adapter runs/nahuatl/adapter --out merged"},
    CatalogEntry{"unmerge", "restore the base's very files from a merged model", Home::kProgram,
                 "weft unmerge merged --undo merged.undo --out SmolLM2-135M-Instruct"},
    CatalogEntry{"extract", "make an adapter of a fine-tuned model and its base", Home::kProgram,
                 "weft extract --model my-finetune --base SmolLM2-135M --rank 16 --out adapter"},
    CatalogEntry{"export", "write GGUF models and adapters, portable PEFT, and Ollama folders",
                 Home::kProgram,
                 "weft export --model SmolLM2-135M-Instruct --adapter runs/nahuatl/adapter --to "
                 "gguf --type q4_k_m --out nahuatl.gguf"},
    CatalogEntry{
        "imatrix", "measure which inputs of a model's matrices matter, for quantising",
        Home::kTorchLibrary,
        "weft imatrix --model SmolLM2-135M-Instruct --text nahuatl.txt --out imatrix.gguf"},
    CatalogEntry{"eval", "measure loss, bits per byte and chrF of a model and its stages",
                 Home::kTorchLibrary,
                 "weft eval --model SmolLM2-135M-Instruct --adapter runs/nahuatl/adapter --text "
                 "nahuatl.txt"},
    CatalogEntry{"score", "score answers of any program: chrF, BLEU, TER, exact match, F1",
                 Home::kProgram,
                 "weft score answers.txt --reference references.txt --metric chrf++ bleu"},
    CatalogEntry{"ledger", "list, compare and plot the evaluations that were recorded",
                 Home::kProgram, "weft ledger compare 1 2"},
    CatalogEntry{"report", "one page on training runs and evaluations, or a model card's section",
                 Home::kProgram, "weft report runs/nahuatl --out nahuatl.html"},
    CatalogEntry{"inspect", "show what a model, adapter, GGUF file or run folder holds",
                 Home::kProgram, "weft inspect runs/nahuatl/adapter"},
    CatalogEntry{"tokenize", "text to token ids and back, with a fertility report", Home::kProgram,
                 "weft tokenize --model SmolLM2-135M-Instruct --stats < nahuatl.txt"},
    CatalogEntry{
        "logits", "write a model's logits for given token ids", Home::kTorchLibrary,
        "weft logits --model SmolLM2-135M-Instruct --ids ids.jsonl --out logits.safetensors"},
};

}  // namespace weft::cli
