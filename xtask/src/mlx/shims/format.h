// std::format for compilers that lack it (GCC before 13), as far as mlx-c needs it: every {} is the next value.
// Included ahead of every source of mlx-c.
#pragma once

#if __has_include(<format>)
#include <format>
#endif

#ifndef __cpp_lib_format
#include <sstream>
#include <string>
#include <string_view>

namespace std {

template <typename... Values>
string format(string_view pattern, const Values&... values) {
  ostringstream out;
  auto put = [&](const auto& value) {
    auto hole = pattern.find("{}");
    out << pattern.substr(0, hole);
    if (hole != string_view::npos) {
      out << value;
      pattern.remove_prefix(hole + 2);
    }
  };
  (put(values), ...);
  out << pattern;
  return out.str();
}

} // namespace std
#endif
