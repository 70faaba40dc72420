// SPDX-License-Identifier: MIT
// If this fails, a URI opens something else than it names, a secret gets into the process list, or
// QEMU is told something that it does not understand.

#include "../catch.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/uri.hpp"
#include "serve/blockdev.hpp"
#include "serve/spec.hpp"

using namespace pv;
using namespace pv::serve;

namespace {

std::string node(const std::string& uri) {
  auto made = blockdev_of_uri(uri);
  return made ? to_line(*made) : std::string(code_name(made.error().code));
}

}  // namespace

TEST_CASE("what is a URI and what is a path", "[uri]") {
  for (const char* uri : {"http://h/x", "nbd+unix:///?socket=/s", "rbd:pool/image", "x://y"})
    CHECK(blk::is_uri(uri));
  for (const char* path :
       {"t.img", "./http://h/x", "/dev/sda", "a:b.img", "C:/x", "://x", "", "rbd"})
    CHECK_FALSE(blk::is_uri(path));
}

TEST_CASE("a URI is taken apart and decoded", "[uri]") {
  const auto uri = blk::parse_uri("NBD+unix://me@h%2Dost:10809/a%20b?socket=/tmp/s%26x&y=#f");
  REQUIRE(uri);
  CHECK(uri->scheme == "nbd+unix");
  CHECK(uri->user == "me");
  CHECK(uri->host == "h-ost");
  CHECK(uri->port == "10809");
  CHECK(uri->path == "/a b");
  CHECK(uri->query.at("socket") == "/tmp/s&x");
  CHECK(uri->query.at("y").empty());
  CHECK(blk::parse_uri("ssh://[::1]:22/x")->host == "::1");
  CHECK(blk::parse_uri("ssh://[::1]/x")->port.empty());
}

TEST_CASE("malformed URIs are usage errors", "[uri]") {
  for (const char* text :
       {"", "x", "://", "nbd://h:/", "nbd://h:99999/", "nbd://h:1x/", "nbd://[::1", "nbd://[::1]x/",
        "nbd://h/%", "nbd://h/%0", "nbd://h/%gg", "nbd://h/%00", "nbd://h/?a", "nbd://h/?a=1&a=2",
        "nbd://h/a b", "nbd://h/a\nb"}) {
    const auto uri = blk::parse_uri(text);
    INFO(text);
    REQUIRE_FALSE(uri);
    CHECK(uri.error().code == Code::usage);
  }
}

TEST_CASE("a password in a URI is refused and not repeated", "[uri]") {
  const auto uri = blk::parse_uri("ssh://me:hush@h/x");
  REQUIRE_FALSE(uri);
  CHECK(uri.error().message.find("hush") == std::string::npos);
}

TEST_CASE("each scheme becomes QEMU's structured options", "[uri]") {
  CHECK(node("http://h:80/a?b=c") == R"({"driver":"http","url":"http://h:80/a?b=c"})");
  CHECK(node("https://h/a") == R"({"driver":"https","url":"https://h/a"})");
  CHECK(node("nbd://h/e") ==
        R"({"driver":"nbd","server":{"type":"inet","host":"h","port":"10809"},"export":"e"})");
  CHECK(node("nbd+unix:///?socket=/s") ==
        R"({"driver":"nbd","server":{"type":"unix","path":"/s"}})");
  CHECK(node("ssh://me@h/p/q?host_key_check=no") ==
        R"({"driver":"ssh","server":{"host":"h","port":"22"},"path":"/p/q","user":"me",)"
        R"("host-key-check":{"mode":"none"}})");
  CHECK(node("ssh://h:2/p?host_key_check=sha256:abc") ==
        R"({"driver":"ssh","server":{"host":"h","port":"2"},"path":"/p",)"
        R"("host-key-check":{"mode":"hash","type":"sha256","hash":"abc"}})");
  CHECK(node("rbd:pool/image") == R"({"driver":"rbd","pool":"pool","image":"image"})");
  CHECK(node("rbd:p/n/i@s:id=admin:conf=/etc/c.conf") ==
        R"({"driver":"rbd","snapshot":"s","pool":"p","namespace":"n","image":"i","user":"admin",)"
        R"("conf":"/etc/c.conf"})");
  CHECK(node(R"(rbd:p/a\:b\@c)") == R"({"driver":"rbd","pool":"p","image":"a:b@c"})");
  CHECK(node("nvme://0000:44:00.0/1") ==
        R"({"driver":"nvme","device":"0000:44:00.0","namespace":1})");
}

TEST_CASE("what a scheme needs and does not get is a usage error", "[uri]") {
  for (const char* text : {"http:///x",
                           "nbd:///x",
                           "nbd://h/?socket=/s",
                           "nbd+unix:///x",
                           "nbd+unix:///?socket=/s&x=1",
                           "ssh://h",
                           "ssh://h/",
                           "ssh://h/x?host_key_check=maybe",
                           "ssh://h/x?y=1",
                           "rbd:pool",
                           "rbd:",
                           "rbd:/i",
                           "rbd:p/",
                           "rbd:a/b/c/d",
                           "rbd:p/i:mon_host=x",
                           "rbd:p/i:",
                           "nvme://0000:44:00.0",
                           "nvme://0000:44:00.0/",
                           "nvme://0000:44:00.0/0",
                           "nvme://0000:44:00.0/x",
                           "nvme:///1",
                           "nvme://0000:44:00.0/9999999999",
                           "gluster://h/v/i",
                           "x://y"}) {
    INFO(text);
    CHECK(node(text) == "usage");
  }
  const auto unknown = blockdev_of_uri("gopher://h/x");
  REQUIRE(unknown.error().extra);
  CHECK((*unknown.error().extra)["valid"].size() == 7);
}

TEST_CASE("a format stands on its file, with its key by name only", "[uri]") {
  NodeOptions options;
  options.format = "luks";
  options.key = true;
  options.direct = true;
  const json node = blockdev_of_image(json{{"driver", "file"}, {"filename", "/x"}}, options);
  CHECK(node["driver"] == "luks");
  CHECK(node["key-secret"] == k_secret_id);
  CHECK(node["file"]["filename"] == "/x");
  CHECK(node["file"]["cache"]["direct"] == true);
  options.format = "qcow2";
  CHECK(blockdev_of_image(json::object(), options)["encrypt"]["key-secret"] == k_secret_id);
}

TEST_CASE("--blockdev is passed on as it is, with our node name", "[uri]") {
  const auto node = blockdev_of_user(R"({"driver":"null-co","size":1024})", true);
  REQUIRE(node);
  CHECK(to_line(*node) ==
        R"({"driver":"null-co","size":1024,"node-name":"disk","read-only":true})");
  for (const char* text : {"", "x", "[]", "{}", R"({"driver":1})",
                           R"({"driver":"raw","node-name":"x"})", R"({"driver":"a","driver":"b"})"})
    CHECK(blockdev_of_user(text, false).error().code == Code::usage);
}

TEST_CASE("a source survives its way through a document", "[uri]") {
  const auto round = [](const SourceFlags& flags) {
    Spec spec, again;
    REQUIRE(set_source(spec, flags));
    REQUIRE(set_source(again, source_json(spec)));
    CHECK(source_json(again) == source_json(spec));
    return again;
  };
  SourceFlags flags;
  flags.image = "http://h/t.qcow2?x=y";
  CHECK(round(flags).format == "qcow2");
  flags.format = "raw";
  CHECK(round(flags).format == "raw");
  flags = {};
  flags.image = "nbd://h/x.qcow2";
  CHECK(round(flags).format == "raw");
  flags = {};
  flags.blockdev = R"({"driver":"null-co","size":1024})";
  CHECK(round(flags).type == "blockdev");
  flags = {};
  flags.image = "/t.luks";
  flags.key_file = "/k";
  CHECK(round(flags).key_file == "/k");
}
