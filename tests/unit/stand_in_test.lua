-- lua/stand_in.lua: the index of token endpoints, and what a request there presents.
local stand_in, http, sandbox = require "stand_in", require "http", require "sandbox"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local with = { sandbox = sandbox, parse_url = http.parse_url }
local oauth = { name = "t", refresh = function() end }

local function endpoints(...) return stand_in.endpoints(with, oauth, { token_url = { ... } }) end

local alice = { in_bundle = { default = true } }

local function named(index, url, items, agent)
  local at = http.parse_url(url)
  local list = stand_in.named(index, items, agent or alice, at, {})
  return list and table.concat(list, " ")
end

local function items(...)
  local out = {}
  for _, name in ipairs { ... } do out["credential/" .. name] = { bundles = { default = true } } end
  return out
end

return {
  ["a type without tokens, and an address that is none, have no endpoint"] = function()
    is(#stand_in.endpoints(with, { name = "t" }, { token_url = "https://a.test/t" }), 0)
    is(#stand_in.endpoints(with, oauth, {}), 0)
    is(#endpoints("nonsense", 7), 0)
    local e = endpoints("https://A.test/t")[1]
    is(e.host, "a.test")
    is(e.port, 443)
    is(e.pattern, nil)
  end,
  ["a star is one segment, and everything else is itself"] = function()
    local index, all = stand_in.index(), items "gh"
    stand_in.put(index, "gh", endpoints "https://a.test/api.v3/app/*/access-tokens")
    is(named(index, "https://a.test/api.v3/app/7/access-tokens", all), "gh")
    is(named(index, "https://a.test/api.v3/app/7/access-tokens/", all), nil)
    is(named(index, "https://a.test/api.v3/app/7/8/access-tokens", all), nil)
    is(named(index, "https://a.test/api.v3/app//access-tokens", all), nil)
    is(named(index, "https://a.test/apixv3/app/7/access-tokens", all), nil)
    is(named(index, "https://a.test/x/api.v3/app/7/access-tokens", all), nil)
  end,
  ["an endpoint is scheme, host, port and path; those of the agent's bundles alone"] = function()
    local index, all = stand_in.index(), items("b", "a", "c")
    for _, name in ipairs { "b", "a", "c" } do stand_in.put(index, name, endpoints "https://a.test/t") end
    all["credential/c"].bundles = { other = true }
    is(named(index, "https://a.test/t", all), "a b")
    is(named(index, "https://a.test/t", all, { in_bundle = { other = true } }), "c")
    is(named(index, "https://a.test/t", all, { in_bundle = {} }), nil)
    for _, url in ipairs { "http://a.test/t", "https://a.test:8443/t", "https://b.test/t", "https://a.test/t/", "https://a.test/T" } do
      is(named(index, url, all), nil)
    end
  end,
  ["a pattern and a plain path on one host, and the same place twice"] = function()
    local index, all = stand_in.index(), items("plain", "star")
    stand_in.put(index, "plain", endpoints("https://a.test/x/1/t", "https://a.test/x/1/t"))
    stand_in.put(index, "star", endpoints("https://a.test/x/*/t"))
    is(named(index, "https://a.test/x/1/t", all), "plain star")
    is(named(index, "https://a.test/x/2/t", all), "star")
  end,
  ["what is put again or taken out leaves nothing behind"] = function()
    local index, all = stand_in.index(), items("a", "b")
    stand_in.put(index, "a", endpoints("https://a.test/t", "https://b.test/x/*/t"))
    stand_in.put(index, "b", endpoints "https://a.test/t")
    stand_in.put(index, "a", endpoints "https://c.test/t")
    is(named(index, "https://a.test/t", all), "b")
    is(named(index, "https://c.test/t", all), "a")
    is(named(index, "https://b.test/x/1/t", all), nil)
    is(index.hosts["b.test"], nil)
    stand_in.put(index, "a", {})
    stand_in.put(index, "b", {})
    stand_in.put(index, "never", {})
    is(next(index.hosts), nil)
    is(next(index.of), nil)
  end,
  ["a server with several addresses is one place; what is taken out of it leaves nothing"] = function()
    local index, all = stand_in.index(), items("g", "ms", "sf")
    stand_in.put(index, "g", endpoints("https://oauth2.googleapis.com/token", "https://www.googleapis.com/oauth2/v4/token"))
    stand_in.put(index, "ms", endpoints "https://login.windows.net/TENANT/oauth2/token")
    is(stand_in.has(index, "eastus.login.microsoft.com"), true)
    is(stand_in.has(index, "login.microsoft.com.evil.test"), false)
    is(stand_in.has(index, "acme.my.salesforce.com"), false)
    is(named(index, "https://accounts.google.com/o/oauth2/token", all), "g")
    is(named(index, "https://www.googleapis.com/oauth2/v3/token", all), "g")
    is(named(index, "https://eastus.login.microsoft.com/common/oauth2/v2.0/token", all), "ms")
    for _, url in ipairs { "http://accounts.google.com/o/oauth2/token", "https://accounts.google.com:8443/o/oauth2/token",
      "https://www.googleapis.com/oauth2/v3/token/x", "https://www.googleapis.com/oauth2/token", "https://a.accounts.google.com/o/oauth2/token",
      "https://login.microsoftonline.us/common/oauth2/token", "https://login.windows.net/a/b/oauth2/token" } do
      is(named(index, url, all), nil)
    end
    -- Another port or path is no server of those.
    is(endpoints("https://oauth2.googleapis.com:8443/token")[1].server, nil)
    is(endpoints("https://oauth2.googleapis.com/other")[1].server, nil)
    is(endpoints("http://oauth2.googleapis.com/token")[1].server, nil)
    -- a host with an endpoint of its own below a "*"
    stand_in.put(index, "sf", endpoints("https://acme.my.salesforce.com/services/oauth2/token", "https://acme.my.salesforce.com/own"))
    is(named(index, "https://acme.my.salesforce.com/own", all), "sf")
    is(named(index, "https://acme.my.salesforce.com/services/oauth2/token", all), "sf")
    is(named(index, "https://x--y.sandbox.my.salesforce.com/services/oauth2/token", all), "sf")
    for _, name in ipairs { "g", "ms", "sf" } do stand_in.put(index, name, {}) end
    is(next(index.hosts), nil)
    is(next(index.of), nil)
    is(next(index.servers), nil)
    is(index.wild, 0)
  end,
  ["ten thousand credentials at one endpoint cost other requests of that host nothing"] = function()
    local index, all, list = stand_in.index(), items "n1", endpoints "https://a.test/t"
    for i = 1, 10000 do stand_in.put(index, "n" .. i, list) end
    local before = os.clock()
    for _ = 1, 10000 do is(stand_in.named(index, all, alice, { scheme = "https", host = "a.test", port = 443, path = "/v1" }, {}), nil) end
    assert(os.clock() - before < 2, "a look is no walk")
    is(named(index, "https://a.test/t", all), "n1")
    for i = 1, 10000 do stand_in.put(index, "n" .. i, {}) end
    is(next(index.hosts), nil)
  end,
}
