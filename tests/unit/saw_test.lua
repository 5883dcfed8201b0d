-- lua/saw.lua: what a person reads of a request that waits, whatever the agent wrote into it.
local saw = require "saw"
local null = require("json").null

local function headers(list)
  local h = {}
  function h.names()
    local out = {}
    for i, f in ipairs(list) do out[i] = f[1] end
    return out
  end
  function h.get(_, name, n)
    n = n or 1
    for _, f in ipairs(list) do
      if f[1] == name then n = n - 1 end
      if n == 0 then return f[2] end
    end
  end
  return h
end

-- What is shown of a request with these members, by name.
local function members(values)
  local out = {}
  for _, m in ipairs(saw.of({ headers = headers {}, found = { kind = "json", values = values } }, {}, {}).members) do out[m.name] = saw.values(m) end
  return out
end

local function body(text, fields) return saw.of({ headers = headers(fields or {}), body = text }, {}, {}) end

return {
  ["one value looks like no two, and no text begins a line of its own"] = function()
    local got = members { to = { 'a", "b', "x\nreason: none", 5, null, false, {} }, cc = { "a", "b" }, bcc = { "\\x0a" }, none = {} }
    assert(got.to == [["a\", \"b", "x\x0areason: none", 5, null, false, (an object or a list)]], got.to)
    assert(got.cc == '"a", "b"' and got.bcc == [["\\x0a"]] and got.none == "none", got.cc .. got.bcc .. got.none)
    local push = { commands = { { kind = "move", ref = "refs/heads/x", old = "1", new = "2" } }, options = { "a\nmove refs/heads/y 1 to 2" } }
    local shown = saw.of({ headers = headers {}, pushed = push }, {}, {}).push
    assert(#shown == 2 and shown[2] == "option a\\x0amove refs/heads/y 1 to 2", shown[2])
  end,
  ["something of each member is shown, however much another says; one of which nothing is does not look empty"] = function()
    local many, all = {}, { to = { "them", "us" } }
    for i = 1, 100 do many[i] = ("a"):rep(300) end
    all.a = many
    local got = members(all)
    assert(got.to == '"them", "us"' and got.a:find("more not shown)", 1, true) and #got.a < 3200, got.to)
    for i = 1, 20 do all["a" .. i] = many end
    got = members(all)
    assert(got.to:find('^"them", ') and got.a20:find("more not shown)", 1, true), got.to)
    for i = 1, 1000 do all["a" .. i] = many end
    got = members(all)
    assert(got.to == "(2 more not shown)" and got.none == nil, got.to)
  end,
  ["no body is cut to nothing, and one that a server may read otherwise says so"] = function()
    local s = body(("\x80"):rep(4000))
    assert(s.body_cut and #s.body > 2900 and s.body:find("^\\x80\\x80"), #s.body)
    assert(saw.of({ headers = headers { { "x-b", ("\x80"):rep(400) } } }, {}, {}).headers[1].value:find("^\\x80"))
    assert(body("{}\r\n{}", { { "content-type", "application/json" } }).body == "{}\n{}")
    assert(not body("{}", { { "content-type", "application/json" } }).otherwise and body("{}", { { "content-encoding", "gzip" } }).otherwise)
    assert(body("{}", { { "content-type", "application/json; charset=utf-16" } }).otherwise)
  end,
  ["fields that may be a key have no value"] = function()
    for _, name in ipairs { "authorization", "cookie", "ok-access-passphrase", "ok-access-sign", "x-github-otp", "x-hub-signature-256", "x-hmac", "x-pwd", "x-honeycomb-team" } do
      local f = saw.of({ headers = headers { { name, "agents-own" } } }, {}, {}).headers[1]
      assert(f.name == name and f.hidden and f.value == nil, name)
    end
    local f = saw.of({ headers = headers { { "authorization", "Bearer held" } } }, {}, { { text = "held" } }).headers[1]
    assert(f.value == "Bearer held" and not f.hidden)
  end,
}
