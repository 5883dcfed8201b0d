-- lua/rows.lua, what becomes of a row in a request of C's, and the placeholders that an agent holds.
local rows, policy, sandbox, request, records = require "rows", require "policy", require "sandbox", require "request", require "records"
local secret = require "secret.core"
local here = debug.getinfo(1, "S").source:match("^@(.*)/") or "."
local fake = dofile(here .. "/fake.lua")
local with_home = fake.with_home

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local function refused(value, why, want)
  if value then error("it was taken", 2) end
  if not tostring(why):find(want, 1, true) then error(("'%s' does not say '%s'"):format(tostring(why), want), 2) end
end

local function type_of(name) return assert(policy.compile(name, sandbox.default_source(name))) end

-- The request of an example after these rows: { { text, secret, "place", … }… }
local function after(list, req)
  local r = request.example(req)
  r:strip { headers = { "authorization" } }
  local given = {}
  for i, row in ipairs(list) do
    local mask = 0
    for n = 3, #row do mask = mask | request.places[row[n]] end
    given[i] = { row[1], secret.of(row[2]), mask }
  end
  local ok, why = r:substitute(given)
  local out = ok and r:dump() or {}
  for k, v in pairs(out.headers or {}) do out.headers[k:lower()] = v end
  return out, why, r
end

local cases = {
  ["a row is read"] = function()
    local row = rows.parse "value:path"
    is(row.field .. table.concat(row.place, "|") .. tostring(row.placeholder), "valuepathnil")
    row = rows.parse "values.a-b:header,body,header:x:__PH__"
    is(row.field, "values.a-b")
    is(table.concat(row.place, "|"), "header|body")
    is(row.placeholder, "x:__PH__")
  end,
  ["what is no row says so"] = function()
    for text, want in pairs {
      value = "FIELD:PLACE", [""] = "FIELD:PLACE", [":path"] = "FIELD:PLACE", ["a b:path"] = "FIELD:PLACE", ["value:"] = "names no place",
      ["value:quary"] = "did you mean query?", ["value:path:short"] = "from 8 to 256", ["value:path:" .. ("x"):rep(257)] = "from 8 to 256",
      ['value:path:"quoted"'] = "letters", ["value:path:with\nbreak"] = "letters",
    } do
      local value, why = rows.parse(text)
      refused(value, why, want)
    end
  end,
  ["a row names a secret of the type that is set"] = function()
    local function check(name, field, set, held)
      return rows.check({ { field = field, place = { "path" } } }, type_of(name), function(sealed) return sealed == set end, held ~= false)
    end
    is(check("bearer", "token", "f/token"), true)
    is(check("substitute", "values.a", "f/values/a"), true)
    is(check("oauth_client_credentials", "access_token"), true)
    local _, why = check("basic", "username", "f/username")
    refused(nil, why, "no secret of basic: it has password")
    refused(nil, select(2, check("substitute", "values", "f/values")), "no secret")
    refused(nil, select(2, check("substitute", "value.a", "f/value")), "no secret")
    refused(nil, select(2, check("bearer", "access_token")), "no secret")
    refused(nil, select(2, check("bearer", "token", nil)), "is not set")
    refused(nil, select(2, check("bearer", "token", "f/token", false)), "env=NAME")
    refused(nil, select(2, rows.check({}, type_of "substitute", nil, true)), "nothing without a row")
    is(rows.check(nil, type_of "bearer"), true)
  end,
  ["compiled, a row has its secret or the name of its token"] = function()
    local s = secret.of "s"
    local rec = { rows = { { field = "client_secret", place = { "header", "path" } }, { field = "access_token", place = { "body" }, placeholder = "__TOKEN__" } },
                  secrets = { ["f/client_secret"] = s } }
    local list, all = rows.compile(rec, type_of "oauth_client_credentials", request.places)
    is(list[1].secret, s)
    is(list[1].mask, 5)
    is(list[2].token, "access_token")
    is(all, 13)
    is(rows.compile({}, type_of "bearer", request.places), nil)
  end,
  ["a field's own placeholder comes before the credential's, and a literal before both"] = function()
    local held = { { text = "any" }, { text = "own", field = "b" } }
    is(rows.texts({ field = "a" }, held)[1], "any")
    is(#rows.texts({ field = "b" }, held), 1)
    is(rows.texts({ field = "b" }, held)[1], "own")
    is(rows.texts({ field = "b", placeholder = "lit" }, held)[1], "lit")
    held[#held + 1] = { text = "answered", field = "access_token", also = true }
    is(table.concat(rows.texts({ field = "access_token" }, held), " "), "any answered")
    is(table.concat(rows.texts({ field = "access_token", placeholder = "lit" }, held), " "), "lit answered")
    is(#rows.texts({ field = "b" }, held), 1)
  end,

  ["each place has its own escapes, and only the places named are looked at"] = function()
    local out = after({ { "__PH__", "s/ \"&", "header", "query", "path" } }, {
      method = "POST", url = "https://api.test/a/__PH__?b=__PH__", body = "__PH__",
      headers = { authorization = "Bearer __PH__", cookie = "c=__PH__", ["content-type"] = "text/plain", ["x-other"] = "y" },
    })
    is(out.url, "https://api.test/a/s%2F%20%22&?b=s%2F%20%22%26")
    is(out.headers.authorization, "Bearer s/ \"&")
    is(out.headers.cookie, "c=s/ \"&")
    is(out.headers["x-other"], "y")
    is(out.body, "__PH__")
    out = after({ { "__PH__", "s/ \"&", "body" } }, {
      method = "POST", url = "https://api.test/__PH__", body = "__PH__", headers = { cookie = "__PH__", ["content-type"] = "text/plain" },
    })
    is(out.url, "https://api.test/__PH__")
    is(out.headers.cookie, "__PH__")
    is(out.body, "s/ \"&")
  end,
  ["a value that no header may hold is refused there, and fine elsewhere"] = function()
    local _, why = after({ { "__PH__", "a\nb", "header" } }, { headers = { x = "__PH__" } })
    is(why, "header")
    is(after({ { "__PH__", "a\nb", "query" } }, { url = "https://api.test/?a=__PH__" }).url, "https://api.test/?a=a%0Ab")
  end,
  ["JSON that is none: refused with a placeholder in it, else left alone"] = function()
    local json = { ["content-type"] = "application/json" }
    local _, why = after({ { "__PH__", "s", "body" } }, { method = "POST", headers = json, body = "{\"__PH__\"" })
    is(why, "malformed")
    is(after({ { "__PH__", "s", "body" } }, { method = "POST", headers = json, body = "{no" }).body, "{no")
    _, why = after({ { "__PH__", "\xff", "body" } }, { method = "POST", headers = json, body = "[\"__PH__\"]" })
    is(why, "body")
  end,
  ["apply comes after the rows and wins"] = function()
    local _, _, r = after({ { "__PH__", "row", "header", "query" } }, { url = "https://api.test/?key=__PH__", headers = { ["x-key"] = "__PH__" } })
    local view = r:view()
    view.headers:set("x-key", secret.of "type")
    view.query:set("key", secret.of "type")
    local out = r:dump()
    is(out.headers["x-key"], "type")
    is(out.url, "https://api.test/?key=type")
  end,
  ["no more rows than the bound, and none without a secret"] = function()
    local r = request.example {}
    local many = {}
    for i = 1, 17 do many[i] = { "__PH__" .. i, secret.of "s", 1 } end
    refused(pcall(r.substitute, r, many), nil, "")
    is(pcall(r.substitute, r, { { "__PH__", "plain", 1 } }), false)
    is(pcall(r.substitute, r, { { "", secret.of "s", 1 } }), false)
    is(pcall(r.substitute, r, {}), true)
  end,

  ["known placeholders are found wherever the head has them, as it would go out"] = with_home(function()
    local function known(name, shape)
      local cred = { name = name, env = "X", placeholder = shape }
      return cred, records.held("alice", cred)[1].text
    end
    local set, store_cred, text = request.known(), known("one", "tok_{20}")
    local other_cred, other = known("two", "key:{30:hex}")
    for _, cred in ipairs { store_cred, other_cred } do records.learn(set, "alice", cred.name, records.shapes(cred)) end
    local function found(req, strip)
      local r = request.example(req)
      r:strip { headers = strip or {} }
      local all = { r:known(set) }
      table.sort(all)
      return table.concat(all, " ")
    end
    local basic = "Basic " .. require("secret").base64(other)
    is(found { url = "https://api.test/" .. text }, "one")
    is(found { url = "https://api.test/a?b=" .. other:gsub(":", "%%3A") }, "two")
    is(found { headers = { authorization = basic, x = text } }, "one two")
    is(found({ headers = { authorization = basic } }, { "authorization" }), "")
    is(found { url = "https://api.test/" .. text:sub(1, -2) .. "/p", headers = { x = text:sub(2) } }, "")
    local r = request.example { url = "https://api.test/" .. text }
    r:substitute { { text, secret.of "s", request.places.path } }
    is(r:known(set), nil)
    is(set:drop "one", 1)
    is(set:drop "one", 1)
    is(found { url = "https://api.test/" .. text, headers = { x = other } }, "two")
    records.learn(set, "alice", "one", records.shapes(store_cred))
    is(found { url = "https://api.test/" .. text }, "one")
  end),
  ["a set knows all that an agent holds, in whatever shape"] = with_home(function()
    local cred = { name = "c", env = "X", placeholder = "sk-{4}-{20:hex}-prod", env_more = { Y = "{4}{4}{4}{4}", Z = "ghp_{36}" } }
    local set = request.known()
    records.learn(set, "a", "c", records.shapes(cred))
    local held = records.held("a", cred)
    is(held[1].env .. held[2].env .. held[3].env, "XYZ")
    assert(held[1].text:find("^sk%-%w%w%w%w%-%x+%-prod$") and #held[1].text == 33, held[1].text)
    assert(held[2].text:find("^%w+$") and #held[2].text == 16, held[2].text)
    for _, h in ipairs(held) do is(request.example({ headers = { x = h.text } }):known(set), "c") end
    is(#records.held("a", { name = "c" }), 0)
    is(#records.shapes { name = "c" }, 0)
  end),
}

-- The pipeline's part: a worker's config with a store in memory.
local function world()
  local w = fake.world()
  local store = fake.store(w)
  local s = { store = store, derived = 0 }
  local fake_records = {
    settings = function() return {} end,
    placeholder = function() end,
    shapes = function(rec) return { { rec.placeholder or "", "" } } end,
    learn = function(set, agent, name)
      s.derived = s.derived + 1
      set:add(name, ("ph-%s-%s-%s"):format(agent, name, ("x"):rep(12)))
    end,
    held = function() return {} end,
  }
  local http = require "http"
  local config = require("config").new {
    store = store, records = fake_records, policy = setmetatable({ load = function(name)
      if name == "match" and s.broken then return nil, "its record is damaged" end
      return type_of(name)
    end }, { __index = policy }),
    sandbox = sandbox, time = w.time, keep = secret.keep, acting = secret.acting, parse_url = http.parse_url, path_readings = http.path_readings,
    places = request.places,
  }
  s.pipeline = require("pipeline").new {
    config = config, policy = policy, sandbox = sandbox, store = store, records = fake_records, time = w.time, json = require "json",
    parse_url = http.parse_url, path_readings = http.path_readings, known = function()
      local set = { texts = {} }
      local dropped = 0
      function set.add(_, name, text) set.texts[#set.texts + 1] = { name, text } end
      function set.drop(_, name)
        for _, t in ipairs(set.texts) do
          if t[1] == name and t[2] then t[2], dropped = nil, dropped + 1 end
        end
        return dropped
      end
      s.set, s.sets = set, (s.sets or 0) + 1
      return set
    end,
  }
  function s.credential(name, more)
    local plain = { name = name, type = "bearer", hosts = { name .. ".test" }, bundles = { "default" }, enabled = true, order = 1, env = name:upper(), fields = {} }
    for k, v in pairs(more or {}) do plain[k] = v end
    store.put("credential", name, plain, { ["f/token"] = secret.of("token-of-" .. name) })
  end
  store.put("agent", "a/alice", { name = "alice", bundles = { "default" } })
  store.put("agent", "t/hash", { agent = "alice" })
  --- A request to this host in which those of the set stand.
  function s.request(host, ...)
    local found, out = { ... }, {}
    local req = { method = "GET", scheme = "https", host = host, port = 443, path = "/", form = "tunnel", token = "hash", id = "1" }
    function req.log(_, t) out.log = t end
    function req.fail(_, status, code, message, hint) out.status, out.code, out.message, out.hint = status, code, message, hint end
    function req.forward() out.code = "forward" end
    function req.strip() end
    function req.presents() return false end
    function req.view() return { headers = { set = function() end } } end
    function req.known(_, set)
      local n = {}
      for _, t in ipairs(set.texts) do
        for _, name in ipairs(found) do
          if t[2] and t[2]:find("-" .. name .. "-", 1, true) then n[#n + 1] = t[1] end
        end
      end
      return table.unpack(n)
    end
    w.spawn(function() s.pipeline:on_request(req, req.token) end)
    w.run(1000)
    return out
  end
  return s
end

cases["a placeholder of another credential is refused, and the answer says whose it is"] = function()
  local s = world()
  s.credential "one"
  s.credential "two"
  is(s.request("one.test").code, "forward")
  is(s.request("one.test", "one").code, "forward")
  local out = s.request("one.test", "one", "two")
  is(out.status, 403)
  is(out.code, "host_not_allowed")
  is(out.log.decision, "deny")
  assert(out.message:find("credential two (TWO)", 1, true) and out.hint:find("two.test", 1, true), out.message .. out.hint)
  s.credential("both", { hosts = { "one.test", "else.test" }, order = 9 })
  is(s.request("one.test", "both").code, "forward")
end
cases["placeholders are derived once, and anew when their record changes"] = function()
  local s = world()
  s.credential "one"
  s.credential "two"
  s.credential("else", { bundles = { "not_alices" } })
  s.credential("bare", { env = false })
  s.request "one.test"
  s.request "one.test"
  is(s.derived, 2)
  is(#s.set.texts, 2)
  s.credential("two", { hosts = { "two.test", "x.test" } })
  is(s.request("one.test", "two").code, "host_not_allowed")
  is(s.derived, 2)
  s.credential("two", { placeholder = "two_{32}" })
  is(s.request("one.test", "two").code, "host_not_allowed")
  is(s.derived, 3)
  s.credential("two", { bundles = { "not_alices" } })
  is(s.request("one.test", "two").code, "forward")
  is(s.derived, 3)
  is(s.sets, 1)
end
cases["many changes at once, and very many one by one, make the set anew"] = function()
  local s = world()
  s.credential "one"
  s.request "one.test"
  for i = 1, 100 do s.credential("more" .. i) end
  is(s.request("one.test", "more100").code, "host_not_allowed")
  is(s.derived, 102)
  is(s.sets, 2)
  for i = 1, 1100 do
    s.credential("two", { placeholder = ("two%d_{32}"):format(i) })
    s.request "one.test"
  end
  is(s.request("one.test", "two").code, "host_not_allowed")
  is(s.sets, 3)
end
cases["of more than one slice each is derived once, and one more when one changes"] = function()
  local s = world()
  for i = 1, 300 do s.credential("c" .. i) end
  is(s.request("c7.test").code, "forward")
  is(s.request("c8.test", "c9").code, "host_not_allowed")
  is(s.derived, 300)
  s.credential("c9", { placeholder = "nine_{32}" })
  is(s.request("c9.test").code, "forward")
  is(s.derived, 301)
  is(s.sets, 1)
end
cases["where match.lua cannot be loaded, the request is refused, and says why"] = function()
  local s = world()
  s.credential "one"
  s.broken = true
  is(s.request("one.test").code, "policy_failed")
  s.broken = false
  s.store.put("policy", "match", {})
  is(s.request("one.test").code, "forward")
end
cases["one that was removed is text like any other"] = function()
  local s = world()
  s.credential "one"
  s.credential "two"
  is(s.request("one.test", "two").code, "host_not_allowed")
  s.credential("two", { env = false })
  is(s.request("one.test", "two").code, "forward")
end

return cases
