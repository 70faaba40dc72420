// SPDX-License-Identifier: MIT
// A report for people: lines for a terminal, and a page of HTML that needs nothing but itself.
#pragma once

#include <string>

#include "verify/report/verdict.hpp"

namespace pv::verify {

struct PageOptions {
  bool hex = false;     // both excerpts of each mismatch
  bool colour = false;  // differing bytes in reverse video, besides the star that they have anyway
  size_t max = 100;     // mismatches that are shown
};

std::string report_page(const ReportInput& input, const std::vector<Case>& all, const json& verdict,
                        const PageOptions& options);

// Two excerpts side by side, eight bytes a line; a byte that differs has a star before it.
std::string hex_lines(uint64_t offset, const std::string& a, const std::string& b, bool colour);

// A page with the data in itself; everything foreign in it is text and stays text.
std::string report_html(const ReportInput& input, const std::vector<Case>& all,
                        const json& verdict);

}  // namespace pv::verify
