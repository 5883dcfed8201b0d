local door = require "web.door"
local sign = require "sign.core"

local function is(got, want, what) assert(got == want, ("%s: got %s, wanted %s"):format(what or "", tostring(got), tostring(want))) end

return {
  ["the rightmost address that is not a trusted proxy's counts"] = function()
    local trusted = { "127.0.0.0/8", "10.0.0.0/8", "::1/128", "2001:db8:1::/48" }
    local function client(peer, forwarded, want) is(door.client(peer, forwarded, trusted), want, peer .. " " .. tostring(forwarded)) end
    client("192.0.2.7", nil, "192.0.2.7")
    client("192.0.2.7", "198.51.100.1", "192.0.2.7")            -- who is no trusted proxy speaks for himself
    client("127.0.0.1", nil, "127.0.0.1")
    client("127.0.0.1", "", "127.0.0.1")
    client("127.0.0.1", "198.51.100.1", "198.51.100.1")
    client("127.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1")    -- the left is what the client wrote
    client("127.0.0.1", "203.0.113.9, 198.51.100.1, 10.1.2.3", "198.51.100.1")
    client("127.0.0.1", "203.0.113.9,198.51.100.1 ,10.1.2.3,\t10.9.9.9", "198.51.100.1")
    client("127.0.0.1", "10.1.1.1, 10.1.2.3", "10.1.1.1")
    client("127.0.0.1", "198.51.100.1, rubbish", "127.0.0.1")   -- nothing behind a text that is no address
    client("127.0.0.1", "198.51.100.1, unknown, 10.1.2.3", "10.1.2.3")
    client("127.0.0.1", "198.51.100.1:4711", "198.51.100.1")
    client("127.0.0.1", "[2001:db8:2::5]:4711", "2001:db8:2::5")
    client("127.0.0.1", "2001:db8:2::5", "2001:db8:2::5")
    client("::1", "2001:DB8:2:0::5, 2001:db8:1::9", "2001:db8:2::5")
    client("127.0.0.1", ("10.1.1.1, "):rep(100) .. "10.1.1.2", "10.1.1.1")
    client("127.0.0.1", "127.0.0.1, 127.0.0.1", "127.0.0.1")
    is(door.client("127.0.0.1", "198.51.100.1", {}), "127.0.0.1", "nobody is trusted")
  end,

  ["an Origin is public-url's or a listed one, and null only of a page of our own"] = function()
    local settings = { public_url = "https://box.test", gateway_origins = { "https://app.test" } }
    local function ok(origin, site, want) is(door.origin_ok(origin, site, settings), want, tostring(origin)) end
    ok(nil, nil, true)
    ok("https://box.test", nil, true)
    ok("https://app.test", "cross-site", true)
    ok("null", "same-origin", true)
    for _, site in ipairs { "same-site", "cross-site", "none", "same-origin, same-origin" } do ok("null", site, false) end
    ok("null", nil, false)
    for _, bad in ipairs { "", "https://box.test/", "https://box.test:443", "http://box.test", "https://evil.test", "https://box.test https://evil.test" } do
      ok(bad, "same-origin", false)
    end
  end,

  -- RFC 7914 11, and the vectors of RFC 6070's messages for HMAC-SHA256
  ["PBKDF2 with HMAC-SHA256"] = function()
    local function made(password, salt, rounds, want)
      is((sign.pbkdf2(password, salt, rounds):gsub(".", function(c) return ("%02x"):format(c:byte()) end)), want, password)
    end
    made("passwd", "salt", 1, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc")
    made("Password", "NaCl", 80000, "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56")
    made("password", "salt", 1, "120fb6cffcf8b32c43e7225256c4f837a86548c92ccc35480805987cb70be17b")
    made("password", "salt", 2, "ae4d0c95af6b46d32d0adff928f06dd02a303f8ef3c251dfd6e2d85a95474c43")
    made("password", "salt", 4096, "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a")
    assert(sign.pbkdf2("pass\0word", "sa\0lt", 1) ~= sign.pbkdf2("pass", "sa", 1), "a NUL does not end a password")
    is(sign.pbkdf2(("x"):rep(1000), "salt", 3), sign.pbkdf2(sign.sha256(("x"):rep(1000)), "salt", 3), "a long password is hashed first (RFC 2104)")
    is(sign.pbkdf2(require("secret.core").of("password"), "salt", 2), sign.pbkdf2("password", "salt", 2), "a secret")
    is(#sign.pbkdf2("", "", 1), 32, "empty ones")
  end,
}
