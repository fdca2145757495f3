#include "data/stream.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/error.h"

namespace weft::data {
namespace {

constexpr std::uint64_t kFreeBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kMaxRatio = 1000;
constexpr std::size_t kChunk = std::size_t{256} << 10;

class PlainFile : public ByteStream {
 public:
  explicit PlainFile(const std::filesystem::path& file) : file_(file) {
    std::error_code error;
    const auto status = std::filesystem::status(file, error);
    if (!std::filesystem::exists(status)) {
      throw InputError("{}: no such file", file.string());
    }
    if (std::filesystem::is_directory(status)) {
      throw InputError("{}: is a directory; name its files, for example {}/*.jsonl", file.string(),
                       file.string());
    }
    descriptor_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) throw IoError("{}: cannot open: {}", file.string(), std::strerror(errno));
  }
  ~PlainFile() override { ::close(descriptor_); }
  PlainFile(const PlainFile&) = delete;
  PlainFile& operator=(const PlainFile&) = delete;

  std::size_t read(std::span<char> buffer) override {
    while (true) {
      const ssize_t count = ::read(descriptor_, buffer.data(), buffer.size());
      if (count >= 0) return static_cast<std::size_t>(count);
      if (errno != EINTR)
        throw IoError("{}: cannot read: {}", file_.string(), std::strerror(errno));
    }
  }

 private:
  std::filesystem::path file_;
  int descriptor_ = -1;
};

/// What the two kinds of compression share: the packed input and the guard against bombs.
class Packed : public ByteStream {
 protected:
  explicit Packed(const std::filesystem::path& file) : name_(file.string()), source_(file) {}

  /// Reads more packed bytes when none are left; false at the end of the file.
  bool refill() {
    if (!left_.empty()) return true;
    const std::size_t count = source_.read(input_);
    packed_ += count;
    left_ = std::span<char>(input_).first(count);
    return count > 0;
  }

  void count_output(std::size_t bytes) {
    unpacked_ += bytes;
    if (unpacked_ > kFreeBytes && (unpacked_ - kFreeBytes) / kMaxRatio > packed_) {
      throw InputError(
          "{}: unpacks to more than {} times its size; if it is meant, unpack it first", name_,
          kMaxRatio);
    }
  }

  std::string name_;
  PlainFile source_;
  std::array<char, kChunk> input_{};
  std::span<char> left_;
  std::uint64_t packed_ = 0;
  std::uint64_t unpacked_ = 0;
};

class Gzip : public Packed {
 public:
  explicit Gzip(const std::filesystem::path& file) : Packed(file) {
    constexpr int kGzipHeader = 16 + MAX_WBITS;
    if (inflateInit2(&state_, kGzipHeader) != Z_OK) throw IoError("zlib: out of memory");
  }
  ~Gzip() override { inflateEnd(&state_); }
  Gzip(const Gzip&) = delete;
  Gzip& operator=(const Gzip&) = delete;

  std::size_t read(std::span<char> buffer) override {
    state_.next_out = reinterpret_cast<Bytef*>(buffer.data());
    state_.avail_out = static_cast<uInt>(buffer.size());
    while (state_.avail_out == buffer.size()) {
      if (!refill()) {
        if (inside_) throw InputError("{}: the gzip data is cut off", name_);
        return 0;
      }
      if (!inside_) inflateReset(&state_);  // A further member: gzip files may be concatenated.
      inside_ = true;
      state_.next_in = reinterpret_cast<Bytef*>(left_.data());
      state_.avail_in = static_cast<uInt>(left_.size());
      const int status = inflate(&state_, Z_NO_FLUSH);
      left_ = left_.last(state_.avail_in);
      if (status == Z_STREAM_END) {
        inside_ = false;
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        throw InputError("{}: broken gzip data: {}", name_,
                         state_.msg != nullptr ? state_.msg : "unknown");
      }
    }
    const std::size_t count = buffer.size() - state_.avail_out;
    count_output(count);
    return count;
  }

 private:
  z_stream state_{};
  bool inside_ = false;
};

class Zstandard : public Packed {
 public:
  explicit Zstandard(const std::filesystem::path& file)
      : Packed(file), state_(ZSTD_createDStream()) {
    if (state_ == nullptr) throw IoError("zstd: out of memory");
  }
  ~Zstandard() override { ZSTD_freeDStream(state_); }
  Zstandard(const Zstandard&) = delete;
  Zstandard& operator=(const Zstandard&) = delete;

  std::size_t read(std::span<char> buffer) override {
    ZSTD_outBuffer output{buffer.data(), buffer.size(), 0};
    while (output.pos == 0) {
      // Output may be waiting inside without new input, so an empty refill ends only a whole frame.
      const bool more = refill();
      ZSTD_inBuffer input{left_.data(), left_.size(), 0};
      if (!more && !inside_) return 0;
      const std::size_t status = ZSTD_decompressStream(state_, &output, &input);
      if (ZSTD_isError(status) != 0) {
        throw InputError("{}: broken zstd data: {}", name_, ZSTD_getErrorName(status));
      }
      left_ = left_.subspan(input.pos);
      inside_ = status != 0;
      if (!more && inside_ && output.pos == 0) {
        throw InputError("{}: the zstd data is cut off", name_);
      }
    }
    count_output(output.pos);
    return output.pos;
  }

 private:
  ZSTD_DStream* state_;
  bool inside_ = false;
};

class Memory : public ByteStream {
 public:
  explicit Memory(std::string bytes) : bytes_(std::move(bytes)) {}
  std::size_t read(std::span<char> buffer) override {
    const std::size_t count = std::min(buffer.size(), bytes_.size() - at_);
    std::copy_n(bytes_.data() + at_, count, buffer.data());
    at_ += count;
    return count;
  }

 private:
  std::string bytes_;
  std::size_t at_ = 0;
};

}  // namespace

std::unique_ptr<ByteStream> open_stream(const std::filesystem::path& file) {
  const std::filesystem::path ending = file.extension();
  if (ending == ".gz") return std::make_unique<Gzip>(file);
  if (ending == ".zst") return std::make_unique<Zstandard>(file);
  return std::make_unique<PlainFile>(file);
}

std::unique_ptr<ByteStream> memory_stream(std::string bytes) {
  return std::make_unique<Memory>(std::move(bytes));
}

TextCursor::TextCursor(std::unique_ptr<ByteStream> stream) : stream_(std::move(stream)) {
  (void)fill(3);
  const std::size_t lone = buffer_.find('\r');
  // The \n of a last \r may not be read yet.
  old_mac_ = lone != std::string::npos && (lone + 1 < buffer_.size() || ended_) &&
             buffer_.find('\n') == std::string::npos;
  if (old_mac_) std::ranges::replace(buffer_, '\r', '\n');
  if (fill(3) && buffer_.starts_with("\xEF\xBB\xBF")) at_ = 3;
}

bool TextCursor::fill(std::size_t wanted) {
  while (!ended_ && buffer_.size() - at_ < wanted) {
    const std::size_t keep = std::min(at_, mark_);
    if (keep >= kChunk) {
      buffer_.erase(0, keep);
      at_ -= keep;
      if (mark_ != std::string::npos) mark_ -= keep;
    }
    const std::size_t size = buffer_.size();
    buffer_.resize(size + kChunk);
    const std::size_t count = stream_->read({buffer_.data() + size, kChunk});
    buffer_.resize(size + count);
    if (old_mac_)
      std::replace(buffer_.begin() + static_cast<std::ptrdiff_t>(size), buffer_.end(), '\r', '\n');
    ended_ = count == 0;
  }
  return buffer_.size() - at_ >= wanted;
}

int TextCursor::peek() {
  if (at_ >= buffer_.size() && !fill(1)) return kEnd;
  return static_cast<unsigned char>(buffer_[at_]);
}

int TextCursor::peek_second() {
  return fill(2) ? static_cast<unsigned char>(buffer_[at_ + 1]) : kEnd;
}

int TextCursor::get() {
  const int byte = peek();
  if (byte == kEnd) return kEnd;
  ++at_;
  if (byte == '\n') ++line_;
  return byte;
}

bool TextCursor::line(std::string& text, std::size_t limit) {
  text.clear();
  if (peek() == kEnd) return false;
  while (fill(1)) {
    const std::size_t end = buffer_.find('\n', at_);
    const std::size_t stop = end == std::string::npos ? buffer_.size() : end;
    const std::size_t room = limit + 1 - std::min(text.size(), limit + 1);
    text.append(buffer_, at_, std::min(stop - at_, room));
    at_ = stop;
    if (end != std::string::npos) {
      ++at_;
      ++line_;
      break;
    }
  }
  if (text.size() <= limit && text.ends_with('\r')) text.pop_back();
  return true;
}

void TextCursor::mark() {
  mark_ = at_;
  mark_line_ = line_;
}

void TextCursor::back() {
  at_ = mark_;
  line_ = mark_line_;
}

}  // namespace weft::data
