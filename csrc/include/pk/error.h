// Errors that reach Python: std::invalid_argument becomes ValueError, std::runtime_error RuntimeError.
#pragma once
#include <stdexcept>
#include <string>

namespace pk {

[[noreturn]] inline void fail(const std::string& where, const std::string& what) {
  throw std::invalid_argument(where + ": " + what);
}

}  // namespace pk
