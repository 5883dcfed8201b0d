--- Secrets as Lua sees them: which kind comes out, and what raises. Their bytes are value_test.c's.
local secret = require "secret"
local core = require "secret.core"
local split = require("cli.document").split
local sign = require "sign"
local json = require "json"

local function raises(fn, part)
  local ok, message = pcall(fn)
  assert(not ok, "nothing raised")
  message = tostring(message)
  assert(message:find(part, 1, true), message)
  assert(not message:find("canary", 1, true), message)
end

local S = core.keep(core.of "canary-7f3a")

local function hex(s) return (s:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

return {
  ["a secret stays one whatever it is joined with"] = function()
    assert(secret.is(S .. "x") and secret.is("x" .. S) and secret.is(S .. 5) and secret.is(S .. S))
    assert(secret.is("Bearer " .. S .. "\n" .. 1.5))
  end,

  ["what cannot be joined raises"] = function()
    raises(function() return S .. nil end, "concatenate a nil value with a secret")
    raises(function() return {} .. S end, "concatenate a table value with a secret")
    raises(function() return S .. true end, "concatenate a boolean value with a secret")
  end,

  ["every function answers a secret for a secret and a string for a string"] = function()
    for _, name in ipairs { "base64", "base64url", "hex", "percent", "form", "json_string", "sha256" } do
      assert(secret.is(secret[name](S)), name)
      assert(secret.is(S[name](S)), name)
      assert(type(secret[name]("plain")) == "string", name)
    end
    assert(secret.is(secret.hmac("key", "sha256", S)) and secret.is(S:hmac("sha256", "data")))
    assert(type(secret.hmac("key", "sha256", "data")) == "string")
  end,

  ["base64 is RFC 4648's, base64url has no padding"] = function()
    local vectors = { [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", fooba = "Zm9vYmE=", foobar = "Zm9vYmFy" }
    for plain, coded in pairs(vectors) do
      assert(secret.base64(plain) == coded)
      assert(secret.base64url(plain) == (coded:gsub("=", "")))
    end
    assert(secret.base64("\255\239\190") == "/+++" and secret.base64url("\255\239\190") == "_--" .. "-")
  end,

  ["percent keeps what RFC 3986 calls unreserved, and nothing else"] = function()
    assert(secret.percent("AZaz09-._~") == "AZaz09-._~")
    assert(secret.percent(" +/?&=#%*!'()\0\255\u{e9}") == "%20%2B%2F%3F%26%3D%23%25%2A%21%27%28%29%00%FF%C3%A9")
  end,

  ["form is what a browser sends"] = function()
    assert(secret.form("AZaz09*-._") == "AZaz09*-._")
    assert(secret.form("a b~+&=\n") == "a+b%7E%2B%26%3D%0A")
  end,

  ["json_string quotes"] = function()
    assert(secret.json_string('a"\\/\n\1') == [["a\"\\/\n\u0001"]])
    raises(function() return secret.json_string("\255") end, "not UTF-8")
  end,

  ["nothing turns a secret into a string, tells its length or compares it"] = function()
    local other = core.of "canary-7f3a"
    raises(function() return tostring(S) end, "cannot be turned into a string")
    raises(function() return ("%s"):format(S) end, "cannot be turned into a string")
    raises(function() return #S end, "does not tell its length")
    raises(function() return S == other end, "cannot be compared")
    raises(function() return S < other end, "cannot be compared")
    raises(function() return S <= other end, "cannot be compared")
    raises(function() for _ in pairs(S) do end end, "cannot be looked into")
    raises(function() return S.value end, "a secret has no 'value'")
    raises(function() S.value = 1 end, "cannot be changed")
    raises(function() return table.concat { S } end, "invalid value")
    raises(function() return ("x"):rep(S) end, "number expected")
    raises(function() return json.encode { token = S } end, "json: a secret")
    assert(getmetatable(S) == "secret" and not pcall(setmetatable, S, {}) and tonumber(S) == nil)
  end,

  ["a policy's module makes no secrets and keeps none"] = function()
    for name in pairs(secret) do
      assert(({ base64 = 1, base64url = 1, hex = 1, percent = 1, form = 1, json_string = 1, sha256 = 1, hmac = 1, template = 1, decode = 1,
        is = 1 })[name], name)
    end
  end,

  ["a template fills its places"] = function()
    assert(secret.template("Bearer ${token}", { token = "t" }) == "Bearer t")
    assert(secret.template("${a}${b}${a}", { a = 1, b = "" }) == "11")
    assert(secret.template("$$ $x $ ${a} $", { a = "y" }) == "$ $x $ y $")
    assert(secret.template("", {}) == "")
    assert(secret.is(secret.template("Bearer ${token}", { token = S })))
    assert(type(secret.template("${a}", { a = "x", unused = S })) == "string")
  end,

  ["a template with a place that nothing fills raises"] = function()
    raises(function() return secret.template("${token}", {}) end, "no value for '${token}'")
    raises(function() return secret.template("${token", { token = 1 }) end, "without a name and '}'")
    raises(function() return secret.template("${}", { [""] = 1 }) end, "without a name and '}'")
    raises(function() return secret.template("${t}", { t = {} }) end, "no value for '${t}'")
    raises(function() return secret.template(S, {}) end, "the text is no string")
  end,

  ["strings, numbers and secrets are joined"] = function()
    assert(core.join {} == "" and core.join { "a", 1, 2.5, "" } == "a12.5")
    assert(secret.is(core.join { "a", S, 7 }) and secret.is(core.join { S }))
    raises(function() return core.join { "a", {} } end, "no string, number or secret")
    raises(function() return core.join "a" end, "table expected")
    raises(function() return core.join { S, ("x"):rep(2 << 20) } end, "no room for secrets")
  end,

  ["a kept handle is of use only to a task that acts for its credential"] = function()
    core.acting "one"
    local s = core.keep(core.of "canary", "one")
    assert(secret.is(s .. "x"))
    core.acting "two"
    raises(function() return s .. "x" end, "a secret of another credential")
    raises(function() return s:base64() end, "a secret of another credential")
    raises(function() return core.join { s } end, "a secret of another credential")
    core.acting(nil)
    raises(function() return s:hex() end, "a secret of another credential")
    core.acting "one"
    assert(secret.is(s:hex()))
    core.acting(nil)
  end,

  ["a handle is not closable: a policy could empty one that others use"] = function()
    raises(function() local inner <close> = core.of "canary" end, "non-closable")
  end,

  ["a document is taken apart into strings and secrets"] = function()
    local doc = core.of [[{ "client_email": "a@b", "private_key": "canary", "n": 7, "o": {"x": [1]}, "z": null }]]
    local t = assert(split(doc, { client_email = {}, private_key = { secret = true } }))
    assert(t.client_email == "a@b" and secret.is(t.private_key) and t.n == nil)
    local _, code, member = split(doc, { n = {} })
    assert(code == "not_string" and member == "n")
    _, code, member = split(doc, { missing = {} })
    assert(code == "absent" and member == "missing")
    _, code, member = split(doc, { z = {} })
    assert(code == "absent" and member == "z")
    assert(next(assert(split(doc, { z = { optional = true }, missing = { optional = true } }))) == nil)
    t = assert(split(doc, { o = { nested = true }, n = { nested = true, secret = true } }))
    assert(t.o == '{"x": [1]}' and secret.is(t.n))
    assert(select(2, split(core.of "[]", { a = {} })) == "not_object")
    assert(select(2, split(core.of '{"a":', { a = {} })) == "malformed")
    assert(select(2, split(core.of '{"a":"1","a":"2"}', { a = {} })) == "duplicate")
  end,

  ["key_info names what is no private key"] = function()
    assert(select(2, sign.key_info("hunter2")) == "not_a_key")
    assert(select(2, sign.key_info(core.of "")) == "not_a_key")
    assert(select(2, sign.key_info(core.of "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")) == "no_private_key")
    assert(select(2, sign.key_info("-----BEGIN PRIVATE KEY-----\\nAAAA\\n-----END PRIVATE KEY-----\\n")) == "escaped_newlines")
    assert(select(2, sign.key_info("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----")) == "openssh_format")
    local info = sign.key_info("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n")
    assert(info.encrypted and info.format == "pkcs1" and info.type == nil and info.bits == nil)
  end,

  ["digests: FIPS 180-4 and RFC 4231"] = function()
    assert(hex(sign.sha256("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert(hex(sign.digest("sha1", "abc")) == "a9993e364706816aba3e25717850c26c9cd0d89d")
    assert(#sign.digest("sha384", "") == 48 and #sign.digest("sha512", "") == 64)
    assert(hex(sign.hmac("sha256", "Jefe", "what do ya want for nothing?"))
      == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    assert(hex(sign.hmac("sha512", "Jefe", "what do ya want for nothing?")):sub(1, 32) == "164b7a7bfcf819e2e395fbe73b56e0a3")
    assert(secret.is(sign.hmac("sha256", S, "x")) and secret.is(sign.hmac("sha256", "k", S)))
    raises(function() return sign.digest("md5", "x") end, "sha256")
  end,
}
