// SPDX-License-Identifier: MIT
// Documents: one JSON object on one line, whose top-level keys are the things it talks about
// (design: pv-json(7)). Read from stdin or a file, written to stdout as JSON Lines or, on a
// terminal, as text made from the very same object.
#pragma once

#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"

namespace pv::cli {

constexpr int k_document_version = 1;

// One document from a descriptor. Code::bad_document when it is empty, not one JSON object, more
// than one, or of a version that this program does not speak.
Result<json> read_document(int fd, std::string_view name);

// One document, or several, one per line, at most k_max_documents. A line that is no document is
// the error in its place; the whole is one error when nothing in it is a document.
constexpr size_t k_max_documents = 1024;
Result<std::vector<Result<json>>> read_documents(int fd, std::string_view name);

enum class Format { compact, pretty, text };

// `-o disk.id` or, with the command's noun for the first part, `-o id`: the values one per line.
Result<std::string> select_field(const json& document, std::string_view field,
                                 std::string_view noun);

// Key-value blocks for one document, a table for several of the same kind.
std::string render_text(const std::vector<json>& documents, bool colour);
// The last lines of a guest's console, for below an error; no newline at the end.
std::string render_console(std::string_view console);

}  // namespace pv::cli
