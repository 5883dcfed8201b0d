--- lua/proposals.lua and lua/granting.lua: what of a proposal is a secret.
local granting = require "granting"
local json = require "json"
local proposals = require "proposals"

local function basic(name, user, password)
  return { name = name, host = name .. ".test", auth = { type = "basic", username = user, password = password } }
end
local function bearer(name, key) return { name = name, host = name .. ".test", auth = { type = "bearer", token = key } } end
local function bot(name, key)
  return { name = name, host = name .. ".test", auth = { type = "passthrough" },
    substitutions = { { key = key, placeholder = "__the_token__", ["in"] = { "header=X-Bot" } } } }
end

local function parsed(services, ...)
  local credentials = {}
  for i, key in ipairs { ... } do credentials[i] = type(key) == "table" and key or { key = key } end
  return proposals.parse(json.encode { services = services, credentials = credentials })
end

local account = { key = "KEY", type = "oauth", oauth = { token_url = "https://id.test/token", client_id = "c" } }

return {
  ["a key is a user name or a secret, never both, in whatever order"] = function()
    for _, other in ipairs { basic("one", "USER", "KEY"), bearer("one", "KEY"), bot("one", "KEY"), basic("one", "KEY") } do
      local named = basic("two", "KEY", "PASS")
      for _, services in ipairs { { other, named }, { named, other } } do
        local r, why = parsed(services, "KEY", "PASS", other.auth.password and "USER")
        assert(not r and why:find("KEY is a user name in one place and a secret in another", 1, true), why)
      end
    end
    local r, why = parsed({ basic("one", "KEY", "KEY") }, "KEY")
    assert(not r and why:find("KEY is a user name in one place", 1, true), why)
  end,
  ["a user name beside a password may be read, one alone is the key"] = function()
    local labels = granting.labels(assert(parsed({ basic("one", "USER", "PASS"), basic("two", "USER", "MORE"), basic("three", "KEY"), bearer("four", "KEY"), bot("five", "BOT") },
      "USER", "PASS", "MORE", "KEY", "BOT")))
    for key, kind in pairs { USER = "plain", PASS = "secret", MORE = "secret", KEY = "secret", BOT = "secret" } do
      assert(labels[key] == kind, key)
    end
  end,
  ["a user name that a row puts somewhere is a secret"] = function()
    local s = basic("one", "USER", "PASS")
    s.substitutions = { { key = "USER", placeholder = "__the_user__", ["in"] = { "path" } } }
    local labels = granting.labels(assert(parsed({ s }, "USER", "PASS")))
    assert(labels.USER == "secret" and labels.PASS == "secret")
    s.substitutions[1].key = "OTHER"
    assert(select(2, parsed({ s }, "USER", "PASS", "OTHER")):find("of its own credentials", 1, true))
    for _, services in ipairs { { s, basic("two", "USER", "PASS") }, { basic("two", "USER", "PASS"), s } } do
      s.substitutions[1].key = "USER"
      assert(select(2, parsed(services, "USER", "PASS")):find("USER is a user name in one place", 1, true))
    end
  end,
  ["a place without a name is named by a person, as a place of its kind"] = function()
    local row = { key = "K", placeholder = "__k__", places = { "path", "header=X-A", "body" } }
    for text, want in pairs { ["path=/{}"] = "header=X-A path=/{}", [" json=/a , form=b"] = "header=X-A json=/a form=b", ["json=/a%3Ab"] = "header=X-A json=/a%3Ab" } do
      local got, why = proposals.placed(row, text)
      assert(table.concat(got or { why }, " ") == want, text)
    end
    for _, text in ipairs { "", " ", ",", "path", "body", "header=X-B", "query=a", "path=/{}:__other__", "path=/{}\n", "path=/\u{202e}{}", "ath=/{}", "=", "path=", "json=a", "path=/a", "path=/{},header=X-B" } do
      local got, why = proposals.placed(row, text)
      assert(not got and why, text)
    end
    assert(not proposals.placed(row) and proposals.placed({ places = { "basic" }, placeholder = "__k__" }, "x")[1] == "basic")
  end,
  ["of a record that was kept before, a secret is one whatever else it is"] = function()
    local a, b = { user_key = "KEY", key = "PASS", kind = "basic" }, { key = "KEY", kind = "bearer" }
    for _, services in ipairs { { a, b }, { b, a }, { { user_key = "KEY", key = "KEY", kind = "basic" } } } do
      assert(granting.labels({ services = services, credentials = {} }).KEY == "secret")
    end
  end,
  ["who answers may narrow a host and a path, and no more"] = function()
    for _, c in ipairs {
      { "a.test", nil, "a.test", true }, { "a.test", nil, "A.TEST", true }, { "a.test", nil, "b.a.test" }, { "a.test", nil, "*.a.test" }, { "a.test", nil, "*" }, { "a.test", nil, "aa.test" },
      { "*.a.test", nil, "*.a.test", true }, { "*.a.test", nil, "b.a.test", true }, { "*.a.test", nil, "*.b.a.test", true }, { "*.a.test", nil, "a.test" },
      { "*.a.test", nil, "ba.test" }, { "*.a.test", nil, "*.test" }, { "*.a.test", nil, "${X}.a.test" }, { "10.0.0.1", nil, "10.0.0.2" }, { "a.test", nil, "a.test/x" },
    } do
      local host, _, why = proposals.narrowed({ host = c[1] }, c[3])
      assert((host ~= nil) == (c[4] == true) and (host == nil) == (why ~= nil), c[1] .. " " .. c[3])
    end
    for _, c in ipairs {
      { nil, "/x", true }, { "/", "/x", true }, { "/v1", "/v1", true }, { "/v1", "/v1/x", true }, { "/v1", "/v1/", true }, { "/v1/", "/v1/x", true }, { "/v1/", "/v1" },
      { "/v1", "/" }, { "/v1", "/v10" }, { "/v1", "/v2" }, { "/v1", "/V1" }, { "/v1", "/v1/../v2" }, { "/v1", "/v1%2Fx" }, { "/v1", "v1" },
    } do
      local _, path, why = proposals.narrowed({ host = "a.test", path = c[1] }, nil, c[2])
      assert((path ~= nil) == (c[3] == true) and (path == nil) == (why ~= nil), tostring(c[1]) .. " " .. c[2])
    end
  end,
  ["what an agent writes into a sentence is seen as it is"] = function()
    for _, hidden in ipairs { "\u{202e}", "\u{200b}", "\u{2066}", "\u{feff}" } do
      local s = bot("one", "BOT")
      s.substitutions[1]["in"] = { "json=/a" .. hidden .. "b" }
      local r, why = parsed({ s }, "BOT")
      assert(not r and why:find("in is a list of places", 1, true), why)
      s = { name = "one", host = "one.test", auth = { type = "api-key", key = "KEY", prefix = "k" .. hidden } }
      r, why = parsed({ s }, "KEY")
      assert(not r and why:find("auth.prefix", 1, true), why)
    end
    local s = bot("one", "BOT")
    s.substitutions[1]["in"] = { "json=/größe" }
    assert(parsed({ s }, "BOT"))
  end,
  ["both hosts of an account are said, and each is looked at"] = function()
    local function says(authorization, token, host)
      local r = assert(parsed({ { name = "one", host = host or "one.test", auth = { type = "bearer", token = "KEY" } } },
        { key = "KEY", type = "oauth", oauth = { authorization_url = authorization, token_url = token, client_id = "c" } }))
      return proposals.says(r, "A")[1]
    end
    local one = says("https://login.evil.test/x", "https://id.test/token")
    assert(one.text:find("signed in to at login.evil.test, and its client secret goes to id.test", 1, true) and not one.warning, one.text)
    assert(says(nil, "https://id.test/token").text:find("signed in to at id.test", 1, true))
    for _, c in ipairs { { "https://xn--80ak6aa92e.com/", "https://id.test/", "xn--80ak6aa92e.com has letters" }, { "https://id.test/", "https://10.0.0.1/", "10.0.0.1 is" },
      { "https://id.test/", "https://xn--80ak6aa92e.com/", "has letters" }, { nil, "https://id.test/", "every name below one.test", "*.one.test" } } do
      local got = says(c[1], c[2], c[4]).warning
      assert(got and got:find(c[3], 1, true), tostring(got))
    end
  end,
  ["a name of this machine or network is looked at, and where a key goes is said as it is"] = function()
    for host, want in pairs { localhost = "of this machine", intranet = "of this machine", ["x.localhost"] = "of this machine", ["metadata.google.internal"] = "of this machine",
      ["*.home.lan"] = "of this machine", ["127.0.0.1"] = "is loopback", ["one.test"] = false, ["api.stripe.com"] = false } do
      local s = bearer("one", "KEY")
      s.host = host
      local got = proposals.says(assert(parsed({ s }, "KEY")), "A")[1].warning
      assert(want and got and got:find(want, 1, true) or not want and not got, host .. " " .. tostring(got))
    end
    local s = { name = "one", host = "one.test", auth = { type = "api-key", key = "KEY", header = "cookie", prefix = '") attached, and nothing more\\' } }
    local text = proposals.says(assert(parsed({ s }, "KEY")), "A")[1].text
    assert(text:find([[with KEY (header cookie, behind "\") attached, and nothing more\\") attached]], 1, true), text)
  end,
  ["where a key is got is a link only where its host comes first"] = function()
    for url, link in pairs { ["https://keys.test/new?a=b&c"] = true, ["https://bank.test@evil.test/"] = false, ["https://bank.test:pw@evil.test/"] = false, ["https://bаnk.test/"] = false,
      ["https://keys.test\\@evil.test/"] = false, ["http://keys.test/"] = false, ["javascript:alert(1)"] = false, ["https://"] = false, ["https://x.test/\"onclick=x"] = false } do
      local shown = require("web.page").obtained({ description = "<b>", obtain = url })[1]
      assert((shown:find("<a ", 1, true) ~= nil) == link and not shown:find("<b>", 1, true) and not shown:find('"onclick', 1, true), shown)
    end
  end,
  ["what OAuth gives is no user name"] = function()
    for _, s in ipairs { basic("one", "KEY", "PASS"), basic("one", "KEY") } do
      local r, why = parsed({ s }, account, s.auth.password)
      assert(not r and why:find("OAuth", 1, true), why)
    end
  end,
}
