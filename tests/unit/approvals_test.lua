-- lua/approvals.lua: what a person reads of a request, and what an answer for longer stands under.
local words, covers = require("approvals").words, require("approvals").covers

return {
  ["a text that is shown as it is stays so; every other one says that it is not, with its digest"] = function()
    for _, text in ipairs { "", "POST api.test/v1/x with api", "/ä/日本語", ("x"):rep(1000), "/\\xff" } do assert(words(text) == text, text) end
    for text, shown in pairs { ["/\xff"] = "/\\xff (2 bytes, SHA-256 ", ["a\nb"] = "a\\x0ab (3 bytes", ["\u{202e}x"] = "\\xe2\\x80\\xaex (4 bytes",
      ["\u{200b}"] = "\\xe2\\x80\\x8b (3 bytes", ["\u{85}"] = "\\xc2\\x85 (2", [("x"):rep(1001)] = "xx… (1001 bytes", [("ä"):rep(600)] = "ä… (1200 bytes",
      ["x" .. ("ä"):rep(600)] = "ä… (1201 bytes" } do
      local got = words(text)
      assert(got:find(shown, 1, true) and utf8.len(got) and #got < 1200, got)
    end
  end,
  ["an answer for longer covers one port and one scheme"] = function()
    local seen = {}
    for _, at in ipairs { { "https", 443 }, { "https", 8443 }, { "http", 80 }, { "http", 443 }, { "http", 8443 }, { "http", 8080 } } do
      local text = covers({ method = "POST", scheme = at[1], host = "api.test", port = at[2], path = "/x" }, "api")
      assert(not seen[text], text)
      seen[text] = true
    end
    assert(seen["POST api.test/x with api"] and seen["POST api.test:8443/x with api"] and seen["POST http://api.test/x with api"])
    assert(covers({ method = "GET", websocket = true, scheme = "https", host = "api.test", port = 443, path = "/x" }) == "WEBSOCKET api.test/x")
    assert(covers({ method = "CONNECT", host = "db.test", port = 5432 }) == "CONNECT db.test:5432")
  end,
  ["no two texts have the same words: an answer for one covers no other"] = function()
    local seen = {}
    for _, text in ipairs { "/\xff", "/\\xff", "/\xfe", "/\\xfe", "\u{200b}", "\\xe2\\x80\\x8b", ("x"):rep(1001), ("x"):rep(1002), ("x"):rep(1000) .. "ä", ("x"):rep(1000), ("x"):rep(1000) .. "…" } do
      local got = words(text)
      assert(not seen[got], got)
      seen[got] = true
    end
  end,
  ["every prefix of bytes of any kind has words that are UTF-8"] = function()
    local text = ("a\u{e4}\u{65e5}\u{1f600}\u{202e}\xff\xc3"):rep(70)
    for n = 0, #text do assert(utf8.len(words(text:sub(1, n))), n) end
  end,
}
