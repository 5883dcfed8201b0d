--- Policies (lua/policy.lua): what is refused and where the reason points, examples, versions, calls.
local examples = require "cli.policy_examples"
local policies = require "policy_store"
local versions = require "cli.policy_versions"
local policy = require "policy"
local sandbox = require "sandbox"
local secret = require "secret.core"

local function find(text, part)
  assert(type(text) == "string" and text:find(part, 1, true), ("'%s' does not say '%s'"):format(tostring(text), part))
end

-- A type named "t" with these lines added: { kind, api, name, title, apply } are there.
local function type_with(lines)
  return ([[
return {
  kind = "type", api = 1, name = "t", title = "Test",
  apply = function(req, cred) req.headers:set("x-key", cred.key) end,
%s
}]]):format(lines)
end

local key = [[  fields = { { name = "key", secret = true, required = true } },]]

local function compiled(source, name)
  local pol, why = policy.compile(name or "t", source)
  assert(pol, why)
  return pol
end

local function refused(source, ...)
  local pol, why = examples.test("t", source)
  assert(not pol, "it was taken")
  for _, part in ipairs { ... } do find(why, part) end
  return why
end

-- A store in memory, as far as policy.lua uses one. `now` holds what commit answers instead, once.
local function fake_store()
  local data, count, config = {}, 0, 1
  local fake = { commits = {} }
  function fake.generation() return config, 1 end
  function fake.refused() return {}, 0 end
  function fake.peek(_, key_) if data[key_] then return data[key_] end return nil, "absent" end
  function fake.each(_, prefix, after, limit)
    local keys, out = {}, {}
    for k in pairs(data) do if k:sub(1, #prefix) == prefix and (not after or k > after) then keys[#keys + 1] = k end end
    table.sort(keys)
    for i = 1, math.min(limit, #keys) do out[i] = { key = keys[i], record = data[keys[i]] } end
    return out
  end
  function fake.records(_, prefix)
    local list, i = fake.each(nil, prefix, nil, math.maxinteger), 0
    return function()
      i = i + 1
      if list[i] then return list[i].key, list[i].record end
    end
  end
  function fake.commit(ops)
    if fake.now then
      local code = fake.now
      fake.now = nil
      return nil, code
    end
    for _, op in ipairs(ops) do
      local had = data[op.key] and data[op.key].version or 0
      if op.version and op.version ~= had then return nil, "conflict" end
    end
    count, config = count + 1, config + 1
    for _, op in ipairs(ops) do
      data[op.key] = op.plain
      data[op.key].version = count
    end
    fake.commits[#fake.commits + 1] = ops
    return true, count
  end
  fake.data = data
  return fake
end

local function with_store(f)
  local fake, real = fake_store(), package.loaded.store
  package.loaded.store = fake
  local ok, why = pcall(f, fake)
  package.loaded.store = real
  assert(ok, why)
end

-- A request that remembers: enough of req:view() for apply.
local function fake_request(set)
  local view = { headers = { set = function(_, name, value) set[name] = value end } }
  return { view = function() return view end }
end

return {
  ["every built-in policy compiles and its examples hold"] = function()
    local names = require "policy_names"
    assert(#names >= 5)
    for _, name in ipairs(names) do
      local pol, count = examples.test(name, sandbox.default_source(name))
      assert(pol, count)
      assert(pol.name == name and count > 0, name .. " has no example")
    end
  end,

  ["a syntax error names file and line"] = function()
    refused("return {\n  kind = = 1\n}", "policies/t.lua:2:")
  end,

  ["an error at the top level names file and line"] = function()
    refused("\n\nerror('no')", "policies/t.lua:3: no")
    refused("return io.open('/etc/passwd')", "policies/t.lua:1:", "global 'io'")
  end,

  ["an endless loop at the top level is refused"] = function()
    refused("while true do end", "policies/t.lua", "instructions")
  end,

  ["bytecode is refused"] = function() refused("\27Lua\x54\0\x19\x93\r\n\x1a\n", "binary") end,

  ["what is not a table is refused"] = function()
    refused("return 1", "policies/t.lua:1:", "returns a number")
    refused("local x = 1", "returns a nil")
  end,

  ["an unknown key is refused with its line"] = function()
    refused(type_with(key .. "\n  aply = 1,"), "policies/t.lua:5:", "no key 'aply'")
    refused(type_with('  fields = {\n    { name = "key", secrt = true },\n  },'), "policies/t.lua:5:", "no key 'secrt'")
  end,

  ["a pattern is no table, though it is one of ours"] = function()
    for _, name in ipairs { "fields", "examples", "strip", "mint", "targets", "hosts" } do
      refused(type_with(("  %s = lpeg.P(1),"):format(name)), "policies/t.lua:4:", name .. " of a policy of kind type", "not a pattern")
    end
  end,

  ["targets are names of headers, and ways of reading them"] = function()
    refused(type_with(key .. '\n  targets = { ["x-a"] = "sideways" },'), "policies/t.lua:5:", "'x-a' is read as one of")
    refused(type_with(key .. '\n  targets = { ["x a"] = "url" },'), "policies/t.lua:5:", "no header's name")
    refused(type_with(key .. "\n  targets = { 'x-a' },"), "policies/t.lua:5:", "no header's name")
    assert(compiled(type_with(key .. '\n  targets = { X_A = "bucket", ["X-B"] = "away" },')).targets["x-a"] == "bucket")
  end,

  ["a commented key does not mislead the line"] = function()
    refused(type_with("  -- aply = 1\n  aply = 1,"), "policies/t.lua:5:", "no key 'aply'")
  end,

  ["an unknown field type is refused with its line"] = function()
    refused(type_with('  fields = {\n    { name = "a" },\n    { name = "b", type = "strng" },\n  },'),
      "policies/t.lua:6:", "field 'b' has the unknown type 'strng'")
  end,

  ["wrong types of values are refused"] = function()
    refused(type_with("  body = 5,"), "policies/t.lua:4:", "body", "table")
    refused(type_with("  body = { max = 1 << 40 },"), "body = { max = bytes }")
    refused(type_with("  strip = { headers = { 1 } },"), "headers: item 1 is not a text")
    refused(type_with("  strip = { cookies = {} },"), "no key 'cookies'")
    refused(type_with("  endpoints = { 'http://example.com/' },"), "endpoint")
    refused(type_with("  validate = true,"), "validate")
    refused(type_with("  expired = { 200 },"), "expired")
    refused((type_with(key):gsub("api = 1", "api = 2")), "api = 2", "speaks 1")
    refused((type_with(key):gsub('"type"', '"typo"')), "kind is type, rule, match")
    refused((type_with(key):gsub('name = "t"', 'name = "u"')), "name = 'u'")
    refused((type_with(key):gsub('title = "Test"', 'title = ""')), "title is missing")
  end,

  ["field rules that contradict each other are refused"] = function()
    local function field(text, why) refused(type_with(("  fields = { { name = 'a', %s } },"):format(text)), why) end
    field("type = 'enum'", "values")
    field("values = { 'x' }", "values")
    field("type = 'enum', values = { 'x' }, default = 'y'", "default of 'a' is one of x")
    field("type = 'integer', secret = true", "a secret is a string")
    field("type = 'integer', min = 3, default = 2", "at least 3")
    field("min = 3", "bounds")
    field("secret = true, default = 'x'", "no default")
    field("split = { a = {} }", "document")
    refused(type_with("  fields = { { name = 'state' } },"), "is a name that every type has")
    refused(type_with("  fields = { { name = 'env' } },"), "is a name that every type has")
    refused(type_with("  fields = { { name = 'a' }, { name = 'a' } },"), "occurs twice")
    refused(type_with("  fields = { { name = 'A' } },"), "small letters")
  end,

  ["a failing example names its number and both values"] = function()
    local why = refused(type_with(key .. [[

  examples = {
    { cred = { key = "k1" }, want = { headers = { ["x-key"] = "k1" } } },
    { cred = { key = "k1" },
      want = { headers = { ["x-key"] = "k2" } } },
  },]]), "example 2", '"k1"', '"k2"', "header x-key")
    find(why, "policies/t.lua:8:")
  end,

  ["an example may want a header gone, a query, a body, an error"] = function()
    local pol, count = examples.test("t", type_with(key .. [[
  strip = { headers = { "x-old" } },
  examples = {
    { cred = { key = "k1" }, req = { headers = { ["X-Old"] = "1", authorization = "Bearer p" } },
      want = { headers = { ["x-key"] = "k1", ["x-old"] = false, authorization = false } } },
    { cred = {}, want = { error = true } },
    { cred = { key = "k" }, req = { url = "https://api.example.com/a?b=c" }, want = { path = "/a", query = { b = "c", d = false } } },
  },]]))
    assert(pol, count)
    assert(count == 3)
    refused(type_with(key .. "examples = { { cred = { kee = 'k' }, want = {} } },"), "example 1", "cred.kee")
    refused(type_with(key .. "examples = { { cred = {}, want = { headrs = {} } } },"), "example 1", "headrs")
    refused(type_with(key .. "examples = { { cred = {} } },"), "example 1 wants nothing")
  end,

  ["an example that loops is refused"] = function()
    refused([[return { kind = "type", api = 1, name = "t", title = "T", apply = function() while true do end end,
      examples = { { want = {} } } }]], "example 1", "instructions")
  end,

  ["what a policy does to its table later changes nothing"] = function()
    local pol = compiled([[
local me = { kind = "type", api = 1, name = "t", title = "T", strip = { headers = { "a" } },
  fields = { { name = "key", secret = true } } }
me.apply = function() me.strip.headers[1] = "b" me.fields[1].secret = false me.apply = nil end
return me]])
    assert(policy.apply(pol, fake_request {}, {}))
    assert(policy.strip(pol, {}).headers[1] == "a" and pol.fields[1].secret and pol.apply)
  end,

  ["an error in apply is told apart from a refusal"] = function()
    local function apply(body) return policy.apply(compiled((type_with(""):gsub("apply = .-end,", "apply = function(req, cred) " .. body .. " end,"))), fake_request {}, {}) end
    assert(apply("") == true)
    local ok, code, why = apply("error('broken')")
    assert(not ok and code == "policy_failed") find(why, "policies/t.lua:3: broken")
    ok, code, why = apply("return nil, 'no account'")
    assert(not ok and code == "injection_failed" and why == "no account")
    ok, code, why = apply("return 42")
    assert(not ok and code == "policy_failed") find(why, "returned a number")
    ok, code, why = apply("return {}")
    assert(not ok and code == "policy_failed") find(why, "returned a table")
    ok, code = apply("while true do pcall(error) end")
    assert(not ok and code == "policy_failed")
    ok, code = apply("local t = {} while true do t[#t + 1] = ('x'):rep(10000) .. #t end")
    assert(not ok and code == "policy_failed")
    ok, code = apply("return (('a'):rep(30000)):find('.-.-.-b')")
    assert(not ok and code == "policy_failed")
  end,

  ["a strip function is checked each time"] = function()
    local pol = compiled(type_with("  strip = function(cred) return cred.x end,"))
    assert(policy.strip(pol, { x = { headers = { "a" } } }).headers[1] == "a")
    local spec, code, why = policy.strip(pol, { x = { headers = "a" } })
    assert(not spec and code == "policy_failed") find(why, "headers")
    spec, code = policy.strip(pol, {})
    assert(not spec and code == "policy_failed")
  end,

  ["refresh must return state of secrets, or say why not"] = function()
    local function refresh(body)
      local pol = compiled(type_with("  refresh = function(cred, net, deadline) " .. body .. " end,"))
      return policy.refresh(pol, {}, { s = secret.of("t1") }, 0)
    end
    local state = refresh("return { secrets = { access_token = net.s }, expires_at = 5 }")
    assert(state and state.expires_at == 5 and secret.is(state.secrets.access_token))
    local ok, code, why = refresh("return nil, 'invalid_grant', 7")
    assert(not ok and code == "invalid_grant" and why == 7)
    ok, code, why = refresh("return { secrets = { access_token = 'plain' } }")
    assert(not ok and code == "policy_failed") find(why, "access_token")
    ok, code = refresh("return { token = net.s }")
    assert(not ok and code == "policy_failed")
    ok, code = refresh("return 'token'")
    assert(not ok and code == "policy_failed")
    ok, code = refresh("return")
    assert(not ok and code == "policy_failed")
    ok, code = refresh("while true do end")
    assert(not ok and code == "policy_failed")
  end,

  ["net reaches the credential's own URLs and what the policy declares"] = function()
    local pol = compiled(type_with([[
  fields = { { name = "token_url", type = "url" } },
  endpoints = { "https://login.example.com/token", "sts.example.org", "*.amazonaws.com" },]]))
    local cred = { token_url = "https://auth.example.net:8443/oauth/token" }
    for _, url in ipairs { "https://auth.example.net:8443/oauth/token", "https://auth.example.net:8443/revoke",
        "https://login.example.com/token", "https://sts.example.org/any?x=y", "https://sts.eu.amazonaws.com/" } do
      assert(policy.allows_url(pol, cred, url), url)
    end
    for _, url in ipairs { "https://auth.example.net/oauth/token", "http://auth.example.net:8443/oauth/token",
        "https://login.example.com/other", "https://login.example.com.evil.test/token", "http://sts.example.org/",
        "https://sts.example.org:8443/", "https://amazonaws.com/", "https://evilamazonaws.com/", "https://evil.test/",
        "https://x@evil.test/", "https://169.254.169.254/", "file:///etc/passwd", "" } do
      assert(not policy.allows_url(pol, cred, url), url)
    end
  end,

  ["fields of a credential are checked by type"] = function()
    local pol = compiled(type_with([[
  fields = {
    { name = "key", secret = true, required = true }, { name = "url", type = "url" },
    { name = "n", type = "integer", min = 1, max = 9 }, { name = "on", type = "boolean" },
    { name = "mode", type = "enum", values = { "a", "b" } }, { name = "scopes", type = "list" },
    { name = "params", type = "map" }, { name = "extra", type = "map", secret = true }, { name = "cert", type = "pem" },
    { name = "account", type = "document", split = { email = {}, private_key = { secret = true } } },
  },]]))
    local k = secret.of("k")
    local function bad(field, values, part)
      if field ~= "key" then values.key = k end
      local ok, name, why = policy.check_credential(pol, values)
      assert(not ok and name == field, tostring(name)) find(why, part)
    end
    assert(policy.check_credential(pol, { key = k, url = "https://example.com/", n = 5, on = false, mode = "b",
      scopes = { "x" }, params = { a = "b" }, extra = { a = k }, cert = "-----BEGIN CERTIFICATE-----",
      account = { email = "e", private_key = k } }))
    assert(policy.check_credential(pol, { key = k, url = "http://127.0.0.1:9/token" }))
    bad("key", {}, "is missing")
    bad("key", { key = "plain" }, "is a secret")
    bad("nope", { nope = 1 }, "no field of t")
    bad("url", { url = "http://example.com/" }, "https://")
    bad("url", { url = "https://" }, "URL")
    bad("url", { url = k }, "is a text")
    bad("n", { n = "5" }, "whole number")
    bad("n", { n = 10 }, "at most 9")
    bad("on", { on = "yes" }, "true or false")
    bad("mode", { mode = "c" }, "one of a, b")
    bad("scopes", { scopes = "x" }, "list")
    bad("scopes", { scopes = { "a\nb" } }, "control byte")
    bad("params", { params = { a = 1 } }, "member 'a'")
    bad("extra", { extra = { a = "plain" } }, "no secret")
    bad("cert", { cert = "x" }, "PEM")
    bad("account", { account = { email = "e" } }, "private_key")
    bad("account", { account = { email = "e", private_key = "plain" } }, "plain text")
    bad("account", { account = k }, "taken apart")
  end,

  ["validate names the field and the reason"] = function()
    local pol = compiled(type_with([[
  fields = { { name = "a", default = "x" }, { name = "b" } },
  validate = function(cred)
    if cred.b == "loop" then while true do end end
    if cred.b == "one" then return nil, "not one" end
    if cred.a == cred.b then return nil, "b", "is the same as a" end
    return true
  end,]]))
    assert(policy.check_credential(pol, { b = "y" }))
    local ok, field, why = policy.check_credential(pol, { b = "x" })
    assert(not ok and field == "b" and why == "is the same as a")
    ok, field, why = policy.check_credential(pol, { b = "one" })
    assert(not ok and field == nil and why == "not one")
    ok, _, why = policy.check_credential(pol, { b = "loop" })
    assert(not ok) find(why, "instructions")
  end,

  ["a record becomes the policy's view, defaults with it"] = function()
    local pol = compiled(type_with([[
  fields = { { name = "key", secret = true }, { name = "mode", default = "m" }, { name = "list", type = "list", default = { "d" } },
    { name = "extra", type = "map", secret = true },
    { name = "doc", type = "document", split = { email = {}, private_key = { secret = true } } } },]]))
    local k = secret.of("k")
    local rec = { fields = {}, split = { doc = { email = "e" } },
      secrets = { ["f/key"] = k, ["f/doc/private_key"] = k, ["f/extra/a"] = k, ["h/x-other"] = k } }
    local cred = policy.record_view(pol, rec, { access_token = k })
    assert(cred.key == k and cred.mode == "m" and cred.list[1] == "d" and cred.extra.a == k)
    assert(cred.doc.email == "e" and cred.doc.private_key == k and cred.state.access_token == k)
    assert(cred["x-other"] == nil and rec.split.doc.private_key == nil)
    cred.list[1] = "changed"
    assert(policy.record_view(pol, rec).list[1] == "d", "a view is the request's own")
  end,

  ["versions are kept, a rollback is one write"] = function()
    with_store(function(store)
      local v1, v2 = type_with(key), type_with(key .. "\n  help = 'two',")
      assert(policies.load("t") == nil)
      assert(versions.put("t", v1, "first", 100) == 1)
      assert(policies.load("t") and policies.source("t") == v1)
      assert(versions.put("t", v2, "second", 200) == 2)
      assert(policies.load("t").help == "two")
      assert(#store.commits[2] == 2 and store.commits[2][1].plain.saved_at == 200)
      local history = versions.history("t")
      assert(#history == 2 and history[1].note == "first" and history[2].active and not history[1].active)
      assert(versions.rollback("t") == 1)
      assert(#store.commits[3] == 1)
      assert(policies.load("t").help == nil and policies.source("t", 2) == v2)
      assert(versions.rollback("t") == nil, "nothing before the first, and no built-in one")
      assert(versions.rollback("t", 2) == 2 and policies.load("t").help == "two")
      assert(versions.put("t", v1, "third") == 3)
      assert(versions.list()[1].name and versions.history("t")[3].active)
    end)
  end,

  ["a refused policy leaves what served before"] = function()
    with_store(function(store)
      assert(versions.put("t", type_with(key)) == 1)
      local n, why = versions.put("t", type_with("aply = 1"))
      assert(n == nil) find(why, "policies/t.lua:4:")
      assert(#store.commits == 1 and policies.load("t"))
      store.now = "full"
      n, why = versions.put("t", type_with(key .. "help = 'x',"))
      assert(n == nil) find(why, "full")
      assert(policies.load("t").help == nil)
    end)
  end,

  ["an unedited policy follows the binary; an edited one says when the default moved on"] = function()
    with_store(function(store)
      local function status()
        for _, p in ipairs(versions.list()) do if p.name == "bearer" then return p.status, p.version end end
      end
      local default = sandbox.default_source("bearer")
      assert(status() == "default")
      assert(versions.put("bearer", default .. "-- mine\n") == 1)
      assert(status() == "edited")
      local edited = store.data["bearer/000001"]
      edited.base = ("0"):rep(64)
      assert(status() == "edited; the default has changed since")
      assert(versions.rollback("bearer") == 0 and status() == "default")
      assert(versions.rollback("bearer", 1) == 1)
      assert(versions.put("bearer", default) == 0, "the default's own text follows the binary again")
      assert(versions.history("bearer")[1].version == 0 and versions.history("bearer")[1].active)
      assert(versions.rollback("bearer") == nil)
      assert(versions.rollback("bearer", 9) == nil)
    end)
  end,

  ["a damaged record is refused by name, and the rest is listed"] = function()
    with_store(function(store)
      assert(versions.put("t", type_with(key)) == 1)
      local peek = store.peek
      store.peek = function(db, k)
        if k == "t" then return nil, "damaged" end
        return peek(db, k)
      end
      store.generation = function() return 99, 1 end
      local pol, why = policies.load("t")
      assert(pol == nil) find(why, "policies/t.lua: its record is damaged")
      local seen
      for _, p in ipairs(versions.list()) do seen = seen or p.name == "t" and p.status end
      assert(seen == "damaged")
    end)
  end,

  ["policy names are file names"] = function()
    for _, name in ipairs { "", "A", "../x", "a/b", "a.b", "-a", ("a"):rep(41), "1a" } do
      assert(not policy.name_ok(name), name)
      assert(policies.load(name) == nil)
    end
    assert(policy.name_ok("oauth_client_credentials"))
  end,

  ["a policy cannot reach another credential"] = function()
    -- It gets its own view and no way to ask for another: no store, no require, nothing global that is written.
    local pol = compiled((type_with(""):gsub("apply = .-end,", [[apply = function(req, cred)
      return nil, tostring(store) .. tostring(require) .. tostring(cred.other) .. tostring(package) end,]])))
    local _, _, why = policy.apply(pol, fake_request {}, { key = 1 })
    assert(why == "nilnilnilnil")
    local leak = compiled((type_with(""):gsub("apply = .-end,", "apply = function(req, cred) kept = cred end,")))
    local ok, code, message = policy.apply(leak, fake_request {}, {})
    assert(not ok and code == "policy_failed") find(message, "global 'kept' cannot be set")
  end,

  ["a secret stays a handle in a policy's hands"] = function()
    local function apply(body)
      local pol = compiled((type_with(""):gsub("apply = .-end,", function() return "apply = function(req, cred) " .. body .. " end," end)))
      local set = {}
      local ok, code, why = policy.apply(pol, fake_request(set), { key = secret.of("canary-7f3a") })
      assert(not tostring(why):find("canary", 1, true))
      return ok, set, code, why
    end
    for _, body in ipairs { "return nil, tostring(cred.key)", "error(cred.key)", "return nil, ('%s'):format(cred.key)",
        "return nil, #cred.key .. ''", "return nil, cred.key:sub(1, 1)", "return nil, ('x'):rep(cred.key)",
        "return nil, table.concat({ cred.key })", "return nil, lpeg.match(lpeg.C(1), cred.key)", "return nil, (cred.key):byte()",
        "return nil, next(cred.key)", "return nil, cred.key", "if cred.key < 'd' then return nil, 'less' end" } do
      local ok, _, code, why = apply(body)
      assert(not ok and code == "policy_failed", body .. ": " .. tostring(why))
    end
    local ok, set = apply("req.headers:set('authorization', 'Bearer ' .. cred.key)")
    assert(ok and secret.is(set.authorization))
  end,

  ["what judges a secret's bytes does not say why"] = function()
    local core, request = require "secret.core", require "request"
    local function apply(key, body)
      local pol = compiled((type_with("body = { max = 1000 },"):gsub("apply = .-end,", function() return "apply = function(req, cred) " .. body .. " end," end)))
      local req = require("example").request { method = "POST", url = "https://api.example.com/", headers = {}, body = '{"a":1}' }
      local _, code, why = policy.apply(pol, req, { key = core.as_field(core.of(key)) })
      return tostring(code) .. ": " .. tostring(why)
    end
    local function same(body, one, other, text)
      local first, second = apply(one, body), apply(other, body)
      assert(first == second and first:find(text, 1, true), ("'%s' and '%s'"):format(first, second))
    end
    -- A name beside a guess: "duplicate" would say that it is right.
    local splice = [[req.body = '{"' .. cred.key .. '":1,"hunter2":2}' local ok, why = req:splice_json("x", "y") return nil, tostring(ok) .. tostring(why)]]
    same(splice, "hunter2", "hunter3", "a body that was built with a secret is not edited")
    same((splice:gsub("splice_json", "splice_form")), "hunter2", "hunter3", "a body that was built with a secret is not edited")
    same("local ok, why = pcall(function() return json { cred.key } end) return nil, why", "\255", "\192\175", "a secret that does not fit there")
    same("local ok, why = pcall(cred.key.json_string, cred.key) return nil, why", "\255", "x\192\175", "a secret that does not fit there")
    same("local ok, why = pcall(req.headers.set, req.headers, 'x', cred.key) return nil, why", "a\nb", "a\0b", "a secret that does not fit there")
    same("local ok, why = req:splice_json('x', cred.key) return nil, why", "\255", "x\192\175", "injection_failed: unfit")
    -- What was built around one is not decoded: it would tell of the length, and of its letters.
    same("local ok, why = pcall(secret.decode, 'base64', cred.key .. 'A') return nil, why", "aaa", "aaaa", "a field of the credential is decoded")
    same("return nil, tostring(secret.is(secret.decode('hex', cred.key)))", "6162", "6364", "injection_failed: true")
    -- A limit that pcall could catch would tell a length.
    same("local pad = ('x'):rep(1 << 20) pcall(json.build, { pad, pad, cred.key }) return nil, 'went on'",
      "a", "ab", "policy_failed: policies/t.lua: used more than 16 MiB")
    same("local pad = ('x'):rep(1 << 18) pcall(req.splice_json, req, 'x', cred.key .. pad) return nil, 'went on'",
      "a", "ab", "policy_failed: policies/t.lua: used more than 16 MiB")
  end,

  ["a misspelt name is told at every level: its line, and the nearest that there is"] = function()
    local source = [[
return {
  kind = "type", api = 1, name = "t", title = "Test",
  fields = {
    { name = "token_url", type = "url", required = true },
    { name = "key", secret = true, required = true },
    { name = "mode", type = "enum", values = { "a", "b" }, default = "a" },
    { name = "doc", type = "document", split = { k = { secret = true, optional = true } } },
  },
  strip = { headers = { "x-key" } }, carriers = { query = { "token" } },
  body = { max = 1000 },
  env = { name = "ACME_KEY", shape = "ak_{32}" },
  mint = {
    { method = "POST", path = "/v1/tokens", what = "a token" },
    { method = "POST", path = "/v1/keys", what = "an API key" },
  },
  stand_in = { url = function(cred) local answer = { status = 1 } return cred.token_url, answer end },
  apply = function(req, cred)
    req.headers:set("x-key", cred.key)
  end,
  refresh = function(cred, net, deadline)
    local answer, code = net.request({ url = cred.token_url, expect = { token = "secret" } }, deadline)
    if not answer then return nil, code end
    return { secrets = { access_token = answer.values.token } }
  end,
  examples = {
    -- req = { url = "https://api.acme.test/" }, answers, want = { x }
    { cred = { token_url = "https://login.acme.test/t", key = "k" },
      req = { url = "https://api.acme.test/" },
      answers = {
        { status = 200, body = { token = "t" } } },
      want = { headers = { ["x-key"] = "k" },
        sent = { { url = "https://login.acme.test/t" } } } },
  },
}]]
    assert(examples.test("t", source))
    for _, case in ipairs {
      { "title =", "titel =", 2, "title" }, { "required = true },\n    { name = \"mode", "requird = true },\n    { name = \"mode", 5, "required" },
      { '"enum"', '"enmu"', 6, "enum" }, { "secret = true, opt", "secrte = true, opt", 7, "secret" }, { "strip = { headers", "strip = { header", 9, "headers" },
      { "carriers = { query", "carriers = { qeury", 9, "query" }, { "shape =", "shpae =", 11, "shape" },
      { "what = \"an", "waht = \"an", 14, "what" }, { "method = \"POST\", path = \"/v1/k", "mehtod = \"POST\", path = \"/v1/k", 14, "method" },
      { "stand_in = { url", "stand_in = { ulr", 16, "url" }, { "apply =", "aply =", 17, "apply" },
      { "cred.key)", "cred.kye)", 18, "key" }, { "req.headers:set", "req.haeders:set", 18, "req.headers" }, { "headers:set", "headers:sat", 18, "req.headers:set" },
      { "url = cred.token_url, expect", "ulr = cred.token_url, url = '', expect", 21, "url" }, { "expect =", "exepct =", 21, "expect" },
      { '"secret" }', '"secrte" }', 21, "secret" }, { "answer.values", "answer.value", 23, "values" }, { "values.token", "values.tokne", 23, "token" },
      { "net.request", "net.reqeust", 21, "net.request" },
      { "{ cred =", "{ crde =", 27, "cred" }, { "cred = { token_url", "cred = { tokn_url", 31, "token_url" }, { "  req = {", "  rqe = {", 28, "req" }, { "req = { url = \"https://api.acme.test/\" },\n", "req = { ulr = \"\" },\n", 28, "url" },
      { "answers = {\n", "answer = {\n", 29, "answers" }, { "status = 200", "stauts = 200", 30, "status" }, { "want = { headers", "want = { haeders", 31, "headers" },
      { "want = { headers", "wnat = { headers", 31, "want" }, { "sent = {", "snet = {", 32, "sent" }, { "sent = { { url", "sent = { { ulr", 32, "url" },
    } do
      local from, to = source:find(case[1], 1, true)
      assert(from, case[1])
      local why = refused(source:sub(1, from - 1) .. case[2] .. source:sub(to + 1), ":" .. case[3] .. ": ")
      why = require("cli.policy_hints").of(why)
      assert(why:find("did you mean " .. case[4], 1, true), ("%s: %s"):format(case[2], why))
    end
    refused(source:gsub("max = 1000", "maximum = 1000"), ":10: body has no key 'maximum': there is max")
  end,

  ["what authors get wrong is said with its line, and what to write instead"] = function()
    local source = [[
return { kind = "type", api = 1, name = "t", title = "T", endpoints = { "https://login.acme.test/s" },
  fields = { { name = "key", secret = true, required = true }, { name = "user" } },
  apply = function(req, cred)
    do APPLY end
    req.headers:set("x-a", "b")
  end,
  refresh = function(cred, net, deadline)
    do REFRESH end
    return { secrets = { access_token = cred.key } }
  end,
  examples = { { cred = { key = "k" }, req = { method = "POST", body = "{}" }, ANSWERS want = { headers = { ["x-a"] = "b" } } } },
}]]
    local hints = require "cli.policy_hints"
    local function says(given, ...)
      local why = refused((source:gsub("%u%u%u%u+", function(w) return w == "APPLY" and (given.apply or "") or w == "REFRESH" and (given.refresh or "")
        or w == "ANSWERS" and (given.refresh and 'answers = { ' .. (given.answer or '{ body = { token = "t" } }') .. ' },' or "") or nil end)))
      for _, part in ipairs { ... } do find(hints.of(why), part) end
    end
    for _, case in ipairs {
      { 'req.headers["x-key"] = cred.key', "req.headers:set(name, value)" }, { "local v = req.headers.authorization", "req.headers:get(name) reads" },
      { 'local v = req.query["a"]', "req.query:get(name) reads" }, { "req.headers:sett('a', 'b')", "did you mean req.headers:set?" },
      { 'req.headers.set("x-key", "v")', "call it with a colon, req.headers:set(…)" }, { 'req.headers:set("x-key", cred.user)', "it is req.headers:set(name, value)" },
      { "local s = json.encode { key = cred.key }", "json.build" }, { "local t = os.time()", "time.wall() is the clock" },
      { "local s = secret.base64encode(cred.key)", "did you mean secret.base64?" }, { 'local s = sign.hmac(cred.key, "sha256", "t")', "sign.hmac(alg, key, x)" },
      { "local s = sign.hmac_sha256(cred.key)", "sign.hmac" }, { "local u = req.url", "req.scheme, req.host, req.path or req.query_string" },
      { 'local b = "x" .. req.body', "body = { max = bytes }" }, { "x = 1", "use local" }, { "return false", "apply returned a boolean" },
      { 'local s = sign.jwt { alg = "HS256", secret = cred.key, claims = {} }', "sign.jwt has no key 'secret'" }, { "local t = time.unix()", "sallyport policy help" },
      { 'local s = sign.sigv4 { acces_key = "a" }', "did you mean access_key?" },
      { 'req:sigv4 { access_key = "A", secret = cred.key, regoin = "us-east-1", service = "s3" }', "sigv4: there is no member regoin" },
    } do
      says({ apply = case[1] }, case[2])
    end
    for _, case in ipairs {
      { 'net.request { url = "https://login.acme.test/s", body = { a = 1 } }', "json.build and form make one", ":8: " },
      { 'net.request { url = "https://login.acme.test/s", form = { { "a", 1 } } }', "there is body, expect, headers, method, url", ":8: " },
      { 'local a = net.request { url = "https://login.acme.test/s" } local t = a.values.token', "`expect` names no member", ":8: " },
      { 'local a = net.request { url = "https://login.acme.test/s", expect = { "token" } }', "expect is { member = kind }", ":8: " },
      { 'net.post("https://login.acme.test/s", { form = { a = 1 } }, deadline)', "form is a list of pairs", ":8: " },
      { 'net.post("https://login.acme.test/s", { form = "a=1" }, deadline)', "form is a list of pairs", ":8: " },
      { 'net.post("https://login.acme.test/s", { body = "{}" }, deadline)', 'body is "form" or "json"', ":8: " },
      { 'net.post("https://login.acme.test/s", { basic = "a:b" }, deadline)', "basic is { id, secret }", ":8: " },
      { 'net.token("https://login.acme.test/s", { client = { method = "bsic", id = "a" } }, deadline)', "did you mean basic?", ":8: " },
      { 'return net.request { url = "https://other.test/" }', "url_not_declared: https://other.test:443 is neither a URL of the credential nor an endpoint" },
      { "return cred.key", "refresh returned a secret, not {" }, { "return { secrets = { a = cred.key }, expires_at = 12.5 }", "expires_at of what refresh returns is an integer, not a number that is not whole" },
      { "return { secrets = { a = cred.key }, expires_in = 60 }", "did you mean expires_at?" }, { "return { access_token = cred.key }", "it returns { secrets" },
    } do
      says({ refresh = case[1] }, case[2], case[3])
    end
    says({ apply = "local s = tostring(cred.key)" }, ":4: a secret cannot be turned into a string")
    says({ apply = 'local s = ("%s"):format(cred.key)' }, ":4: a secret cannot be turned into a string")
    says({ apply = "local s = table.concat { cred.key }" }, ":4: ", "secret.template")
    says({ refresh = "return nil, 'refused', { retry_aftr = 5 }" }, "did you mean retry_after?")
    says({ apply = "local s = cred.state.acess_token", refresh = 'net.request { url = "https://login.acme.test/s" }' }, ":4: the state has no 'acess_token': did you mean access_token?")
    says({ refresh = 'net.request { url = "https://login.acme.test/s" }', answer = '{ headers = { ["X-Token"] = "t" } }' },
      "no header of an answer but WWW-Authenticate reaches a policy, and this one has 'X-Token'")
    local reads = source:gsub("endpoints =", "body = { max = 1 }, %0"):gsub("%u%u%u%u+", function(w) return (w == "APPLY" or w == "REFRESH" or w == "ANSWERS") and "" or nil end)
    refused(reads, "the body is longer than the type's `body` reads")
    assert(examples.test("t", (reads:gsub("max = 1 ", "max = 2 "))))
  end,

  ["an example meets what a request meets: no more, and no less"] = function()
    local source = [[
return {
  kind = "type", api = 1, name = "t", title = "Test", plain = { "team" },
  fields = { { name = "token_url", type = "url", required = true }, { name = "names", type = "map" } },
  apply = function(req, cred)
    req.headers:set("authorization", "Bearer " .. cred.state.access_token)
    APPLY
  end,
  refresh = function(cred, net, deadline)
    REFRESH
    return net.token(cred.token_url, { form = { { "grant_type", "client_credentials" } } }, deadline)
  end,
  examples = {
    { cred = { token_url = "https://login.acme.test/t", names = { a = "b" } },
      answers = { { body = { access_token = "t", refresh_token = "r", team = "blue" } }ANSWERS },
      want = { headers = { authorization = "Bearer t"WANT } } },
  },
}]]
    local function with(apply, refresh, answers, want)
      local given = { APPLY = apply or "", REFRESH = refresh or "", ANSWERS = answers or "", WANT = want or "" }
      return (source:gsub("%u%u%u%u+", given))
    end
    local function taken(...)
      local pol, why = examples.test("t", with(...))
      assert(pol, why)
    end
    taken()
    taken('req.headers:set("x-team", cred.state.team)', nil, nil, ', ["x-team"] = "blue"')
    taken("assert(next(cred.names) == nil) for k, v in pairs(cred.names) do assert(k .. v == 'ab') end")  -- a view, as it is
    taken([[local bytes = secret.decode("hex", cred.state.access_token) assert(bytes == nil)]])
    taken("assert(cred.state.team == 'blue' and cred.state.id_token == nil) for k in pairs(cred.state) do assert(k) end")
    local arrived = with('assert(secret.is(secret.decode("base64", cred.state.key)))', [[do
      local a = net.request({ url = cred.token_url, expect = { access_token = "secret", key = "secret" } }, deadline)
      assert(secret.is(secret.decode("base64", a.values.key)))
      return { secrets = { access_token = a.values.access_token, key = a.values.key } }
    end]]):gsub('team = "blue"', 'key = "aGVsbG8="')
    local pol, why = examples.test("t", arrived)
    assert(pol, why)
    taken(nil, "assert(cred.state and next(cred.state) == nil)")
    refused(with('req.headers:set("x-r", cred.state.refresh_token)'), "policies/t.lua:6: ")
    refused(with("cred.state.access_token = nil"), "policies/t.lua:6: a credential's fields cannot be changed")
    refused(with("cred.token_url = nil"), "policies/t.lua:6: a credential's fields cannot be changed")
    refused(with("cred.names.a = nil"), "policies/t.lua:6: a credential's fields cannot be changed")
    refused(with(nil, "if cred.kye then return end"), "policies/t.lua:9: the type has no field 'kye'")
    refused(with(nil, nil, ", { body = {} }"), "refresh did not ask for answer 2")
    refused(with(nil, nil, ', { url = "https://login.acme.test/other", body = {} }'), "refresh did not ask for answer 2")
    refused(with(nil, "net.token(cred.token_url, { form = {} }, deadline)"), "the example has no answer (left) for POST https://login.acme.test/t")
    refused(with(nil, nil, ", { status = 700 }"), "answer 2: status 700 is none of HTTP's")
    refused(with(nil, nil, ', { status = 200, error = "timeout" }'), "answer 2: a call that fails has no status and no body")
    refused(with(nil, nil, ', { error = "timeuot" }'), "answer 2: 'timeuot' is no way in which a call fails: did you mean timeout?")
  end,

  ["where a key stands is found in any text of Lua"] = function()
    local find_at = require("policy_places").find
    local source = [==[
local OTHER = { b = { 1, 2 }, a = 1 }
--[[ return { a = { b = 1 } } ]]
local function f() if a then return { a = 1 } end end
return {
  s = "}, a = { b = 1 }", l = [[ }, a = { b = 2 } ]], q = 'it\'s { a',
  f = function() local a, b = 1, { c = 2 } for i = 1, 2 do local t = { a = 3 } end return a == b end,
  ["x-y"] = { 1, { k = 2 }, [3] = 1 }, other = OTHER,
  a = { -- }
    b = f({ b = 1 }), c = a == b and { d = 1 },
    d = { e = 1 },
  },
}]==]
    local function line(...)
      local at, whole = find_at(source, { ... })
      local _, n = source:sub(1, (at or 1) - 1):gsub("\n", "")
      return at and n + 1, whole
    end
    for _, case in ipairs {
      { { "a", "d", "e" }, 10, true }, { { "a", "c" }, 9, true }, { { "a", "c", "d" }, 9, false }, { { "x-y", 2, "k" }, 7, true }, { { "other", "b", 2 }, 1, true },
      { { "q" }, 5, true }, { { "f", "a" }, 6, false }, { { "nothing" }, nil, false }, { {}, nil, true },
    } do
      local at, whole = line(table.unpack(case[1]))
      assert(at == case[2] and whole == case[3], ("%s: %s, %s"):format(table.concat(case[1], "."), tostring(at), tostring(whole)))
    end
    for _, text in ipairs { "", "return", "return {", "return { a = ", "return { a = { [", "return { 'a", "return { a = [[ ", "-- return {", "return { a = function(", "local t = t return t" } do find_at(text, { "a", "b" }) end
    local long = ("{"):rep(200000)
    find_at("return " .. long, { "a" })
  end,

  ["whoever can reach `ask` is known to: its body is held until a person answered"] = function()
    local RULE = '%s\nreturn { kind = "rule", api = 1, name = "t", title = "T", reader = "json", members = { "to" },\n on_request = function(req, ctx)\n%s\n end }'
    local function pol_of(before, within) return compiled(RULE:format(before, within)) end
    for _, may in ipairs { { "", 'return ask("x")' }, { "local a <const> = ask", 'return a("x")' }, { "local e = _ENV", 'return e["a" .. "sk"]("x")' },
      { "", 'return _ENV["\\97sk"]("x")' }, { "", 'local s = "--"; return ask("x")' }, { "--[[ x ]] local a = ask", 'return a("x")' },
      { "local s = [[\n-- ]] local a = ask", 'return a("x")' }, { "-- x\r local a = ask", 'return a("x")' }, { 'local s = "\\\n -- " local a = ask', 'return a("x")' } } do
      local pol = pol_of(may[1], may[2])
      assert(pol.asks and sandbox.call("t", pol.on_request, {}, {}), may[1] .. may[2])
    end
    for _, not_ in ipairs { { "-- nobody is to ask", "return nil" }, { "local task = 1", 'return deny("asks" .. task)' } } do assert(pol_of(not_[1], not_[2]).asks == false) end
  end,

  ["examples have a deadline together"] = function()
    local many = ("{ want = {} },"):rep(20)
    local source = (type_with(""):gsub("apply = .-end,", function() return "apply = function(req, cred) end, examples = { " .. many .. " }," end))
    assert(examples.test("t", source))
    local clock, now = os.clock, 0
    os.clock = function() now = now + 1 return now end
    local ok, pol, why = pcall(examples.test, "t", source)
    os.clock = clock
    assert(ok and not pol and why:find("the examples took more than 10 s of processor time, and example 11 was still to run"), why)
  end,
}
