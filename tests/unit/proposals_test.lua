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
  ["of a record that was kept before, a secret is one whatever else it is"] = function()
    local a, b = { user_key = "KEY", key = "PASS", kind = "basic" }, { key = "KEY", kind = "bearer" }
    for _, services in ipairs { { a, b }, { b, a }, { { user_key = "KEY", key = "KEY", kind = "basic" } } } do
      assert(granting.labels({ services = services, credentials = {} }).KEY == "secret")
    end
  end,
  ["what OAuth gives is no user name"] = function()
    for _, s in ipairs { basic("one", "KEY", "PASS"), basic("one", "KEY") } do
      local r, why = parsed({ s }, account, s.auth.password)
      assert(not r and why:find("OAuth", 1, true), why)
    end
  end,
}
