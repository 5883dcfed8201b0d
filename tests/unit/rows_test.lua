-- lua/rows.lua, what becomes of a row in a request of C's, and the placeholders that an agent holds.
local rows, policy, sandbox, request, records = require "rows", require "policy", require "sandbox", require "request", require "records"
local secret = require "secret.core"
local here = debug.getinfo(1, "S").source:match("^@(.*)/") or "."
local fake = dofile(here .. "/fake.lua")

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

  ["known placeholders are found wherever the head has them, as it would go out"] = function()
    local set = request.known()
    set:add("tok_abcdefghijklmnop", 20)
    set:add("key:ABCDEFGH12345678", 20)
    local function found(req, strip)
      local r = request.example(req)
      r:strip { headers = strip or {} }
      local all = { r:known(set) }
      table.sort(all)
      return table.concat(all, " ")
    end
    is(found { url = "https://api.test/tok_abcdefghijklmnop" }, "1")
    is(found { url = "https://api.test/a?b=key%3AABCDEFGH1234567%38" }, "2")
    is(found { headers = { authorization = "Basic a2V5OkFCQ0RFRkdIMTIzNDU2Nzg=", x = "tok_abcdefghijklmnop" } }, "1 2")
    is(found({ headers = { authorization = "Basic a2V5OkFCQ0RFRkdIMTIzNDU2Nzg=" } }, { "authorization" }), "")
    is(found { url = "https://api.test/tok_abcdefghijklmno/p", headers = { x = "ok_abcdefghijklmnop" } }, "")
    local r = request.example { url = "https://api.test/tok_abcdefghijklmnop" }
    r:substitute { { "tok_abcdefghijklmnop", secret.of "s", request.places.path } }
    is(r:known(set), nil)
  end,
  ["what tells a placeholder from others ends in its longest random part"] = function()
    local function stop(shape)
      local template = records.shape(shape)
      local store = require "store"
      local was = store.derive
      store.derive = function(_, n) return ("\0"):rep(n) end
      local held = records.held("a", { name = "c", env = "X", placeholder = template })
      store.derive = was
      return held[1].stop, held[1].text
    end
    local at, text = stop "sk-{4}-{20:hex}-prod"
    is(text:sub(1, at), "sk-AAAA-00000000000000000000")
    is(stop "{4}{4}{4}{4}", 8)
    is((stop "ghp_{36}"), 40)
    is(#records.held("a", { name = "c" }), 0)
  end,
}

-- The pipeline's part: a worker's config with a store in memory.
local function world()
  local w = fake.world()
  local store = fake.store(w)
  local s = { store = store, derived = 0 }
  local fake_records = {
    settings = function() return {} end,
    placeholder = function() end,
    held = function(agent, rec)
      s.derived = s.derived + 1
      return { { text = ("ph-%s-%s-%s"):format(agent, rec.name, ("x"):rep(12)), stop = 8 } }
    end,
  }
  local http = require "http"
  local config = require("config").new {
    store = store, records = fake_records, policy = setmetatable({ load = function(name) return type_of(name) end }, { __index = policy }),
    sandbox = sandbox, time = w.time, keep = secret.keep, acting = secret.acting, parse_url = http.parse_url, path_readings = http.path_readings,
    places = request.places,
  }
  s.pipeline = require("pipeline").new {
    config = config, policy = policy, sandbox = sandbox, store = store, records = fake_records, time = w.time, json = require "json",
    parse_url = http.parse_url, path_readings = http.path_readings, known = function()
      local set = { texts = {} }
      function set.add(_, text) set.texts[#set.texts + 1] = text end
      s.set = set
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
      for i, text in ipairs(set.texts) do
        for _, name in ipairs(found) do
          if text:find("-" .. name .. "-", 1, true) then n[#n + 1] = i end
        end
      end
      return table.unpack(n)
    end
    s.pipeline:on_request(req)
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
  is(s.derived, 3)
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
