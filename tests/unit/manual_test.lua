--- The manual of policies (lua/cli/policy_manual.lua): it has what there is, and its examples run.
local allowed = require "allowed"
local core = require "secret.core"
local examples = require "cli.policy_examples"
local manual = require "cli.policy_manual"
local oauth = require "oauth"
local policy = require "policy"
local sandbox = require "sandbox"

local function topic(name)
  for _, t in ipairs(manual.topics()) do
    if t.name == name then return t end
  end
  error("no topic " .. name)
end

local function has_entry()
  local has = {}
  for _, name in ipairs(manual.names()) do
    assert(not has[name], name .. " has two entries")
    has[name] = true
  end
  return has
end

-- A type of that text, indented as the manual's examples are.
local function type_of(lines)
  local given, out = table.concat(lines, "\n"), { 'return { kind = "type", api = 1, name = "t", title = "T", ' }
  for _, key in ipairs { "kind", "api", "name", "title" } do
    if given:find("^%s*" .. key .. " =") then out[1] = out[1]:gsub(key .. " = [^,]+, ", "") end
  end
  if not given:find("apply = ", 1, true) then out[#out + 1] = "apply = function() end," end
  return table.concat(out, "\n") .. "\n" .. given .. "\n}"
end

local function passes(source, what)
  local pol, why = examples.test("t", source)
  assert(pol, ("%s: %s"):format(what, tostring(why)))
end

-- What a manual's example has at hand: the environment of policies, a request, a credential and a net.
local function world()
  local pol = assert(policy.compile("t", [[return { kind = "type", api = 1, name = "t", title = "T",
    fields = { { name = "key", secret = true } }, endpoints = { "https://login.acme.test/token" }, body = { max = 1000 },
    programs = true, apply = function() end, refresh = function() end }]]))
  local req = require("example").request { method = "POST", url = "https://api.acme.test/v1/a%20b?q=1&r=a+b",
    headers = { accept = "*/*", ["content-type"] = "application/json" }, body = '{"a":1}' }
  local cred = policy.view(pol, { key = core.as_field(core.of("k")) }, { access_token = core.of("t1") })
  local answer = { status = 200, body = { access_token = "t1", expires_in = 60 } }
  local net = require("cli.policy_net").net(pol, cred, { answer, { url = "mint", headers = { a = "b" } } })
  return pol, req, { cred = cred, req = req:view(), net = net, deadline = require("time").now() + 10000 }
end

-- The lines of an entry as a function of check(got, want): `expression --> value` is checked, the rest is run.
local function script(code)
  local out = {}
  local text = table.concat(code, "\n"):gsub("\n      ", " ")
  for line in text:gmatch("[^\n]+") do
    local expr, want = line:match("^%s*(.-) %-%-> (.+)$")
    out[#out + 1] = expr and ("check((%s), (%s))"):format(expr, want) or line
  end
  return table.concat(out, "\n")
end

local function run(entry)
  local pol, req, at_hand = world()
  local policies_see = policy.environment("t")
  at_hand.check = function(got, want)
    if require("secret").is(got) then got = require("cli.policy_net").reveal(got) end
    if got ~= want then error(("%s is not %s"):format(tostring(got), tostring(want)), 2) end
  end
  local env = setmetatable(at_hand, { __index = policies_see })
  if table.concat(entry.code, "\n"):find("splice_form", 1, true) then
    req = require("example").request { method = "POST", url = "https://a.test/", body = "a=1",
      headers = { ["content-type"] = "application/x-www-form-urlencoded" } }
    env.req = req:view()
  end
  local chunk, bad = sandbox.load(script(entry.code), "@policies/t.lua", env)
  assert(chunk, ("%s: %s"):format(entry.head, tostring(bad)))
  local ran, why
  local ok, bug = policy.held_still(function() ran, why = sandbox.call(pol.name, chunk) end)
  assert(ok and ran, ("%s: %s"):format(entry.head, tostring(ok and why or bug)))
end

return {
  ["every function that a policy can call has an entry, and every entry is one"] = function()
    local has, real = has_entry(), {}
    for module, words in pairs(allowed.given) do
      local env = policy.environment("t")
      for word in words:gmatch("%S+") do
        real[module .. "." .. word] = true
        assert(has[module .. "." .. word], ("%s.%s has no entry"):format(module, word))
        local there = module == "lua" and env or env[module]
        assert(there[word] ~= nil, ("%s.%s is not there"):format(module, word))
      end
    end
    for name in pairs(has) do
      local module = name:match("^(%w+)%.")
      assert(not allowed.given[module] or real[name], name .. " is in the manual and not there")
    end
  end,

  ["a module shows a policy what is listed, and nothing else"] = function()
    local env = policy.environment("t")
    for module, words in pairs(allowed.given) do
      local listed = " " .. words .. " "
      local from = module ~= "lua" and package.loaded[module]
      for name in pairs(type(from) == "table" and from or {}) do
        if not listed:find(" " .. tostring(name) .. " ", 1, true) then
          assert(env[module][name] == nil, module .. "." .. tostring(name) .. " is not listed, and there")
        end
      end
    end
    assert(env.form.core == nil and env.secret.of == nil and env.secret.keep == nil and env.sign.core == nil)
  end,

  ["every key that the loader knows has an entry"] = function()
    local has = has_entry()
    local function all(prefix, keys)
      for key in pairs(keys) do assert(has[prefix .. "." .. key], ("the key %s.%s has no entry"):format(prefix, key)) end
      for name in pairs(has) do
        local key = name:match("^" .. prefix .. "%.([%w_]+)$")
        assert(not key or keys[key], name .. " is in the manual, and no key")
      end
    end
    for prefix, keys in pairs(policy.key_tables) do all(prefix, keys) end
  end,

  ["every topic and every entry can be shown"] = function()
    local find = require("cli.policy_help").find
    for _, t in ipairs(manual.topics()) do assert(find(t.name), t.name) end
    for _, name in ipairs(manual.names()) do assert(find(name), name) end
  end,
  ["every key of a call of net, of a request and of an answer is in the text"] = function()
    local function says(what, keys, entry)
      local text = entry.head .. " " .. table.concat(entry.text, " ") .. table.concat(entry.code, " ")
      for key in pairs(keys) do
        assert(text:find("%f[%w_]" .. key .. "%f[^%w_]"), ("%s: nothing is said of '%s'"):format(what, key))
      end
    end
    local by_name = {}
    for _, t in ipairs(manual.topics()) do
      for _, e in ipairs(t.entries) do for _, n in ipairs(e.names) do by_name[n] = e end end
    end
    for name, keys in pairs(oauth.keys) do
      if name ~= "client" and name ~= "token" then says("net." .. name, keys, by_name["net." .. name]) end
    end
    says("net.post", oauth.keys.client, by_name["net.post"])
    local token = {}
    for key in pairs(oauth.keys.token) do if not oauth.keys.post[key] then token[key] = true end end
    says("net.token", token, by_name["net.token"])
    says("req of an example", examples.keys.req, by_name["example.req"])
    says("want of an example", examples.keys.want, by_name["example.want"])
    says("want.sent", examples.keys.sent, by_name["example.want"])
    says("answers", require("cli.policy_net").keys, by_name["example.answers"])
  end,

  ["every member of a request is in it"] = function()
    local _, _, at_hand = world()
    local known = {}
    for _, name in ipairs(manual.request()) do
      known[name] = true
      local ok, why = pcall(function() return at_hand.req[name] end)
      assert(ok, ("req.%s: %s"):format(name, tostring(why)))
    end
    assert(known.headers and known.sigv4 and not known.token)
  end,

  ["the whole type of the first topic passes"] = function()
    local source = {}
    for _, line in ipairs(topic("start").intro) do
      if line:find("^    ") and (source[1] or line:find("^    return {")) then source[#source + 1] = line:sub(5) end
    end
    local pol, count = examples.test("acme", table.concat(source, "\n"))
    assert(pol, count)
    assert(count == 2 and #examples.notes(pol) == 0)
  end,

  ["the examples of keys are taken"] = function()
    for _, e in ipairs(topic("type").entries) do
      assert(#e.code > 0, e.head .. " has no example")
      passes(type_of(e.code), e.head)
    end
    for _, e in ipairs(topic("field").entries) do
      assert(#e.code > 0, e.head .. " has no example")
      local text = table.concat(e.code, "\n")
      passes(type_of { text:find("^    {") and "fields = {" .. text .. "}" or text }, e.head)
    end
    for _, e in ipairs(topic("example").entries) do
      assert(#e.code > 0, e.head .. " has no example")
      passes(type_of {
        'fields = { { name = "key", secret = true } }, endpoints = { "https://login.acme.test/token" },',
        'seal = { { method = "POST", path = "/v1/sessions", members = { "session_token" }, ttl = "expires_in" } },',
        'apply = function(req, cred) if cred.key then req.headers:set("x-key", cred.key) end end,',
        'refresh = function(cred, net, deadline)',
        '  return net.token("https://login.acme.test/token", { form = { { "key", cred.key } } }, deadline) end,',
        "examples = {" .. table.concat(e.code, "\n") .. "}",
      }, e.head)
    end
    for _, e in ipairs(topic("state").entries) do
      passes(type_of {
        'fields = { { name = "url", type = "url" } },',
        "refresh = function(cred, net, deadline)",
        '  local answer = net.request({ url = cred.url, expect = { token = "secret" } }, deadline)',
        "  return { secrets = { access_token = answer.values.token }, " .. table.concat(e.code, " "):gsub("^%s*secrets = .*$", "") .. " } end,",
        'examples = { { cred = { url = "https://a.test/" }, answers = { { body = { token = "t" } } }, want = { state = { access_token = "t" } } } }',
      }, e.head)
    end
  end,

  ["the examples of functions run, and come to what they say"] = function()
    local count, failed = 0, {}
    for _, name in ipairs { "req", "cred", "net", "secret", "sign", "form", "json", "uri", "time", "log", "lua", "lpeg", "aws" } do
      for _, e in ipairs(topic(name).entries) do
        assert(#e.code > 0, e.head .. " has no example")
        local ok, why = pcall(run, e)
        if not ok then failed[#failed + 1] = tostring(why) end
        count = count + 1
      end
    end
    assert(#failed == 0, table.concat(failed, "\n"))
    assert(count > 70, count)
  end,

  ["an example that comes to something else fails"] = function()
    assert(not pcall(run, { head = "x", code = { '    secret.hex("a") --> "62"' } }))
    assert(not pcall(run, { head = "x", code = { "    nosuch()" } }))
  end,

  ["what waits is marked"] = function()
    for _, t in ipairs(manual.topics()) do
      for _, e in ipairs(t.entries) do
        local net = e.names[1]:find("^net%.") ~= nil
        assert(net == (e.head:find("(yields)", 1, true) ~= nil), e.head)
      end
    end
  end,
}
