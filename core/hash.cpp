#include "core/hash.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/stop.h"

namespace weft::core {

struct Sha256::State {
  EVP_MD_CTX* context = nullptr;
};

namespace {

/// OpenSSL's clearing at exit() may come before the threads of parallel_for end: it would take away
/// what a thread still hashes with, and what it keeps for each thread would be lost. It is left
/// out; a thread's part goes when the thread ends, and the process's with the process.
bool begin_without_clearing() {
  static const bool kBegun = OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr) == 1;
  return kBegun;
}

}  // namespace

Sha256::Sha256() : state_(std::make_unique<State>()) {
  if (!begin_without_clearing()) throw IoError("OpenSSL cannot be started");
  state_->context = EVP_MD_CTX_new();
  if (state_->context == nullptr ||
      EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) != 1) {
    throw IoError("OpenSSL offers no SHA-256");
  }
}

Sha256::~Sha256() {
  if (state_) EVP_MD_CTX_free(state_->context);
}

Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

void Sha256::update(std::span<const std::byte> bytes) {
  EVP_DigestUpdate(state_->context, bytes.data(), bytes.size());
}

void Sha256::update(std::string_view text) { update(std::as_bytes(std::span(text))); }

std::string Sha256::finish() {
  std::array<unsigned char, 32> digest{};
  unsigned int size = 0;
  EVP_DigestFinal_ex(state_->context, digest.data(), &size);
  std::string text;
  text.reserve(digest.size() * 2);
  for (const unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

std::string sha256(std::string_view text) {
  Sha256 hash;
  hash.update(text);
  return hash.finish();
}

std::string sha256_file(const std::filesystem::path& path) {
  constexpr std::size_t kChunk = std::size_t{16} << 20;
  const MappedFile file(path);
  const std::span<const std::byte> all = file.bytes();
  Sha256 hash;
  for (std::size_t at = 0; at < all.size(); at += kChunk) {
    leave_if_stopped("hashing " + path.string());
    const auto chunk = all.subspan(at, std::min(kChunk, all.size() - at));
    hash.update(chunk);
    file.release(chunk);  // a large file does not fill memory
  }
  return hash.finish();
}

}  // namespace weft::core
