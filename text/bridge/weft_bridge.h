#pragma once

// The C interface of the Rust library text/bridge: the `tokenizers` and `minijinja` crates, and
// what Unicode says of characters.
//
// Ownership: what a function gives out through a pointer (handles, WeftText, WeftEncoding) belongs
// to the caller, who frees it with the function named here. Text going in is UTF-8 (invalid text is
// an error) and is copied before the call returns. Errors: a function that returns false (or NULL)
// has written a message into `error`, which the caller frees; on success `error` is left alone.
// Panics of the Rust code become such errors. Threads: handles may be used from several threads at
// once, except by the functions that free.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct WeftTokenizer WeftTokenizer;
typedef struct WeftTemplate WeftTemplate;

/// UTF-8 text without a final zero. Freed by weft_text_free.
typedef struct WeftText {
  char* data;
  size_t size;
} WeftText;

/// Token ids; `offsets` holds begin and end in bytes of the text for each id, or is NULL when they
/// were not asked for. Freed by weft_encoding_free.
typedef struct WeftEncoding {
  uint32_t* ids;
  uint32_t* offsets;  // 2 * size
  size_t size;
} WeftEncoding;

void weft_text_free(WeftText text);
void weft_encoding_free(WeftEncoding encoding);

/// A tokenizer from the text of a tokenizer.json. `added_tokens` is a JSON array of objects
/// {"content", "special", "normalized", "lstrip", "rstrip", "single_word", "replaces"} which are
/// added to the file's added tokens; one that the file has is left as it is unless "replaces".
/// Truncation and padding of the file are switched off.
WeftTokenizer* weft_tokenizer_new(const char* json, size_t json_size, const char* added_tokens,
                                  size_t added_tokens_size, WeftText* error);
void weft_tokenizer_free(WeftTokenizer* tokenizer);
bool weft_tokenizer_encode(const WeftTokenizer* tokenizer, const char* text, size_t size,
                           bool add_special, bool with_offsets, WeftEncoding* out, WeftText* error);
/// Ids that are not in the vocabulary are skipped, as the crate does.
bool weft_tokenizer_decode(const WeftTokenizer* tokenizer, const uint32_t* ids, size_t count,
                           bool skip_special, WeftText* out, WeftText* error);
/// False when there is none; no error text.
bool weft_tokenizer_token_to_id(const WeftTokenizer* tokenizer, const char* token, size_t size,
                                uint32_t* id);
bool weft_tokenizer_id_to_token(const WeftTokenizer* tokenizer, uint32_t id, WeftText* token);
/// "BPE", "Unigram", "WordPiece" or "WordLevel".
WeftText weft_tokenizer_model_type(const WeftTokenizer* tokenizer);
/// Whether decoding with skip_special leaves this id out.
bool weft_tokenizer_is_special(const WeftTokenizer* tokenizer, uint32_t id);
/// What of the tokenizer decides the ids of a text, but what it puts around one: a JSON text that
/// is the same for files that say the same in other words (src/identity.rs).
bool weft_tokenizer_identity(const WeftTokenizer* tokenizer, WeftText* out, WeftText* error);
/// Largest id + 1, added tokens included.
uint32_t weft_tokenizer_size(const WeftTokenizer* tokenizer);

/// Compiles a chat template. The error starts with "line N: " where the line is known.
WeftTemplate* weft_template_new(const char* source, size_t size, WeftText* error);
void weft_template_free(WeftTemplate* chat_template);
/// Whether the template has {% generation %} blocks.
bool weft_template_marks_generation(const WeftTemplate* chat_template);
/// Renders with the variables of a JSON object. Where `mark` is not empty, the text of each
/// {% generation %} block is put between two copies of it. `date` ("2026-11-29") is the day that
/// strftime_now prints, at its first minute. `fuel` bounds the number of instructions. When the
/// template itself raised the error, `raised` is set and `error` is its own message.
bool weft_template_render(const WeftTemplate* chat_template, const char* variables,
                          size_t variables_size, const char* mark, size_t mark_size,
                          const char* date, size_t date_size, uint64_t fuel, WeftText* out,
                          bool* raised, WeftText* error);

/// Lower case as Unicode has it for any language (SpecialCasing included: a final sigma).
bool weft_unicode_lower(const char* text, size_t size, WeftText* out, WeftText* error);
/// Normal form C: letters and their marks composed.
bool weft_unicode_nfc(const char* text, size_t size, WeftText* out, WeftText* error);
/// The code points of a general category ("P", "Lu", ...) as first and last of each run, in
/// ascending order. Freed by weft_encoding_free.
bool weft_unicode_ranges(const char* category, size_t size, WeftEncoding* out, WeftText* error);

#ifdef __cplusplus
}
#endif
