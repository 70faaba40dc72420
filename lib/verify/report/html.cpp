// SPDX-License-Identifier: MIT
// The page of HTML: style and script by hand, and the data as JSON in a script element, where '<'
// is written as \u003c so that nothing in it can end the element. The script only ever sets text.
#include <algorithm>

#include <fmt/format.h>

#include "base/text.hpp"
#include "verify/report/page.hpp"

namespace pv::verify {
namespace {

constexpr size_t k_max_cases = 2000,
                 k_max_events = 5000;  // of each kind in the page; the rest is counted

constexpr const char* k_head = R"html(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>pv-verify report</title>
<style>
:root { color-scheme: light dark; --line: #8884; --bad: #d33; --fault: #e90; --good: #2a7; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto;
 padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 13px; }
#verdict { color: #fff; border-radius: 4px; padding: .1rem .6rem; margin-left: .6rem; }
.good { background: var(--good); } .explained { background: var(--fault); }
.damaged, .broken, .reference_changed, .history_damaged { background: var(--bad); }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
tr.case { cursor: pointer; } tr.case:hover, tr.chosen { background: #88f3; }
#map { display: grid; grid-template-columns: repeat(64, 1fr); gap: 1px; }
#map div { height: 11px; background: #8883; }
#map .fault { background: var(--fault); } #map .bad { background: var(--bad); cursor: pointer; }
#time { position: relative; height: 60px; border: 1px solid var(--line); }
#time span { position: absolute; width: 8px; height: 20px; margin-left: -4px; border-radius: 2px;
 opacity: .75; cursor: pointer; }
#time .mismatch { top: 6px; background: var(--bad); }
#time .fault { top: 34px; background: var(--fault); }
#ends { display: flex; justify-content: space-between; }
.legend { color: #888; } mark { background: var(--bad); color: #fff; }
#details { border: 1px solid var(--line); border-radius: 4px; padding: .3rem 1rem; overflow: auto; }
</style>
</head>
<body>
<h1><span id="disk"></span><span id="verdict"></span></h1>
<table id="counts"></table>
<h2>Map of the disk</h2>
<div id="map"></div>
<p class="legend">Red: it differs. Orange: a fault rule was at work. Click to see what is there.</p>
<h2>Time</h2>
<div id="time"></div>
<div id="ends" class="legend"><span id="begin"></span><span id="end"></span></div>
<p class="legend">Above: mismatches. Below: faults.</p>
<h2>Details</h2>
<div id="details"></div>
<h2>Mismatches <span id="shown" class="legend"></span></h2>
<table id="cases"></table>
<h2>Statuses that differ <span id="statuses_shown" class="legend"></span></h2>
<table id="statuses"></table>
<script type="application/json" id="data">)html";

constexpr const char* k_script = R"html(</script>
<script>
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const at = id => document.getElementById(id);
function el(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (name) made.className = name;
  return made;
}
function row(table, head, text) {
  const line = el('tr');
  line.append(el('th', head), el('td', text));
  table.append(line);
}
const seconds = ns => (ns / 1e9).toFixed(6) + ' s';
const span = r => r.offset_bytes + '+' + r.length_bytes;
const list = counts => Object.entries(counts).map(([k, v]) => k + ' ' + v).join(', ') || 'none';
const touches = (r, begin, end) => r.offset_bytes < end && begin < r.offset_bytes + r.length_bytes;
function writer(w) {
  if (!w) return 'nobody since the comparison began';
  if (w.exact === false) return 'request ' + w.number + ' or an earlier one, near there';
  return 'request ' + w.number + ', ' + w.op + ' ' + span(w) + ' at ' + seconds(w.t_ns) + ', ' +
    w.status + (w.rule ? ', fault rule ' + w.rule : '');
}
function bytes(text) { return Uint8Array.from(atob(text), c => c.charCodeAt(0)); }
function half(pre, mine, other, from) {
  let text = '';
  for (let i = from; i < from + 8; i++) {
    const there = i < mine.length;
    const byte = there ? mine[i].toString(16).padStart(2, '0') : '  ';
    pre.append(there && mine[i] !== other[i] ? el('mark', byte) : byte, ' ');
    text += there ? (mine[i] > 31 && mine[i] < 127 ? String.fromCharCode(mine[i]) : '.') : ' ';
  }
  pre.append(' |' + text + '|  ');
}
function hex(excerpt) {
  const pre = el('pre');
  const a = bytes(excerpt.test_b64), b = bytes(excerpt.reference_b64);
  pre.append(''.padEnd(14) + 'test'.padEnd(37) + 'reference\n');
  for (let i = 0; i < Math.max(a.length, b.length); i += 8) {
    pre.append((excerpt.offset_bytes + i).toString(16).padStart(12, '0') + '  ');
    half(pre, a, b, i);
    half(pre, b, a, i);
    pre.append('\n');
  }
  return pre;
}
function show_case(one) {
  const table = el('table'), f = one.finding;
  row(table, 'Class', f.class + ', suspect: ' + f.suspect);
  row(table, 'Found', seconds(f.t_ns) + ', number ' + f.n);
  row(table, 'Differs', f.ranges.map(span).join(' '));
  if (f.request) row(table, 'Seen by', 'request ' + f.request.number + ', ' + f.request.op + ' ' +
    span(f.request));
  if (f.from) row(table, 'Belongs to', f.from.offset_bytes);
  const last = f.last_writer || {};
  row(table, 'Last writer, test', writer(last.test));
  row(table, 'Last writer, reference', writer(last.reference));
  row(table, 'Faults', one.rules.join(' ') || 'none explains it');
  at('details').replaceChildren(table);
  if (f.excerpt) at('details').append(hex(f.excerpt));
  for (const line of document.querySelectorAll('tr.case'))
    line.classList.toggle('chosen', line.id === 'case-' + f.n);
}
function show_fault(event) {
  const table = el('table');
  for (const key of Object.keys(event)) row(table, key, event[key]);
  at('details').replaceChildren(table);
}
function list_cases(cases) {
  const head = el('tr');
  for (const name of ['n', 'time', 'class', 'suspect', 'differs', 'last writer', 'faults'])
    head.append(el('th', name));
  at('cases').replaceChildren(head);
  for (const one of cases) {
    const f = one.finding, line = el('tr', null, 'case');
    const last = (f.last_writer || {})[f.suspect === 'reference' ? 'reference' : 'test'];
    line.id = 'case-' + f.n;
    for (const text of [f.n, seconds(f.t_ns), f.class, f.suspect, f.ranges.map(span).join(' '),
      last ? 'request ' + last.number : '', one.rules.join(' ')]) line.append(el('td', text));
    line.onclick = () => show_case(one);
    at('cases').append(line);
  }
  at('shown').textContent = cases.length + ' of ' + data.verdict.mismatches;
  if (cases.length) show_case(cases[0]);
}
function list_statuses() {
  const head = el('tr');
  for (const name of ['n', 'time', 'request', 'op', 'range', 'test', 'reference', 'rule'])
    head.append(el('th', name));
  at('statuses').replaceChildren(head);
  for (const s of data.statuses) {
    const line = el('tr', null, 'status');
    for (const text of [s.n, seconds(s.t_ns), s.number, s.op, span(s), s.test, s.reference,
      s.rule]) line.append(el('td', text));
    at('statuses').append(line);
  }
  at('statuses_shown').textContent = data.statuses.length + ' of ' + data.statuses_total;
}
function draw_map() {
  const ends = [...data.cases.flatMap(c => c.finding.ranges), ...data.faults]
    .map(r => r.offset_bytes + r.length_bytes);
  const size = data.size || ends.reduce((a, b) => Math.max(a, b), 512);
  const cells = Math.min(1024, Math.ceil(size / 512));
  for (let i = 0; i < cells; i++) {
    const begin = i * size / cells, end = (i + 1) * size / cells;
    const here = data.cases.filter(c => c.finding.ranges.some(r => touches(r, begin, end)));
    const cell = el('div', null, here.length ? 'bad' :
      data.faults.some(r => touches(r, begin, end)) ? 'fault' : '');
    cell.title = Math.floor(begin) + '-' + Math.ceil(end) + (here.length ? ': ' + here.length : '');
    if (here.length) cell.onclick = () => list_cases(here);
    at('map').append(cell);
  }
}
function draw_time() {
  const all = [...data.cases.map(c => c.finding.t_ns), ...data.faults.map(f => f.t_ns)];
  const first = all.reduce((a, b) => Math.min(a, b), 0);
  const last = all.reduce((a, b) => Math.max(a, b), first + 1);
  const place = (name, t, title, act) => {
    const tick = el('span', null, name);
    tick.style.left = (1 + 98 * (t - first) / (last - first)) + '%';
    tick.title = title + ', ' + seconds(t);
    tick.onclick = act;
    at('time').append(tick);
  };
  for (const c of data.cases)
    place('mismatch', c.finding.t_ns, c.finding.class, () => show_case(c));
  for (const f of data.faults) place('fault', f.t_ns, f.rule, () => show_fault(f));
  at('begin').textContent = seconds(first);
  at('end').textContent = seconds(last);
}
at('disk').textContent = data.disk;
at('verdict').textContent = data.verdict.verdict;
at('verdict').className = data.verdict.verdict;
row(at('counts'), 'Mismatches', data.verdict.mismatches + ' (' + data.verdict.explained +
  ' explained by faults), ' + data.verdict.different_bytes + ' bytes');
if (data.verdict.error)
  row(at('counts'), 'Broken', data.verdict.error + ': nothing is compared any more');
if (data.verdict.reference_changed_outside)
  row(at('counts'), 'Reference', 'changed by somebody else while it was mirrored');
if (data.verdict.left_out_bytes)
  row(at('counts'), 'Left out', data.verdict.left_out_bytes + ' bytes are not compared');
row(at('counts'), 'Classes', list(data.verdict.by_class));
row(at('counts'), 'Suspects', list(data.verdict.by_suspect));
row(at('counts'), 'Rules', list(data.verdict.by_rule));
row(at('counts'), 'Statuses', data.verdict.status_differences + ' differ, ' +
  data.verdict.status_differences_by_rule + ' more because of a fault');
draw_map();
draw_time();
list_cases(data.cases);
list_statuses();
</script>
</body>
</html>
)html";

// What the script relies on is there and of its kind, whatever the journal has.
json tame(const json& finding, const Case& one) {
  json shown = {{"n", get_u64(finding, "n")},
                {"t_ns", get_u64(finding, "t_ns")},
                {"class", get_string(finding, "class", "other")},
                {"suspect", get_string(finding, "suspect", "unknown")},
                {"ranges", json::array()}};
  for (const Range& range : one.ranges)
    shown["ranges"].push_back({{"offset_bytes", range.offset}, {"length_bytes", range.length}});
  for (const char* key : {"request", "from", "last_writer"})
    if (const json* found = find(finding, key); found != nullptr && found->is_object())
      shown[key] = *found;
  const json* excerpt = find(finding, "excerpt");
  if (excerpt == nullptr) return shown;
  const std::string test = get_string(*excerpt, "test_b64");
  const std::string reference = get_string(*excerpt, "reference_b64");
  if (base64_decode(test) && base64_decode(reference))
    shown["excerpt"] = {{"offset_bytes", get_u64(*excerpt, "offset_bytes")},
                        {"test_b64", test},
                        {"reference_b64", reference}};
  return shown;
}

// In the time of the findings.
json tame(const json& event, const ReportInput& input) {
  const Range range = range_of(event);
  const auto t = static_cast<int64_t>(input.faults_began_ns + get_u64(event, "t_ns") -
                                      input.findings_began_ns);
  return {{"n", get_u64(event, "n")},          {"t_ns", t},
          {"rule", get_string(event, "rule")}, {"kind", get_string(event, "kind")},
          {"op", get_string(event, "op")},     {"offset_bytes", range.offset},
          {"length_bytes", range.length},      {"delivered", get_string(event, "delivered")}};
}

json tame_status(const json& finding) {
  const auto part = [&](const char* key) {
    const json* found = find(finding, key);
    return found != nullptr && found->is_object() ? *found : json::object();
  };
  const json request = part("request"), status = part("status");
  return {{"n", get_u64(finding, "n")},
          {"t_ns", get_u64(finding, "t_ns")},
          {"number", get_u64(request, "number")},
          {"op", get_string(request, "op")},
          {"offset_bytes", get_u64(request, "offset_bytes")},
          {"length_bytes", get_u64(request, "length_bytes")},
          {"test", get_string(status, "test", "?")},
          {"reference", get_string(status, "reference", "?")},
          {"rule", get_string(part("rule"), "id")}};
}

std::string escaped(const std::string& line) {
  std::string text;
  for (const char c : line) text += c == '<' ? std::string("\\u003c") : std::string(1, c);
  return text;
}

}  // namespace

std::string report_html(const ReportInput& input, const std::vector<Case>& all,
                        const json& verdict) {
  const std::vector<const json*> statuses = status_findings(input);
  json data = {{"disk", input.disk},
               {"size", input.size},
               {"verdict", verdict},
               {"cases", json::array()},
               {"faults", json::array()},
               {"statuses", json::array()},
               {"statuses_total", statuses.size()}};
  for (size_t i = 0; i < std::min(all.size(), k_max_cases); ++i)
    data["cases"].push_back({{"finding", tame(*all[i].finding, all[i])}, {"rules", all[i].rules}});
  for (size_t i = 0; i < std::min(input.faults.size(), k_max_events); ++i)
    data["faults"].push_back(tame(input.faults[i], input));
  for (size_t i = 0; i < std::min(statuses.size(), k_max_cases); ++i)
    data["statuses"].push_back(tame_status(*statuses[i]));
  return k_head + escaped(to_line(data)) + k_script;
}

}  // namespace pv::verify
