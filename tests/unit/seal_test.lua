-- lua/seal.lua: rows that name the secrets in an answer, and what becomes of the calls that meet them.
local http, policy, request, seal, secret = require "http", require "policy", require "request", require "seal", require "secret"

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
  return { method = method, host = host or "api.test", websocket = websocket, readings = function() return require("paths").ways(path) end }
end

local function judge(rows, mode, text, makes, host, websocket)
  return (seal.judge(assert(seal.compile(rows)), mode, q(text, host, websocket), makes))
end

local function type_of(given)
  return policy.compile("t", ('return { kind = "type", api = 1, name = "t", title = "T", apply = function() end,\n\n%s }'):format(given))
end

-- A sealed text as it reads; none that opens. kept: what stands before the mark.
local function text_of(kept, more)
  more = more or {}
  local head = (">I1I1I2I1c24c16c16I4I4"):pack(more.version or 1, more.shape or 0, more.length or #kept, 0, ("r"):rep(24), ("\xaa"):rep(16), ("\xcc"):rep(16),
    more.ends or 1234567890, more.row or 77)
  return kept .. "Sp5eaL" .. secret.base64url(head .. ("c"):rep(more.size or 20) .. ("t"):rep(16))
end

local function found(given, places)
  local out = {}
  for i, text in ipairs(seal.find(require("example").request(given), places) or { { place = "many", text = "" } }) do
    out[i] = ("%s %s"):format(text.place, text.text == text_of "" and "T" or text.text)
  end
  return table.concat(out, ", ")
end

return {
  ["a text reads as what it is bound to"] = function()
    local t, behind = seal.read("a " .. text_of("ghs_", { row = 9 }) .. " b")
    is(t.text, text_of("ghs_", { row = 9 }))
    is(("a " .. text_of("ghs_", { row = 9 }) .. " b"):sub(behind), " b")
    is(t.kept .. " " .. t.agent:sub(1, 4) .. " " .. t.credential:sub(1, 4) .. " " .. t.ends .. " " .. t.row .. " " .. t.shape, "ghs_ aaaa cccc 1234567890 9 opaque")
    is(seal.read(text_of("h.p.", { shape = 1 })).shape, "jwt")
    for _, none in ipairs { "", "Sp5eaL", "Sp5eaLAAAA", text_of("", { version = 2 }), text_of("", { shape = 2 }), text_of("", { length = 1 }), text_of(""):sub(1, 119) } do
      is(seal.read(none), nil)
    end
    is(seal.read("Sp5eaL " .. text_of "").text, text_of "")
    is(select(2, request.unseal(text_of "", { agent = ("a"):rep(32), agent_epoch = 1, credential = ("c"):rep(32), credential_epoch = 2 })), "unsealable")
    is(select(2, request.unseal("x", { agent = ("a"):rep(32), agent_epoch = 1, credential = ("c"):rep(32), credential_epoch = 2 })), "unsealable")
    is(pcall(request.unseal, text_of "", { agent = "a", agent_epoch = 1, credential = ("c"):rep(32), credential_epoch = 2 }), false)
  end,
  ["texts are found in the places that are named, and nowhere else"] = function()
    local T, url = text_of "", "https://api.test/"
    is(found({ url = url, headers = { Authorization = "Bearer " .. T, ["X-A"] = T } }, { { "header", "authorization" } }), "1 T")
    is(found({ url = url, headers = { Authorization = "Basic " .. secret.base64("x:" .. T), ["X-A"] = T } }, { { "header", "x-a" }, { "header", "authorization" } }), "1 T, 2 T")
    is(found({ url = url, headers = { Cookie = "a=" .. T .. "; b=" .. T } }, { { "header", "cookie" } }), "1 T, 1 T")
    is(found({ url = url .. "?a=" .. T .. "&b=" .. T }, { { "query", "b" }, { "query", "c" } }), "1 T")
    is(found({ url = url .. "?%62=x%20" .. T }, { { "query", "b" } }), "1 T")
    local form = { ["Content-Type"] = "application/x-www-form-urlencoded" }
    is(found({ method = "POST", url = url, headers = form, body = "a=1&refresh_token=" .. T }, { { "form", "refresh_token" }, { "json", "a\0" } }), "1 T")
    local json = { ["Content-Type"] = "application/json" }
    is(found({ method = "POST", url = url, headers = json, body = '{"a":{"b":["x","' .. T .. '"]},"c":"' .. T .. '"}' }, { { "json", "a\0b\0001\0" }, { "form", "a" } }), "1 T")
    is(found({ method = "POST", url = url, headers = json, body = '{"a":"' .. T .. '"' }, { { "json", "a\0" } }), "")
    is(found({ method = "POST", url = url, headers = json, body = '["' .. T .. '"]' }, { { "json", "a\0" }, { "json", "0\0" } }), "2 T")
    is(found({ method = "POST", url = url, body = '{"a":"' .. T .. '"}' }, { { "json", "a\0" } }), "")
    is(found({ url = url, headers = { Cookie = (T .. " "):rep(5) } }, { { "header", "cookie" } }), "many ")
    is(require("example").request({ url = url, headers = { ["X-A"] = T } }):sealed(), true)
    is(require("example").request({ url = url, headers = { ["X-A"] = T:gsub("Sp5eaL", "sp5eaL") } }):sealed(), false)
    is(require("example").request({ url = url, headers = { Authorization = "Basic " .. secret.base64("x:" .. T) } }):sealed(), true)
  end,
  ["a pair whose value is a sealed text is no key of the agent's; what only has one in it is"] = function()
    local function left(query)
      local r = require("example").request { url = "https://api.test/?" .. query }
      r:strip { query = { "key", "_method" } }
      return (r:dump().url:gsub("^https://api.test/%??", ""):gsub("Sp5eaL.*", "T"))
    end
    is(left("key=" .. text_of ""), "key=T")
    is(left("key=" .. text_of "ghs_"), "key=ghs_T")
    is(left("key=mine"), "")
    is(left("_method=" .. text_of "DELETE;x="), "")
    is(left("_method=" .. text_of "DELETE%00"), "")
    is(left("_method=" .. text_of "DELETE+"), "")
  end,
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
  ["a text that is nothing but marks is read in one pass, by both readers"] = function()
    local head, bound = "AQAAAA" .. ("A"):rep(86), { agent = ("0"):rep(32), agent_epoch = 1, credential = ("0"):rep(32), credential_epoch = 1 }
    is(seal.read(("Sp5eaL"):rep(99) .. "." .. "Sp5eaL" .. head .. ("A"):rep(22)).row, 0)
    is(seal.read(("Sp5eaL"):rep(100) .. "." .. "Sp5eaL" .. head .. ("A"):rep(22)), nil)   -- 100 marks are looked at
    -- one pass takes milliseconds; squares would take minutes, which no test has
    for _, mark in ipairs { "Sp5eaL", "Sp5eaL" .. head:sub(1, 91) .. ".", "Sp5eaLAQIA" .. head:sub(5), "Sp5eaLAQD_" .. head:sub(5) } do
      local long = mark:rep((1 << 20) // #mark)
      is(seal.read(long), nil)
      is((request.unseal(long, bound)), nil)
    end
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
