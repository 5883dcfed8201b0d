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

-- The request of an example after these rows: { { text, secret, "place", name, from, to }… }
local function after(list, req)
  local r = require("example").request(req)
  r:strip { headers = { authorization = true } }
  local given = {}
  for i, row in ipairs(list) do
    given[i] = { row[1], secret.of(row[2]), request.places[row[3]], row[4], row[5], row[6] }
  end
  local ok, why = r:substitute(given)
  local out = ok and r:dump() or {}
  for k, v in pairs(out.headers or {}) do out.headers[k:lower()] = v end
  return out, why, r
end

local cases = {
  ["a row is read"] = function()
    local row = rows.parse "value:path=/bot{}/**"
    is(row.field .. table.concat(row.place, "|") .. tostring(row.placeholder), "valuepath=/bot{}/**nil")
    row = rows.parse "values.a-b:header=X-Key,json=/a%3Ab/0/c~1d,header=X-Key,basic:x:__PH__"
    is(row.field, "values.a-b")
    is(table.concat(row.place, "|"), "header=X-Key|json=/a%3Ab/0/c~1d|basic")
    is(row.placeholder, "x:__PH__")
  end,
  ["what is no row says so"] = function()
    for text, want in pairs {
      value = "FIELD:PLACE", [""] = "FIELD:PLACE", [":path=/{}"] = "FIELD:PLACE", ["a b:path=/{}"] = "FIELD:PLACE", ["value:"] = "names no place",
      ["value:quary=a"] = "did you mean query=key?", ["value:basic:short"] = "from 8 to 256", ["value:basic:" .. ("x"):rep(257)] = "from 8 to 256",
      ['value:basic:"quoted"'] = "letters", ["value:basic:with\nbreak"] = "letters", ["value:json=/a,b"] = "%2C",
      ["value:json=/a:b"] = "%3A", ["value:cookie=a"] = "a placeholder stands in header=NAME", ["value:basic=user"] = "takes no name",
    } do
      local value, why = rows.parse(text)
      refused(value, why, want)
    end
  end,
  ["a bare word is no place, and the answer says what to write"] = function()
    for word, want in pairs { header = "header=X-Api-Key", query = "query=key", body = "json=/auth/key or form=token", form = "form=token",
                              json = "json=/auth/key", websocket = "ws=/d/token", ws = "ws=/d/token", path = "path=/bot{}/**" } do
      local value, why = rows.parse("value:" .. word)
      refused(value, why, "the agent would choose one that comes back")
      refused(value, why, want)
      refused(nil, select(2, rows.parse("value:basic," .. word .. ":__TOKEN__")), want)
    end
  end,
  ["fields that servers repeat, or that the proxy writes, are no places"] = function()
    for _, name in ipairs { "Host", "connection", "Transfer-Encoding", "content-length", "Proxy-Authorization", "TE", "Upgrade", "X-Sallyport-Error" } do
      refused(nil, select(2, rows.parse("value:header=" .. name)), "written by the proxy itself")
    end
    for _, name in ipairs { "Origin", "access-control-request-headers", "Referer", "Cookie", "Range", "If-None-Match", "X-Request-Id", "User-Agent",
                            "Accept-Language", "Content-Type", "X-Forwarded-For", "Forwarded", "traceparent", "Sec-WebSocket-Key", "Idempotency-Key" } do
      refused(nil, select(2, rows.parse("value:header=" .. name)), name .. " is no place for a secret: ")
    end
    for _, name in ipairs { "X_Request_Id", "x-forwarded_for", "ACCESS_CONTROL_REQUEST_HEADERS", "X-Amzn-RequestId", "x-goog-request-id",
                            "X-Datadog-Trace-Id", "uber-trace-id", "X-Shop-Correlation-Id", "Last-Event-ID", "Location", "Set-Cookie" } do
      refused(nil, select(2, rows.parse("value:header=" .. name)), name .. " is no place for a secret: ")
    end
    for _, name in ipairs { "X-Api-Key", "Authorization", "Private-Token", "Sec-WebSocket-Protocol", "apikey", "X-Auth-Token", "DD-API-KEY" } do
      assert(rows.parse("value:header=" .. name), name)
    end
    refused(nil, select(2, rows.parse "value:header="), "not a header name")
    refused(nil, select(2, rows.parse "value:header=a b"), "not a header name")
  end,
  ["pointers, names and templates are strict"] = function()
    for text, want in pairs {
      ["json=auth"] = "begins with '/'", ["json="] = "begins with '/'", ["ws=/a~2"] = "~0", ["json=/a~"] = "~0", ["json=/a%00b"] = "~0",
      ["query="] = "from 1 to 128", ["form=" .. ("x"):rep(129)] = "from 1 to 128", ["query=a%0a"] = "from 1 to 128",
      ["json=" .. ("/a"):rep(33)] = "32 steps", ["path=bot{}"] = "is like /bot{}/**", ["path=/bot"] = "{} once", ["path=/{}/{}"] = "{} once",
      ["path=/{}{}"] = "cannot be a part", ["path=/a*/{}"] = "cannot be a part", ["path=/**/{}"] = "cannot be a part", ["path=/../{}"] = "cannot be a part",
      ["path=/{}?a"] = "is like", ["path=/{"] = "cannot be a part",
    } do
      refused(nil, select(2, rows.parse("value:" .. text)), want)
    end
  end,
  ["a row names a secret of the type that is set"] = function()
    local function check(name, field, set, held)
      return rows.check({ { field = field, place = { "basic" } } }, type_of(name), function(sealed) return sealed == set end, held ~= false)
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
  ["compiled, a row has its secret or the name of its token, and each place is one"] = function()
    local s, places = secret.of "s", request.places
    local rec = { rows = { { field = "client_secret", place = { "header=X-Key", "path=/{}/**" } }, { field = "access_token", place = { "json=/a~1b/~01/%2c" }, placeholder = "__TOKEN__" } },
                  secrets = { ["f/client_secret"] = s } }
    local list, all = rows.compile(rec, type_of "oauth_client_credentials", places)
    is(list[1].secret, s)
    is(list[1].place, places.header)
    is(list[1].name, "x-key")
    is(#list[2].patterns, 2)
    is(list[3].token, "access_token")
    is(list[3].name, "a/b\0~1\0,\0")
    is(all, 1 << places.header | 1 << places.path | 1 << places.json)
    is(rows.compile({}, type_of "bearer", places), nil)
  end,
  ["a bare header of before is Authorization and the type's own field"] = function()
    local function names(type, fields)
      local out = {}
      for i, row in ipairs((rows.compile({ rows = { { field = type == "api_key" and "key" or "value", place = { "header" } } }, fields = fields, secrets = {} },
        type_of(type), request.places))) do out[i] = row.name or "-" end
      return table.concat(out, " ")
    end
    is(names("substitute"), "authorization -")
    is(names("api_key"), "authorization - x-api-key")
    is(names("api_key", { header = "X-Own" }), "authorization - x-own")
    is(rows.mend { name = "x", rows = { { field = "value", place = { "header" } } } }, nil)
  end,
  ["other bare places of before are refused with the command that mends them"] = function()
    local function why(rec)
      local preset = rec.preset and require("presets").get(rec.preset)
      local list, _, why = rows.compile(rec, type_of "substitute", request.places, preset)
      is(list, nil)
      return why
    end
    refused(nil, why { name = "x", rows = { { field = "value", place = { "header", "body" }, placeholder = "__TOKEN__" }, { field = "value", place = { "basic" } } } },
      "sallyport credential set x --substitute value:header=Authorization,json=/POINTER:__TOKEN__ --substitute value:basic")
    refused(nil, why { name = "x", rows = { { field = "value", place = { "websocket", "query" } } } }, "--substitute value:ws=/POINTER,query=NAME")
    refused(nil, why { name = "bot", preset = "telegram", rows = { { field = "value", place = { "path" } } } }, "--substitute 'value:path=/bot{}/**,path=/file/bot{}/**'")
    local presets = require "presets"
    local get = presets.get
    presets.get = function() return { rows = { { field = "value", place = { "path" } } } } end   -- edited before places had names
    local ok, text = pcall(why, { name = "bot", preset = "telegram", rows = { { field = "value", place = { "path" } } } })
    presets.get = get
    assert(ok, text)
    refused(nil, text, "--substitute 'value:path=/TEMPLATE{}'")
  end,
  ["where a template stands in a path"] = function()
    local function at(template, path)
      local list, places = {}, request.places
      local compiled = rows.compile({ rows = { { field = "value", place = { "path=" .. template } } }, secrets = {} }, type_of "substitute", places)
      rows.apply(compiled[1], "t", "s", path, nil, list)
      return list[1] and path:sub(list[1][5] + 1, list[1][6])
    end
    is(at("/bot{}/**", "/botX:1/getMe"), "X:1")
    is(at("/bot{}/**", "/botX"), "X")
    is(at("/bot{}/**", "/botX/../y"), "X")
    is(at("/bot{}", "/botX/"), nil)
    is(at("/bot{}/", "/botX/"), "X")
    is(at("/bot{}/**", "/bot/x"), nil)
    is(at("/bot{}/**", "/x/botX"), nil)
    is(at("/bot{}/**", "//botX"), nil)
    is(at("/a/*/{}.json", "/a/b.c/X.json"), "X")
    is(at("/a/*/{}.json", "/a/../X.json"), nil)
    is(at("/a/*/{}.json", "/a/b%2Fc/X.json"), nil)
    is(at("/a/*/{}.json", "/a/;/X.json"), nil)
    is(at("/a.b/{}", "/a-b/X"), nil)
    is(at("/v1/{}%3Arun", "/v1/X:run"), "X")
  end,
  ["the parts of a form, where all readers agree on them"] = function()
    local TYPE, CD = "multipart/form-data; boundary=\"=-x\"", 'Content-Disposition: form-data; name="%s"'
    local function part(head, value) return ("--=-x\r\n%s\r\n\r\n%s\r\n"):format(head, value) end
    local function value(text, name, kind)
      local parts = rows.parts(kind or TYPE, text)
      local span = parts and parts[name or "k"]
      return span and (span[1] and text:sub(span[1], span[2] - 1) or "twice") or parts and "none" or nil
    end
    local k = CD:format "k"
    is(value(part(k, "v") .. "--=-x--"), "v")
    is(value(part(k, "") .. "--=-x--\r\n"), "")
    is(value(part(CD:format "a b", "1") .. part("content-type: text/plain\r\n" .. k, "2") .. "--=-x--"), "2")
    is(value(part(k, "v") .. "--=-x--", "other"), "none")
    is(value(part(k, "v") .. part(k, "w") .. "--=-x--"), "twice")
    is(value(part(k, "a\n--=-x\nb") .. "--=-x--"), "twice")
    is(value(part(k, "a\rb") .. "--=-x--"), "twice")
    for _, head in ipairs { k .. '; filename="k"', 'Content-Disposition: form-data; name=k', k .. "\r\n" .. CD:format "note", k .. "\r\nContent-Transfer-Encoding: base64",
                            'Content-Disposition: form-data; name="k"; name="note"', "X: y", k .. "\r\n folded: x", k .. "\nX: y",
                            "Content-Disposition: form-data; name*=utf-8''k", 'Content-Disposition: attachment; name="k"' } do
      is(value(part(head, "v") .. "--=-x--"), "none")
    end
    for _, text in ipairs { part(k, "v"), "x\r\n" .. part(k, "v") .. "--=-x--", part(k, "v") .. "--=-x--\r\n" .. part(k, "v"), part(k, "v") .. "--=-xy--",
                            "--=-x \r\n" .. k .. "\r\n\r\nv\r\n--=-x--", "--=-x\n" .. k .. "\n\nv\n--=-x--", "", "--=-x", "--=-x--x", "--=-x\r\n" .. k } do
      is(value(text), nil)
    end
    is(value(part(k, "v") .. "--=-x--", "k", "Multipart/Form-Data;BOUNDARY==-x"), "v")
    for _, kind in ipairs { "multipart/form-data", "multipart/form-data; boundary=", TYPE .. "; boundary=y", "multipart/form-data; boundary*=utf-8''=-x",
                            'multipart/form-data; boundary="=-x', 'multipart/form-data; boundary==-x"', "multipart/form-data; boundary=" .. ("x"):rep(71) } do
      is(value(part(k, "v") .. "--=-x--", "k", kind), nil)
    end
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
    local value, form = "s/ \"&", { ["content-type"] = "application/x-www-form-urlencoded", authorization = "Bearer __PH__", ["x-key"] = "c=__PH__", ["x-other"] = "__PH__" }
    local req = { method = "POST", url = "https://api.test/a/__PH__?b=__PH__&c=__PH__", body = "b=__PH__&c=__PH__", headers = form }
    local out = after({ { "__PH__", value, "header", "authorization" }, { "__PH__", value, "header", "x-key" }, { "__PH__", value, "query", "b" },
                        { "__PH__", value, "path", nil, 3, 9 } }, req)
    is(out.url, "https://api.test/a/s%2F%20%22&?b=s%2F%20%22%26&c=__PH__")
    is(out.headers.authorization, "Bearer s/ \"&")
    is(out.headers["x-key"], "c=s/ \"&")
    is(out.headers["x-other"], "__PH__")
    is(out.body, "b=__PH__&c=__PH__")
    out = after({ { "__PH__", value, "form", "c" } }, req)
    is(out.url, "https://api.test/a/__PH__?b=__PH__&c=__PH__")
    is(out.headers["x-key"], "c=__PH__")
    is(out.body, "b=__PH__&c=s%2F%20%22%26")
  end,
  ["a value that no header may hold is refused there, and fine elsewhere"] = function()
    local _, why = after({ { "__PH__", "a\nb", "header", "x" } }, { headers = { x = "__PH__" } })
    is(why, "header")
    is(after({ { "__PH__", "a\nb", "query", "a" } }, { url = "https://api.test/?a=__PH__" }).url, "https://api.test/?a=a%0Ab")
  end,
  ["JSON that is none: refused with a placeholder in it, else left alone"] = function()
    local json = { ["content-type"] = "application/json" }
    local _, why = after({ { "__PH__", "s", "json", "a\0" } }, { method = "POST", headers = json, body = "{\"__PH__\"" })
    is(why, "malformed")
    is(after({ { "__PH__", "s", "json", "a\0" } }, { method = "POST", headers = json, body = "{no" }).body, "{no")
    _, why = after({ { "__PH__", "\xff", "json", "0\0" } }, { method = "POST", headers = json, body = "[\"__PH__\"]" })
    is(why, "body")
  end,
  ["apply comes after the rows and wins"] = function()
    local _, _, r = after({ { "__PH__", "row", "header", "x-key" }, { "__PH__", "row", "query", "key" } }, { url = "https://api.test/?key=__PH__", headers = { ["x-key"] = "__PH__" } })
    local view = r:view()
    view.headers:set("x-key", secret.of "type")
    view.query:set("key", secret.of "type")
    local out = r:dump()
    is(out.headers["x-key"], "type")
    is(out.url, "https://api.test/?key=type")
  end,
  ["no more rows than the bound, and none without a secret or a place"] = function()
    local r = require("example").request {}
    local many = {}
    for i = 1, 65 do many[i] = { "__PH__" .. i, secret.of "s", 1 } end
    refused(pcall(r.substitute, r, many), nil, "")
    is(pcall(r.substitute, r, { { "__PH__", "plain", 1 } }), false)
    is(pcall(r.substitute, r, { { "", secret.of "s", 1 } }), false)
    is(pcall(r.substitute, r, { { "__PH__", secret.of "s", 8 } }), false)
    is(pcall(r.substitute, r, { { "__PH__", secret.of "s", -1 } }), false)
    is(pcall(r.substitute, r, {}), true)
    local rec = { rows = {} }
    for i = 1, 9 do rec.rows[i] = { field = "value", place = { "query=a", "query=b", "query=c", "query=d" }, placeholder = "__TOKEN__" } end
    refused(nil, select(2, rows.check(rec.rows, type_of "substitute", function() return true end, true)), "32 places")
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
      local r = require("example").request(req)
      local names = {}
      for _, name in ipairs(strip or {}) do names[name] = true end
      r:strip { headers = names }
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
    local r = require("example").request { url = "https://api.test/" .. text }
    r:substitute { { text, secret.of "s", request.places.path, nil, 1, 1 + #text } }
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
    for _, h in ipairs(held) do is(require("example").request({ headers = { x = h.text } }):known(set), "c") end
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
    stand_in = records.stand_in,
  }
  local http = require "http"
  local config = require("config").new {
    store = store, records = fake_records, policy = policy, policies = { load = function(name)
      if name == "match" and s.broken then return nil, "its record is damaged" end
      return type_of(name)
    end },
    sandbox = sandbox, time = w.time, keep = secret.keep, acting = secret.acting, parse_url = http.parse_url, path_readings = require("paths").ways,
    places = request.places,
  }
  s.pipeline = require("pipeline").new {
    config = config, policy = policy, policies = { load = type_of }, sandbox = sandbox, store = store, records = fake_records, time = w.time, json = require "json",
    parse_url = http.parse_url, path_readings = require("paths").ways, known = function()
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
    function req.taken() return false end
    function req.presents() return false end
    function req.view() return { headers = { set = function() end } } end
    function req.hide() return true end
    function req.sealed() return false end
    function req.scrub() end
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
