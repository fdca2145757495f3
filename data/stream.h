#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace weft::data {

/// Bytes from a file, unpacked on the way.
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  /// Fills `buffer` from its start; returns how many bytes, 0 at the end. Throws InputError (broken
  /// or cut-off compression) or IoError, with the file's name.
  [[nodiscard]] virtual std::size_t read(std::span<char> buffer) = 0;
};

/// Opens a file; what ends in .gz or .zst is unpacked. A packed file that grows more than 1000-fold
/// beyond its first 64 MiB is refused: it is made to fill memory. InputError when the file does not
/// exist or is a directory.
[[nodiscard]] std::unique_ptr<ByteStream> open_stream(const std::filesystem::path& file);

/// Bytes in memory.
[[nodiscard]] std::unique_ptr<ByteStream> memory_stream(std::string bytes);

/// Lines and characters of a stream, with line numbers and the chance to go back.
///
/// Lines end in \n or \r\n; a lone \r is a character, but in a file that begins with lines that
/// end in \r alone (as on old Macs) it is read as \n. A byte order mark at the start is skipped.
class TextCursor {
 public:
  explicit TextCursor(std::unique_ptr<ByteStream> stream);

  static constexpr int kEnd = -1;

  /// The next byte, or kEnd, without moving.
  [[nodiscard]] int peek();
  /// The byte after the next, or kEnd.
  [[nodiscard]] int peek_second();
  /// Moves past the next byte and returns it.
  int get();
  /// The rest of the line, without its end; moves past the end. False at the end of the stream.
  /// Of a line longer than `limit` only the first limit + 1 bytes are kept.
  bool line(std::string& text, std::size_t limit);
  /// The line (from 1) of the next byte.
  [[nodiscard]] std::int64_t line_number() const noexcept { return line_; }

  /// Keeps what is read from here on, so that back() can return to this place. A new mark forgets
  /// the old one.
  void mark();
  void back();

 private:
  bool fill(std::size_t wanted);

  std::unique_ptr<ByteStream> stream_;
  std::string buffer_;
  std::size_t at_ = 0;
  std::size_t mark_ = std::string::npos;
  std::int64_t line_ = 1;
  std::int64_t mark_line_ = 1;
  bool ended_ = false;
  bool old_mac_ = false;
};

}  // namespace weft::data
