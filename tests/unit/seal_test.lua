-- lua/seal.lua: rows that name the secrets in an answer, and what becomes of the calls that meet them.
local http, policy, seal = require "http", require "policy", require "seal"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local function row(more)
  local out = { method = "POST", path = "/token", members = { "token" } }
  for k, v in pairs(more or {}) do out[k] = v ~= "nil" and v or nil end
  return out
end

local function compiled(more) return assert(seal.compile { row(more) })[1] end

local function refused(more, part)
  local rows, why = seal.compile { row(more) }
  assert(not rows, "was accepted: " .. part)
  assert(why:find(part, 1, true), why)
end

local function q(text, host, websocket)
  local method, path = text:match("^(%S+) (%S+)$")
  return { method = method, host = host or "api.test", websocket = websocket, readings = function() return http.path_readings(path) end }
end

local function judge(rows, mode, text, makes, host, websocket)
  return (seal.judge(assert(seal.compile(rows)), mode, q(text, host, websocket), makes))
end

local function type_of(given)
  return policy.compile("t", ('return { kind = "type", api = 1, name = "t", title = "T", apply = function() end,\n\n%s }'):format(given))
end

return {
  ["members are JSON paths, form members, header fields and cookies, each in its group"] = function()
    local r = compiled { members = { "token", { "data/a", "/data/b~1c~0d" }, "items/*/key", "json=/x" },
      optional = { "form=refresh_token", "header=X-Session_Token", "cookie=sid" } }
    local said = {}
    for i, m in ipairs(r.members) do said[i] = ("%s %s %s"):format(m[1], m[2]:gsub("%z", "|"), m.group or "-") end
    is(table.concat(said, "; "), "json token| 1; json data|a| 2; json data|b/c~d| 2; json items|*|key| 3; json x| 4; "
      .. "form refresh_token -; header x-session_token -; cookie sid -")
  end,
  ["what is no member is refused, and why"] = function()
    refused({ members = "nil" }, "does not say which members")
    for _, m in ipairs { "", "/", "a//b", "a*/b", "a/~2", "a~", "b=x", "query=a", "header=a b", "header=content-length", "header=Set-Cookie",
      "cookie=a;b", "cookie=", ("a"):rep(200), ("a/"):rep(9) .. "b", 7, true } do
      refused({ members = { m } }, "members")
      refused({ optional = { m } }, "optional")
    end
    refused({ members = {} }, "members that are no list")
    refused({ members = { { } } }, "alternatives")
    refused({ members = "token" }, "members that are no list")
    refused({ members = { "a", x = "b" } }, "members that are no list")
    local many = {}
    for i = 1, 16 do many[i] = "m" .. i end
    refused({ members = many }, "more than 15")
  end,
  ["places, hosts, ttl, shape and prefix are checked"] = function()
    local r = compiled { opens = { "authorization", "header=X-A", "query=token", "form=t", "json=/a/b", "header=Authorization" },
      hosts = { "Cdn.Test", "*.b.test" }, ttl = "data/expires_in", shape = "jwt" }
    is(#r.opens, 6)
    is(r.opens[5][2], "a\0b\0")
    is(r.opens[6][2], "authorization")
    is(table.concat(r.hosts, " "), "cdn.test *.b.test")
    is(r.ttl[2], "data\0expires_in\0")
    is(compiled().opens[1][2], "authorization")
    is(compiled { ttl = 900 }.ttl, 900)
    is(compiled { prefix = "ghs_" }.prefix, "ghs_")
    for _, place in ipairs { "Authorization: x", "body", "cookie=a", "header=", "json=/a/*/b", 1 } do refused({ opens = { place } }, "opens") end
    refused({ opens = {} }, "opens")
    for _, host in ipairs { "*", "https://a.test", "a b", 1, "" } do refused({ hosts = { host } }, "hosts") end
    for _, ttl in ipairs { 0, -1, 1.5, 1 << 40, true, "cookie=a", "a/*/b", "" } do refused({ ttl = ttl }, "ttl") end
    for _, prefix in ipairs { "a b", "", ("a"):rep(33), 5, "a/" } do refused({ prefix = prefix }, "prefix") end
    refused({ shape = "opaque" }, "shape")
    refused({ shape = "jwt", prefix = "a" }, "one of them")
    refused({ default = "yes" }, "default")
    refused({ path = "token" }, "does not begin")
    refused({ method = "post" }, "capitals")
    refused({ host = "a b" }, "malformed host")
    refused({ member = { "a" } }, "did you mean members?")
    refused({ what = "" }, "what")
  end,
  ["two rows of one call are refused; a row's number stays while its call does"] = function()
    local rows, why = seal.compile { row(), row { members = { "other" } } }
    assert(not rows and why:find("row 2 is the same call as row 1", 1, true), why)
    is(compiled().id, compiled { members = { "other" }, hosts = { "x.test" }, opens = { "query=a" } }.id)
    assert(compiled().id ~= compiled { method = "PUT" }.id and compiled().id ~= compiled { host = "a.test" }.id)
    is(compiled { method = { "GET", "POST" } }.id, compiled { method = { "POST", "GET", "HEAD" } }.id)
  end,
  ["a type says with file, line and key what is wrong with a row"] = function()
    local _, why = type_of [[seal = {
  { path = "/a", members = { "t" } },
  { path = "/b", members = { "t" },
    opens = { "body" } } }]]
    assert(why:find("policies/t.lua:6: seal row 2 has places", 1, true), why)
    _, why = type_of [[seal = { { path = "/a", members = { "t" }, mebmers = 1 } }]]
    assert(why:find("policies/t.lua:3: seal row 1 has no key 'mebmers': did you mean members?", 1, true), why)
    assert(type_of [[seal = { { path = "/a", members = { "t" } } }]].seal[1].path == "/a")
  end,
  ["a call that no row of mint has is sealed; mint=refuse beats every row; mint=allow lets all go"] = function()
    is(judge({ row() }, nil, "POST /token"), "seal")
    is(judge({ row() }, "seal", "POST /token"), "seal")
    is(judge({ row() }, "refuse", "POST /token"), "refuse")
    is(judge({ row { default = true } }, "refuse", "POST /token", "a key"), "refuse")
    is(judge({ row() }, "allow", "POST /token"), nil)
    is(judge({ row() }, nil, "GET /token"), nil)
    is(judge({ row() }, nil, "POST /other"), nil)
    is(judge({ row() }, nil, "POST /token", nil, nil, true), "refuse")
  end,
  ["a call that a row of mint has is sealed where the operator or the row says so"] = function()
    is(judge({ row() }, nil, "POST /token", "a key"), "refuse")
    is(judge({ row() }, "seal", "POST /token", "a key"), "seal")
    is(judge({ row { default = true } }, nil, "POST /token", "a key"), "seal")
    is(judge({ row() }, "seal", "POST /other", "a key"), "refuse")
  end,
  ["against a row of mint a seal row counts only by its own method and in every reading of the path"] = function()
    is(judge({ row { method = "GET" } }, "seal", "POST /token", "a key"), "refuse")
    for _, path in ipairs { "/keys/..%2ftoken", "/token;x/../keys", "/token%2f..%2fkeys", "/token/%zz" } do
      is(judge({ row() }, "seal", "POST " .. path, "a key"), "refuse")
    end
    is(judge({ row { host = "b.test" } }, "seal", "POST /token", "a key"), "refuse")
    is(judge({ row { host = "b.test" } }, "seal", "POST /token", "a key", "b.test"), "seal")
  end,
  ["where nothing stands against it, a row counts in any reading: the answer is sealed rather than not"] = function()
    for _, path in ipairs { "/x/..%2ftoken", "/TOKEN/", "/token.json", "//token", "/token/%zz" } do
      is(judge({ row() }, nil, "POST " .. path), "seal")
    end
    is(judge({ row { method = "GET" } }, nil, "POST /token"), "seal")   -- _method in its body
  end,
  ["of several rows the one that is surely met says what must be there"] = function()
    local rows = assert(seal.compile { row { method = "GET", members = { "a" } }, row { members = { "b" }, ttl = "c" } })
    local question = q "POST /token"
    local places = require("request").places
    local members = seal.members(select(2, seal.judge(rows, nil, question)), question, places)
    local said = {}
    for i, m in ipairs(members) do
      is(m[3], places.json)
      said[i] = ("%s %d%s"):format(m[4]:gsub("%z", ""), m[6], m[7] and " ttl" or "")
    end
    is(table.concat(said, "; "), "a 0; b 1; c 0 ttl")
    rows = assert(seal.compile { row { ttl = 90 } })
    is(select(2, seal.members(rows, question, places)), 90)
    is(select(2, seal.members(assert(seal.compile { row() }), question, places)), 3600)
  end,
  ["a text whose row is gone counts in Authorization alone"] = function()
    is(seal.opens(nil, { "header", "authorization" }), true)
    is(seal.opens(nil, { "query", "token" }), false)
    local r = compiled { opens = { "query=token" } }
    is(seal.opens(r, { "header", "authorization" }), false)
    is(seal.opens(r, { "query", "token" }), true)
    is(seal.opens(r, { "query", "other" }), false)
    is(seal.bodies { r }, nil)
    is(seal.bodies { compiled { opens = { "json=/a" } } }.json, true)
  end,
  ["a preset's rows come before its type's, and each call once"] = function()
    local of_type = { seal = { compiled(), compiled { path = "/b" } } }
    local list = seal.rows_of(of_type, { seal = { compiled { members = { "p" } } } })
    is(#list, 2)
    is(list[1].members[1][2], "p\0")
    is(seal.rows_of({ seal = {} }, nil), nil)
    is(seal.by_id(list, list[2].id), list[2])
    is(seal.by_id(list, 1), nil)
  end,
}
