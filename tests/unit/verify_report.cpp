// SPDX-License-Identifier: MIT
// If this fails, a report blames the wrong rule or none, or lets text of others become something
// else than text.

#include "../catch.hpp"
#include "base/text.hpp"
#include "verify/report/page.hpp"

using namespace pv;
using namespace pv::verify;

namespace {

json range(uint64_t offset, uint64_t length) {
  return {{"offset_bytes", offset}, {"length_bytes", length}};
}

json mismatch(uint64_t n, uint64_t t_ns, uint64_t offset, uint64_t length) {
  json finding = {{"n", n},
                  {"t_ns", t_ns},
                  {"kind", "mismatch"},
                  {"class", "stale"},
                  {"suspect", "test"},
                  {"different_bytes", length},
                  {"excerpt",
                   {{"offset_bytes", offset},
                    {"test_b64", base64_encode("aaaa")},
                    {"reference_b64", base64_encode("abaa")}}}};
  finding["ranges"] = json::array({range(offset, length)});
  return finding;
}

json event(uint64_t n, uint64_t t_ns, const std::string& rule, uint64_t offset, uint64_t length) {
  json made = range(offset, length);
  made.update({{"n", n}, {"t_ns", t_ns}, {"rule", rule}, {"kind", "drop_write"}, {"op", "write"}});
  return made;
}

constexpr uint64_t k_ms = 1'000'000;

}  // namespace

TEST_CASE("report: a fault explains what it touched, and only what came after it", "[report]") {
  ReportInput input;
  input.findings_began_ns = 1000 * k_ms;
  input.faults_began_ns = 900 * k_ms;                                       // another clock zero
  input.findings = json::array({mismatch(1, 100 * k_ms, 4096, 512),         // at 1100 ms
                                mismatch(2, 500 * k_ms, 8192, 512),         // at 1500 ms
                                mismatch(3, 600 * k_ms, 16384, 512)});      // at 1600 ms
  input.faults = json::array({event(1, 150 * k_ms, "early", 4096, 4096),    // at 1050 ms
                              event(2, 900 * k_ms, "late", 8192, 512),      // at 1800 ms
                              event(3, 650 * k_ms, "elsewhere", 0, 512)});  // at 1550 ms
  const auto all = cases(input);
  REQUIRE(all.size() == 3);
  CHECK(all[0].rules == std::vector<std::string>{"early"});
  CHECK(all[1].rules.empty());
  CHECK(all[2].rules.empty());
  const json said = verdict(input, all);
  CHECK(said["verdict"] == "damaged");
  CHECK(said["explained"] == 1);
  CHECK(said["by_rule"] == json{{"early", 1}});
}

TEST_CASE(
    "report: a fault that a later write has made good explains nothing, unless it landed late",
    "[report]") {
  ReportInput input;
  input.findings = json::array({mismatch(1, 100 * k_ms, 0, 512)});
  input.findings[0]["last_writer"]["test"] = {{"number", 9}, {"t_ns", 80 * k_ms}};
  input.faults = json::array({event(1, 20 * k_ms, "before", 0, 512)});
  CHECK(cases(input)[0].rules.empty());
  input.faults[0]["kind"] = "late_write";
  CHECK(cases(input)[0].rules == std::vector<std::string>{"before"});
  input.faults = json::array({event(1, 81 * k_ms, "then", 0, 512)});
  CHECK(cases(input)[0].rules == std::vector<std::string>{"then"});
}

TEST_CASE("report: a misdirected write is explained by the fault where it was meant to go",
          "[report]") {
  ReportInput input;
  input.findings = json::array({mismatch(1, 10 * k_ms, 4096, 512)});
  input.findings[0]["class"] = "misdirected";
  input.findings[0]["from"] = {{"offset_bytes", 65536}};
  input.faults = json::array({event(1, 5 * k_ms, "astray", 65536, 512)});
  const auto all = cases(input);
  CHECK(all[0].rules == std::vector<std::string>{"astray"});
  CHECK(verdict(input, all)["verdict"] == "explained");
}

TEST_CASE("report: rules that findings name count, delays do not, statuses are told apart",
          "[report]") {
  ReportInput input;
  input.findings = json::array({mismatch(1, 10 * k_ms, 0, 512), mismatch(2, 11 * k_ms, 512, 512)});
  input.findings[0]["last_writer"]["test"] = {{"number", 7}, {"rule", "torn"}};
  input.findings.push_back({{"n", 3}, {"kind", "status"}, {"policy", "report"}});
  input.findings.push_back({{"n", 4}, {"kind", "status"}, {"rule", {{"id", "eio"}}}});
  json slow = event(1, 1, "slow", 0, 4096);
  slow["delay_ms"] = 5;
  input.faults = json::array({slow});
  const json said = verdict(input, cases(input));
  CHECK(said["by_rule"] == json{{"torn", 1}});
  CHECK(said["status_differences"] == 1);
  CHECK(said["status_differences_by_rule"] == 1);
  CHECK(said["ranges"] ==
        json::array({{{"offset_bytes", 0}, {"length_bytes", 1024}, {"mismatches", 2}}}));
  CHECK(said["last_writers"][0]["mismatches"] == 1);
}

TEST_CASE("report: statuses that differ have a table: request, range and both ends", "[report]") {
  ReportInput input;
  json one = {{"n", 3}, {"t_ns", 5}, {"kind", "status"}, {"policy", "report"}};
  one["request"] = {{"number", 17}, {"op", "write"}, {"offset_bytes", 4096}, {"length_bytes", 512}};
  one["status"] = {{"test", "OK"}, {"reference", "ESHUTDOWN"}};
  json strange = {
      {"n", 4}, {"kind", "status"}, {"request", 7}, {"status", {{"test", "\x1b[2J<b>"}}}};
  input.findings = json::array({one, strange});
  const auto all = cases(input);
  const json said = verdict(input, all);
  const std::string page = report_page(input, all, said, {});
  CHECK(page.find(
            "       3       17 write    4096+512                 OK           ESHUTDOWN    -\n") !=
        std::string::npos);
  CHECK(page.find('\x1b') == std::string::npos);
  const std::string html = report_html(input, all, said);
  CHECK(html.find(R"("op":"write","offset_bytes":4096,"length_bytes":512)") != std::string::npos);
  CHECK(html.find(R"("test":"OK","reference":"ESHUTDOWN")") != std::string::npos);
  CHECK(html.find("<b>") == std::string::npos);
  CHECK(report_page({}, {}, verdict({}, {}), {}).find("statuses that differ") == std::string::npos);
}

TEST_CASE("report: a byte that differs has a star on both sides", "[report]") {
  const std::string lines = hex_lines(0x1000, std::string("ab\0d", 4), "aXcd", false);
  CHECK(lines.find("000000001000  61*62*00 64") != std::string::npos);
  CHECK(lines.find(" 61*58*63 64") != std::string::npos);
  CHECK(lines.find("|ab.d    |") != std::string::npos);
  CHECK(lines.find('\x1b') == std::string::npos);
  CHECK(hex_lines(0, "a", "b", true).find("\x1b[7m61\x1b[0m") != std::string::npos);
  CHECK(hex_lines(0, "abc", "ab", false).find("*63") !=
        std::string::npos);  // nothing to compare with
}

TEST_CASE("report: foreign text stays text, in the page and on the terminal", "[report]") {
  ReportInput input;
  input.disk = "</script><script>alert(1)</script>";
  json finding = mismatch(1, 1, 0, 512);
  finding["class"] = "<img src=x>\x1b[2J";
  finding["suspect"] = 7;                 // of another kind than it should be
  finding["excerpt"]["test_b64"] = "!!";  // no base64
  finding["ranges"].push_back("no range");
  finding["ranges"].push_back(range(UINT64_MAX, 5));
  input.findings = json::array({finding, "no object", 7});
  const auto all = cases(input);
  REQUIRE(all.size() == 1);
  CHECK(all[0].ranges.size() == 1);
  const json said = verdict(input, all);
  const std::string html = report_html(input, all, said);
  CHECK(html.find("alert(1)</script>") == std::string::npos);
  CHECK(html.find("<img") == std::string::npos);
  size_t scripts = 0;
  for (size_t at = 0; (at = html.find("</script", at)) != std::string::npos; ++at) ++scripts;
  CHECK(scripts == 2);
  const std::string page = report_page(input, all, said, {true, false, 10});
  CHECK(page.find('\x1b') == std::string::npos);
}

TEST_CASE("report: what is not compared any more is not good", "[report]") {
  ReportInput input;
  CHECK(verdict(input, cases(input))["verdict"] == "good");
  input.broken = "ENOSPC";
  const json said = verdict(input, cases(input));
  CHECK(said["verdict"] == "broken");
  CHECK(said["error"] == "ENOSPC");
  CHECK_THAT(report_page(input, {}, said, {}), contains_text("ENOSPC"));
  input.findings = json::array({mismatch(1, 100 * k_ms, 4096, 512)});
  CHECK(verdict(input, cases(input))["verdict"] == "damaged");
}

TEST_CASE("report: who has changed the reference explains what it differs in, and no other",
          "[report]") {
  ReportInput input;
  json outside = mismatch(1, 100 * k_ms, 4096, 512);
  outside["suspect"] = "reference";
  outside["reference_changed_outside"] = true;
  input.findings = json::array({outside});
  input.reference_changed = true;
  input.left_out_bytes = 4096;
  const json said = verdict(input, cases(input));
  CHECK(said["verdict"] == "reference_changed");
  CHECK(said["left_out_bytes"] == 4096);
  const std::string page = report_page(input, cases(input), said, {});
  CHECK(page.find("changed by somebody else") != std::string::npos);
  CHECK(page.find("4096 bytes are not compared") != std::string::npos);
  // A leg under test that is wrong stays so.
  input.findings.push_back(mismatch(2, 200 * k_ms, 8192, 512));
  CHECK(verdict(input, cases(input))["verdict"] == "damaged");
}
