-- Traffic rules (lua/rules.lua): policies of the kind `rule` in bundles, asked about what was allowed.
local GET = "GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n"
local function post(body, kind)
  return ("POST /v1/x HTTP/1.1\r\nHost: api.test\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"):format(kind or "application/json", #body, body)
end

local probe = [[
return { kind = "rule", api = 1, name = "probe", title = "what a rule can read", body = { max = 65536 },
  on_request = function(req, ctx)
    if req.query:get("bug") then return nil + 1 end
    if req.query:get("odd") then return true end
    if req.query:get("write") then req.path = "/" end
    if req.query:get("header") then req.headers.get = nil end
    if req.query:get("long") then return deny(("x"):rep(501)) end
    if req.query:get("lines") then return deny("a\nb") end
    if req.query:get("forged") then return { reason = "x" } end
    if req.query:get("loop") then while true do end end
    if req.query:get("seen") then
      return deny(("%s %s %s %d %s %s %s %s"):format(req.method, req.scheme, req.host, req.port, req.path, ctx.agent, ctx.bundle, tostring(ctx.credential)))
    end
    local json, why = req.json()
    if json then return json.stop and deny("the body says stop") or nil end
    if req.has_body then return deny(why) end
  end }
]]

local function shared(before, more)
  local out = {
    credentials = { { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-rules-1" } } },
    domains = { { host = "open.test", method = { "GET", "POST" } } },
    servers = { other = { host = "open.test", reply = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother" } },
    policies = { { name = "probe", source = probe }, { name = "no", source = 'return { kind = "rule", api = 1, name = "no", title = "t", on_request = function() return deny("no") end }' } },
    before = before,
  }
  for k, v in pairs(more or {}) do out[k] = v end
  return out
end

local function stopped(name, query, has, more)
  local case = { name = name, send = "GET /v1/x?" .. query .. " HTTP/1.1\r\nHost: api.test\r\n\r\n",
    expect = { status = 403, error = "rule_failed", body_has = has or "rule probe: its script failed", upstream = "nothing",
      log = { decision = "deny", reason = "rule probe", error = "rule_failed", credential = "api" } } }
  for k, v in pairs(more or {}) do case[k] = v end
  return case
end

local cases = {
  { name = "what a rule has nothing against goes on, with its credential", send = GET,
    expect = { status = 200, upstream = { requests = 1, header = { authorization = "Bearer canary-rules-1" } } } },
  { name = "what it refuses is refused by its name, with its reason", send = post '{"stop": true}',
    expect = { status = 403, error = "rule_denied", body_has = "rule probe: the body says stop", upstream = "nothing",
      log = { decision = "deny", reason = "rule probe", error = "rule_denied", agent = "a", bundle = "default" } } },
  { name = "a body that it read goes on as it came", send = post '{"stop": false, "x": 1}',
    expect = { status = 200, upstream = { requests = 1, body = '{"stop": false, "x": 1}' } } },
  { name = "a member that stands twice is not read", send = post '{"stop": false, "stop": true}',
    expect = { status = 403, error = "rule_denied", body_has = "duplicate", upstream = "nothing" } },
  { name = "a body with a coding is not read",
    send = "POST /v1/x HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    expect = { status = 403, error = "rule_denied", body_has = "Content-Encoding", upstream = "nothing" } },
  { name = "a body that is longer than the rule reads is refused",
    send = post('{"x": "' .. ("x"):rep(70000) .. '"}'),
    expect = { status = 413, error = "body_too_large", body_has = "rule probe reads it", upstream = "nothing" } },
  { name = "a chunked body is read, too",
    send = "POST /v1/x HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{\"stop\": true}\r\n0\r\n\r\n",
    expect = { status = 403, error = "rule_denied", upstream = "nothing" } },
  { name = "requests without a credential are asked about as well", host = "open.test",
    send = "POST /x HTTP/1.1\r\nHost: open.test\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"stop\": true}",
    expect = { status = 403, error = "rule_denied", servers = { other = { requests = 0 } } } },
  { name = "a rule sees who asks for what", send = "GET /v1/x?seen=1 HTTP/1.1\r\nHost: api.test\r\n\r\n",
    expect = { status = 403, error = "rule_denied", body_has = "GET https api.test 443 /v1/x a default api" } },
  stopped("a bug refuses", "bug=1"),
  stopped("so does an answer that is none", "odd=1"),
  stopped("a rule cannot change the request", "write=1"),
  stopped("nor what it reads it with", "header=1"),
  stopped("a reason has a bound", "long=1"),
  stopped("a reason is one line", "lines=1"),
  stopped("a table of the rule's own is no answer", "forged=1"),
  stopped("a rule that does not end is ended", "loop=1"),
}

-- The rules that are shipped, each at a path of its own: one request that goes on, one that does not, and a way around it.
local function to(path, body, kind, more)
  return ("POST %s HTTP/1.1\r\nHost: api.test\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s"):format(path, kind or "application/json", #body, more or "", body)
end
local function shipped(rule, text, send, code)
  local allowed = not code
  cases[#cases + 1] = { name = ("%s: %s"):format(rule, text), send = send, expect = allowed and { status = 200, upstream = { requests = 1 } }
    or { status = code == "too_many" and 429 or 403, error = code, body_has = "rule " .. rule .. ":", upstream = "nothing" } }
end
shipped("models", "a model that is allowed", to("/llm/v1/messages", '{"model":"claude-haiku-1","max_tokens":10}'))
shipped("models", "another one", to("/llm/v1/messages", '{"model":"claude-opus-1","max_tokens":10}'), "rule_denied")
shipped("models", "another reading of the path", to("/llm/v1/%6dessages", '{"model":"claude-opus-1","max_tokens":10}'), "rule_denied")
shipped("models", "no bound", to("/llm/v1/chat/completions", '{"model":"claude-haiku-1"}'), "rule_denied")
shipped("gql", "a query", to("/gql", '{"query":"{ viewer { login } }"}'))
shipped("gql", "a mutation behind a query", to("/gql", '{"query":"query A { a } mutation B { b }","operationName":"A"}'), "rule_denied")
shipped("gql", "two queries in the line", to("/gql?query=%7Ba%7D&query=mutation%7Bb%7D", '{"query":"{ a }"}'), "rule_denied")
shipped("tools", "a tool that is allowed", to("/mcp", '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_x"}}'))
shipped("tools", "another one in a batch", to("/mcp", '[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"drop"}}]'), "rule_denied")
shipped("mail", "to an address that is allowed", to("/mail", '{"to":["a@acme.com"]}'))
shipped("mail", "to another one beside it", to("/mail", '{"to":["a@acme.com","b@evil.test"]}'), "rule_denied")
shipped("mail", "to another one by a form's second pair", to("/mail", "to=a%40acme.com&to=b%40evil.test", "application/x-www-form-urlencoded"), "rule_denied")
shipped("mail", "to another one in the query", to("/mail?to=a%40acme.com&to[]=b%40evil.test", "{}"), "rule_denied")
shipped("objects", "an upload", "PUT /s3/b/k HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1\r\n\r\nx")
shipped("objects", "a copy", "PUT /s3/b/k HTTP/1.1\r\nHost: api.test\r\nX-Amz-Copy-Source: /b/other\r\nContent-Length: 0\r\n\r\n", "rule_denied")
shipped("objects", "a deletion", "DELETE /s3/b/k HTTP/1.1\r\nHost: api.test\r\n\r\n", "rule_denied")
shipped("small", "a body that is longer", "POST /small HTTP/1.1\r\nHost: api.test\r\nContent-Length: 11\r\n\r\nhello world", "rule_denied")
shipped("small", "a body that tells no length", "POST /small HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "rule_denied")
cases[#cases + 1] = { name = "what would make a server see another method or path than a rule saw is taken off, each time",
  send = { "GET /mail?_method=DELETE HTTP/1.1\r\nHost: api.test\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /llm\r\n\r\n", { answers = 1 },
    "GET /mail HTTP/1.1\r\nHost: api.test\r\nX-Method-Override: DELETE\r\n\r\n", { answers = 2 } },
  expect = { statuses = { 200, 200 }, upstream = { requests = 2, head_not = { "DELETE", "X-Original-URL" } } } }
cases[#cases + 1] = { name = "and where a rule is asked about another path or method, which these would name",
  send = { "GET /other?_method=DELETE HTTP/1.1\r\nHost: api.test\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /mail\r\n\r\n", { answers = 1 },
    "GET /other HTTP/1.1\r\nHost: api.test\r\nX-Original-URL: /mail\r\n\r\n", { answers = 2 } },
  expect = { statuses = { 200, 200 }, upstream = { requests = 2, head_not = { "DELETE", "X-Original-URL", "/mail" } } } }
cases[#cases + 1] = { name = "without a credential, too", host = "open.test", send = "GET /mail HTTP/1.1\r\nHost: open.test\r\nX-HTTP-Method-Override: DELETE\r\n\r\n",
  expect = { status = 200, servers = { other = { requests = 1, head_not = "DELETE" } } } }
-- a rule on a method is asked about a POST whose body names that method, or refuses it
shipped("nodelete", "a POST", to("/items/1", '{"a":1}'))
shipped("nodelete", "a form of another method, which is cut out", to("/items/1", "a=1&_method=DELETE", "application/x-www-form-urlencoded"))
cases[#cases].expect.upstream.body = "a=1"
shipped("nodelete", "JSON that names the method", to("/items/1", '{"_method":"DELETE"}'), "rule_denied")
shipped("nodelete", "JSON that names it in other letters", to("/items/1", '{"_\\u006dethod":"DELETE"}'), "rule_denied")
shipped("nodelete", "JSON with a coding", to("/items/1", "x", nil, "Content-Encoding: gzip\r\n"), "rule_denied")
shipped("nodelete", "the method itself", "DELETE /items/1 HTTP/1.1\r\nHost: api.test\r\n\r\n", "rule_denied")
shipped("nodelete", "a file, which streams", to("/items/1", ('{"_method":"DELETE"}'):rep(2), "application/octet-stream"))

-- mcp_tools takes from lists what may not be called
local function listed(text, kind, answer, expect)
  cases[#cases + 1] = { name = "tools: " .. text, send = to("/mcp", '{"jsonrpc":"2.0","id":1,"method":"tools/list"}', nil, "Accept-Encoding: gzip\r\nMcp-Session-Id: s-1\r\n"),
    upstream = { reply = { status = 200, type = kind, headers = { ["Mcp-Session-Id"] = "s-1" }, body = answer } },
    expect = { status = 200, headers = { ["mcp-session-id"] = "s-1" }, body_has = expect, body_not = "drop",
      upstream = { header = { ["accept-encoding"] = "identity", ["mcp-session-id"] = "s-1" } } } }
end
local message = '{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"drop","title":"read_x"},{"name":"read_a"},{"name":"dr\\u006fp"},{"name":"read_b"}]}}'
listed("a list", "application/json", message, '"tools":[{"name":"read_a"},{"name":"read_b"}]')
listed("a batch", "application/json", "[" .. message .. "," .. message .. "]", '"tools":[{"name":"read_a"},{"name":"read_b"}]')
listed("a stream", "text/event-stream", "event: message\nid: 7\ndata: " .. message .. "\n\n", "id: 7\n")

-- git_branches: what git sends, and what it does not
local zero, one, two = ("0"):rep(40), ("1"):rep(40), ("2"):rep(40)
local function pkt(text) return ("%04x%s"):format(#text + 4, text) end
local function pushes(text, body, more, code, path)
  local case = { name = "pushes: " .. text,
    send = ("POST %s HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/x-git-receive-pack-request\r\n%s\r\n%s"):format(
      path or "/git/a.git/git-receive-pack", more or ("Content-Length: %d\r\n"):format(#body), body),
    expect = code and { status = code == "report" and 200 or 403, error = "rule_denied", upstream = "nothing", raw_has = "rule pushes: " }
      or { status = 200, upstream = { requests = 1, body = body } } }
  if code == "report" then case.expect.body_has = "unpack ok\n" end
  cases[#cases + 1] = case
end
local caps = "\0 report-status agent=git/2"
local fine = pkt(one .. " " .. two .. " refs/heads/agent/x" .. caps)
local main = pkt(one .. " " .. two .. " refs/heads/main")
local pack = "0000PACK" .. ("\1\2\0\255"):rep(30000)
pushes("a branch that is allowed, with its pack as it came", fine .. pack)
pushes("git's probe", "0000")
pushes("another in the same push", fine .. main .. pack, nil, "report")
pushes("another one, in a shallow push", pkt("shallow " .. one) .. fine .. main .. pack, nil, "report")
pushes("another, without a report", pkt(one .. " " .. two .. " refs/heads/main") .. pack, nil, "rule_denied")
pushes("a body with a coding", fine .. pack, "Content-Encoding: gzip\r\nContent-Length: " .. #(fine .. pack) .. "\r\n", "rule_denied")
pushes("another one behind a delimiter", fine .. "0001" .. main .. pack, nil, "rule_denied")
pushes("a signed push", pkt("push-cert" .. caps .. "\n") .. pkt "certificate version 0.1\n" .. "0000" .. pack, nil, "rule_denied")
pushes("commands that do not end", fine .. main, nil, "rule_denied")
pushes("what is no command", fine .. pkt "hello" .. pack, nil, "rule_denied")
pushes("a second list of capabilities", fine .. pkt(one .. " " .. two .. " refs/heads/agent/y\0push-options") .. pack, nil, "rule_denied")
pushes("another reading of the path", main .. pack, nil, "rule_denied", "/git/a.git/%67it-receive-pack/")
pushes("a path in other letters", main .. pack, nil, "rule_denied", "/git/a.git/Git-Receive-Pack")
pushes("a file of the repository", "x", "X: y\r\nContent-Length: 1\r\n", "rule_denied", "/git/a.git/git-receive-pack?x=1")
pushes("another in a body of pieces", nil or fine .. main .. "0000", "Transfer-Encoding: chunked\r\n", "report")
cases[#cases].send = cases[#cases].send:sub(1, -1 - #(fine .. main .. "0000")) .. (fine .. main .. "0000"):gsub(".", function(c) return "1\r\n" .. c .. "\r\n" end) .. "0\r\n\r\n"
pushes("one that is allowed in a body of pieces", fine .. pack, "Transfer-Encoding: chunked\r\n")
cases[#cases].send = cases[#cases].send:sub(1, -1 - #(fine .. pack)) .. (fine .. pack):gsub(("."):rep(997), function(c) return ("3e5\r\n%s\r\n"):format(c) end)
  :gsub("^(.*\r\n)(.*)$", function(a, rest) return a .. ("%x\r\n%s\r\n0\r\n\r\n"):format(#rest, rest) end)
shipped("none", "nothing at all", "GET /none HTTP/1.1\r\nHost: api.test\r\n\r\n", "too_many")

-- Two rules, the first of which reads before the second.
local function two_rules(name, first, second, send, has)
  local function source(of, body) return ('return { kind = "rule", api = 1, name = "%s", title = "t", %s }'):format(of, body) end
  cases[#cases + 1] = { name = name, send = send, policies = { { name = "first", source = source("first", first) }, { name = "second", source = source("second", second) } },
    before = { { "rule", "add", "first", "--type", "first" }, { "rule", "add", "second", "--type", "second" } },
    expect = { status = 403, error = "rule_denied", body_has = "rule second: " .. has, upstream = "nothing" } }
end
two_rules("what one rule could not read another one reads", "on_request = function(req) req.json() end",
  [[body = {}, on_request = function(req) local v = req.json(); if v and v.to == "x" then return deny("no x") end end]], post '{"to":"x"}', "no x")
two_rules("what one rule changes of JSON another one sees as it came", "body = {}, on_request = function(req) local v = req.json(); v.to = nil end",
  [[body = {}, on_request = function(req) local v = req.json(); if v and v.to == "x" then return deny("no x") end end]], post '{"to":"x"}', "no x")
two_rules("what one rule changes of members another one sees as they came, once",
  [[reader = "json", members = { "to" }, on_request = function(req) local m = req.members(); m.values.to = nil end]],
  [[reader = "json", members = { "to" }, on_request = function(req) return deny(#(req.members().values.to or {}) .. " found") end]], post '{"to":"x"}', "1 found")
cases[#cases + 1] = { name = "a rule that may refuse answers refuses a tunnel that nobody can read", via = "connect", host = "blind.test", domains = { { host = "blind.test", tunnel = "raw" } },
  policies = { { name = "first", source = [[return { kind = "rule", api = 1, name = "first", title = "t", on_request = function() end, on_response = function() return deny("never") end }]] } },
  before = { { "rule", "add", "first", "--type", "first" } }, servers = { blind = { host = "blind.test", plain = true, port = 443 } }, send = "ping",
  expect = { connect_status = 403, raw_has = "it reads bodies or answers", servers = { blind = "nothing" } } }

-- A rule is asked about each path that a server may route as its own, and sees a method in capitals.
for _, case in ipairs {
  { "GET /NONE/x", 429, "too_many" }, { "GET /none.json", 429, "too_many" }, { "GET /None.JSON", 429, "too_many" },
  { "GET /none.json/", 429, "too_many" }, { "GET /none.x-y", 429, "too_many" }, { "GET /nonesuch", 200 }, { "GET /none.d/x", 200 },
  { "delete /items/1", 403, "rule_denied" }, { "Delete /Items", 403, "rule_denied" }, { "GET /items/1", 200 }, { "get /v1/x?seen=1", 403, "rule_denied", "GET https api.test 443 /v1/x" },
} do
  cases[#cases + 1] = { name = case[1] .. ": as what it may be read", send = case[1] .. " HTTP/1.1\r\nHost: api.test\r\n\r\n",
    expect = { status = case[2], error = case[3], body_has = case[4], upstream = case[2] ~= 200 and "nothing" or nil } }
end
cases[#cases + 1] = { name = "post in small letters, whose body names another method",
  send = 'post /items/1 HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"_method":"DELETE"}',
  expect = { status = 403, error = "rule_denied", body_has = "names another method", upstream = "nothing" } }

return {
  shared = shared {
    { "rule", "add", "probe", "--type", "probe", "--path", "/v1", "--path", "/x" },
    { "rule", "add", "models", "--type", "llm", "--path", "/llm", "models=claude-haiku-*", "max_tokens=100" },
    { "rule", "add", "gql", "--type", "graphql", "--path", "/gql", "operations=query" },
    { "rule", "add", "tools", "--type", "mcp_tools", "--path", "/mcp", "allow=read_*" },
    { "rule", "add", "mail", "--type", "fields", "--path", "/mail", "member=to", "only=*@acme.com" },
    { "rule", "add", "objects", "--type", "s3", "--path", "/s3" },
    { "rule", "add", "small", "--type", "size", "--path", "/small", "bytes=10" },
    { "rule", "add", "pushes", "--type", "git_branches", "--path", "/git", "refs=agent/*" },
    { "rule", "add", "nodelete", "--type", "no", "--path", "/items", "--method", "DELETE" },
    { "rule", "add", "none", "--type", "rate", "--path", "/none", "requests=0" },
  },
  cases = cases,
}
