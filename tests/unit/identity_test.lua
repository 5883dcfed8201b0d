--- lua/identity.lua: the pins of a credential's own TLS. What a chain comes to under them is tests/unit/ident_test.c's.
local identity = require "identity"

local HEX32, COLON16 = "00112233445566778899AABBCCDDEEFF", "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff"

local good = {
  "sha256:" .. HEX32 .. HEX32, "SHA256:" .. COLON16 .. ":" .. COLON16,
  " sha256:" .. HEX32 .. HEX32 .. ",\r\n\tsha256:" .. COLON16 .. HEX32 .. " ",
}
local bad = {
  "sha256:" .. HEX32, "sha256:" .. HEX32 .. HEX32 .. "0", "sha256:" .. HEX32 .. HEX32 .. "00", "sha256:" .. HEX32 .. "0" .. HEX32,
  "sha256:0:" .. HEX32 .. HEX32, "sha256:g0" .. HEX32 .. HEX32, "sha256:", "sha256", "sha1:" .. HEX32 .. "00112233", HEX32 .. HEX32,
  "sha256:" .. HEX32 .. HEX32 .. "sha256:" .. HEX32 .. HEX32, " , ", "", ("\0"):rep(64), "pins:" .. ("x"):rep(32), ("a"):rep(65536),
}

return {
  ["pins, as openssl prints them too"] = function()
    for _, text in ipairs(good) do assert(identity.new(nil, nil, text, false), text) end
  end,
  ["what is no pin is refused"] = function()
    for _, text in ipairs(bad) do
      local id, field, code = identity.new(nil, nil, text, false)
      assert(not id and field == "ca" and code == "malformed_pin", text)
    end
    local id, field, code = identity.new(nil, nil, ("a"):rep(65537), false)
    assert(not id and field == "ca" and code == "too_large")
  end,
  ["without ca, and with roots, it is tls.identity"] = function()
    assert(identity.new(nil, nil, nil, true))
    local id, field, code = identity.new(nil, nil, "-----BEGIN CERTIFICATE-----\nx", false)
    assert(not id and field == "ca" and (code == "malformed" or code == "no_certificate"))
  end,
}
