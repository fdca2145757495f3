#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace weft::batch {

/// How a child ended.
struct Ending {
  int status = 0;  ///< Exit status; 128 + signal where one ended it.
  bool by_signal = false;
  bool is_unknown = false;       ///< It is gone, and nobody can say how it ended.
  std::uint64_t peak_bytes = 0;  ///< Of its memory.
};

/// This program, run once more as a child with other arguments. It is asked to save and end
/// (SIGTERM) when the thread that started it ends, whatever ends it.
class Child {
 public:
  /// Standard output and error go to the end of `log`; input is empty. `own_group`: signals from
  /// the terminal do not reach it. Throws IoError.
  Child(const std::vector<std::string>& arguments, const std::filesystem::path& log,
        bool own_group);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Nothing while it runs.
  [[nodiscard]] std::optional<Ending> poll();
  void signal(int number) const;
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  std::optional<Ending> ending_;
};

}  // namespace weft::batch
