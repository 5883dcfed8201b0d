--- What is kept of a request's decision: the next like it is not judged again, and any of what decides being another
-- makes it be. x-n counts how often the type's apply ran for a credential.
local SOURCE = [[
local n = {}
return {
  kind = "type", api = 1, name = "counted", title = "Counts", pure = true,
  fields = { { name = "token", secret = true, required = true }, { name = "word", default = "w" } },
  carriers = { query = { "access_token" } },
  apply = function(req, cred)
    n[cred.word] = (n[cred.word] or 0) + 1
    req.headers:set("authorization", "Bearer " .. cred.token)
    req.headers:set("x-n", n[cred.word])
  end,
}
]]
local READS = [[
return {
  kind = "type", api = 1, name = "%s", title = "Says that it is pure, and reads", pure = true,
  fields = { { name = "token", secret = true, required = true } },
  apply = function(req, cred) req.headers:set("x-seen", %s) end,
}
]]
local credentials, hosts, cases = {}, {}, {}

local function credential(type, more)
  local n = #credentials + 1
  local c = { name = "c" .. n, type = type, host = ("c%d.test"):format(n), secrets = { token = ("canary-kept-%d"):format(n) },
    fields = type == "counted" and { word = "w" .. n } or nil }
  for k, v in pairs(more or {}) do c[k] = v end
  credentials[n], hosts[n] = c, c.host
  return c
end

-- "GET /x" and fields; %s is the host.
local function request(c, line, fields, body)
  return ("%s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n%s"):format(line, c.host, fields or "", body and ("Content-Length: %d\r\n"):format(#body) or "", body or "")
end

-- The first is sent three times, which is judged once; then the second, with a step between.
local function case(name, first, second, want, more)
  more = more or {}
  local c = more.credential or credential("counted", more.record)
  local one = request(c, first[1], first[2], first[3])
  local send = { one, { answers = 1 }, one, { answers = 2 }, one, { answers = 3 } }
  for _, step in ipairs(more.steps and more.steps(c) or {}) do send[#send + 1] = step end
  send[#send + 1] = request(c, (second or first)[1], (second or first)[2], (second or first)[3])
  local header = { authorization = "Bearer " .. c.secrets.token, ["x-n"] = "1" }
  for k, v in pairs(want.header or {}) do header[k] = v end
  cases[#cases + 1] = { name = name, host = c.host, token = more.token, send = send, expect = want.expect or {
    statuses = { 200, 200, 200, 200 }, log = want.log, upstream = { requests = 4, header = header, no_header = want.no_header, head_not = want.head_not, body = want.body },
  } }
end

local again, judged = { header = { ["x-n"] = "1" } }, { header = { ["x-n"] = "2" } }
local function refused(status, code, more)
  local e = { statuses = { 200, 200, 200, status }, error = code, upstream = { requests = 3 } }
  for k, v in pairs(more or {}) do e[k] = v end
  return { expect = e }
end
local function plus(t, more)
  local out = { header = t.header }
  for k, v in pairs(more) do out[k] = v end
  return out
end

local get = { "GET /a" }
case("the same request", get, get, again)
case("another path", get, { "GET /b/c" }, again)
case("another value of a field that says nothing", { "GET /a", "X-A: 1\r\n" }, { "GET /a", "X-A: 2\r\n" }, plus(again, { header = { ["x-a"] = "2", ["x-n"] = "1" } }))
case("another method", get, { "HEAD /a" }, judged)
case("a field more", get, { "GET /a", "X-A: 1\r\n" }, judged)
case("a field in another place", { "GET /a", "X-A: 1\r\nX-B: 1\r\n" }, { "GET /a", "X-B: 1\r\nX-A: 1\r\n" }, judged)
case("a query", get, { "GET /a?x=1" }, judged)
case("another value in the query", { "GET /a?x=1&y=2" }, { "GET /a?x=3&y=4" }, again)
case("another name in the query", { "GET /a?x=1" }, { "GET /a?z=1" }, judged)
case("a pair more", { "GET /a?x=1" }, { "GET /a?x=1&y=1" }, judged)
case("a pair less", { "GET /a?x=1&y=1" }, { "GET /a?x=1" }, judged)
case("a key of the agent's own behind a semicolon", { "GET /a?x=1" }, { "GET /a?x=1;access_token=mine" }, plus(judged, { head_not = "mine" }))
case("a key of the agent's own in the query", { "GET /a?x=1" }, { "GET /a?access_token=mine" }, plus(judged, { head_not = "mine" }))
case("a key of the agent's own in a field", get, { "GET /a", "X-Api-Key: mine\r\n" }, plus(judged, { head_not = "mine", log = { stripped = "x-api-key" } }))
case("keys of its own are not kept", { "GET /a", "X-Api-Key: mine\r\n" }, { "GET /a", "X-Api-Key: mine\r\n" },
  { header = { ["x-n"] = "4" }, head_not = "mine", log = { stripped = "x-api-key" } })
case("what Connection names", { "GET /a", "Connection: keep-alive\r\nX-A: 1\r\n" }, { "GET /a", "Connection: x-a\r\nX-A: 1\r\n" },
  plus(judged, { no_header = "x-a" }))
case("and what it no longer names", { "GET /a", "Connection: x-a\r\nX-A: 1\r\n" }, { "GET /a", "Connection: keep-alive\r\nX-A: 1\r\n" },
  { header = { ["x-n"] = "2", ["x-a"] = "1" } })
local json, form = "Content-Type: application/json\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"
case("another body", { "POST /a", json, "{}" }, { "POST /a", json, "[1]" }, plus(again, { body = "[1]" }))
case("a body that is a form, with a key of the agent's own", { "POST /a", json, "a=1&access_token=mine" }, { "POST /a", form, "a=1&access_token=mine" },
  refused(403, "foreign_credential"))
case("an empty body", { "POST /a", json, "{}" }, { "POST /a", json, "" }, judged)

local held = "Authorization: Bearer ${ENV:HELD_%d}\r\n"
local function holder()
  return credential("counted", { env = ("HELD_%d"):format(#credentials + 1) })
end
local c = holder()
local own = { "GET /a", held:format(#credentials) }
case("its placeholder", own, own, again, { credential = c })
c = holder()
case("another key in its placeholder's place", { "GET /a", held:format(#credentials) }, { "GET /a", "Authorization: Bearer mine\r\n" },
  plus(judged, { log = { stripped = "authorization" } }), { credential = c })
holder()
case("another credential's placeholder in a field", { "GET /a", "X-A: 1\r\n" }, { "GET /a", ("X-A: ${ENV:HELD_%d}\r\n"):format(#credentials) },
  refused(403, "host_not_allowed"))
case("and in the query", { "GET /a?x=1" }, { "GET /a?x=${ENV:HELD_23}" }, refused(403, "host_not_allowed"))

local long = { "GET /a?x=" .. ("1"):rep(9000) }
case("a long query is not kept", long, long, { header = { ["x-n"] = "4" } })

local function cli(...)
  local args = { ... }
  return function(c_)
    local out = {}
    for i, a in ipairs(args) do out[i] = a == "NAME" and c_.name or a == "HOST" and c_.host or a end
    return { { cli = out } }
  end
end
case("a changed field of the credential", get, get, { header = { ["x-n"] = "1" } }, { steps = cli("credential", "set", "NAME", "word=other") })
case("a changed method list", get, get, refused(403, "method_not_allowed"), { steps = cli("credential", "set", "NAME", "--method", "POST") })
case("a credential that is disabled", get, get, refused(403, "service_disabled"), { steps = cli("credential", "disable", "NAME") })
case("a credential that is removed", get, get, refused(403, "host_not_allowed"), { steps = cli("credential", "remove", "NAME") })
case("a credential's further field", get, get, plus(judged, { header = { ["x-n"] = "2", ["x-more"] = "m" } }),
  { steps = cli("credential", "set", "NAME", "headers.X-More=m") })
case("something else that changes", get, get, judged, { steps = cli("domain", "add", "default", "elsewhere.test") })
case("a policy that is edited", get, get, { header = { ["x-n"] = "new" } },
  { steps = function() return { { policy = { name = "counted", source = (SOURCE:gsub('"x%-n", n%[cred%.word%]', '"x-n", "new"')) } } } end })
case("the policy as it was", get, get, again,
  { steps = function() return { { policy = { name = "counted", source = SOURCE } } } end })
case("an agent that is revoked", get, get, refused(403, "agent_unknown", { closed = true }), { token = "gone", steps = cli("agent", "revoke", "gone") })
case("an agent that is disabled", get, get, refused(403, "agent_unknown", { closed = true }), { token = "off", steps = cli("agent", "disable", "off") })
c = credential("counted", { bundle = "third" })
case("a bundle that is disabled", get, get, refused(403, "host_not_allowed"), { credential = c, token = "third", steps = cli("bundle", "disable", "third") })
case("an agent whose time is over", get, get, refused(403, "agent_unknown", { closed = true }),
  { token = "short", steps = function() return { { clock = 4000 }, 0.2 } end })
case("an agent that lost the bundle", get, get, refused(403, "host_not_allowed"), { token = "less", steps = cli("agent", "set", "less", "--bundle", "second") })

-- What apply reads is seen, whatever the type says of itself.
for name, expression in pairs { path = "req.path", query = "req.query:get('x')", header = "req.headers:get('x-a')", method = "req.method",
    names = "table.concat(req.headers:names())" } do
  local id = "reads_" .. name
  local reads = credential(id)
  reads.source = READS:format(id, expression)
  local first, second = request(reads, "GET /a?x=1", "X-A: 1\r\n"), request(reads, "GET /b?x=2", "X-A: 2\r\n")
  local seen = { path = "/b", query = "2", header = "2", method = "GET", names = "x-a" }
  cases[#cases + 1] = { name = "a type that reads: " .. name, host = reads.host, send = { first, { answers = 1 }, first, { answers = 2 }, second },
    expect = { statuses = { 200, 200, 200 }, upstream = { requests = 3, header = { ["x-seen"] = seen[name] } } } }
end
for _, word in ipairs { "time.wall()", "sign.nonce()" } do
  cases[#cases + 1] = { name = "a type that is not pure: " .. word, host = "c1.test", send = "GET /a HTTP/1.1\r\nHost: c1.test\r\n\r\n",
    refuse = { name = "moves", source = READS:format("moves", word), why = "is not pure" }, expect = { status = 200 } }
end

-- A token is attached as long as it is fresh, and its state is what it was.
local function token(n) return ('{"access_token":"canary-kept-t%d","token_type":"bearer","expires_in":3601}'):format(n) end
local function oauth(name, steps, more)
  local line = "GET /a HTTP/1.1\r\nHost: api.test\r\n\r\n"
  local send = { line, { answers = 1 }, line, { answers = 2 }, line, { answers = 3 } }
  for _, step in ipairs(steps) do send[#send + 1] = step end
  send[#send + 1] = line
  local c = { name = name, host = "api.test", workers = 1, send = send, servers = { auth = { host = "auth.test" } }, hosts = { "api.test" },
    credentials = { { name = "crm", type = "oauth_client_credentials", host = "api.test",
      fields = { token_url = "https://auth.test/token", client_id = "i" }, secrets = { client_secret = "canary-kept-s" } } },
    agents = { { name = "a" } }, policies = {}, bundles = {}, canaries = { "canary-kept-t1", "canary-kept-t2" }, token_endpoint = { token(1), token(2) },
    expect = { statuses = { 200, 200, 200, 200 }, token_requests = 2, upstream = { requests = 4, header = { authorization = "Bearer canary-kept-t2" } } } }
  for k, v in pairs(more or {}) do c.expect[k] = v end
  cases[#cases + 1] = c
end
oauth("a fresh token", {}, { token_requests = 1, upstream = { requests = 4, header = { authorization = "Bearer canary-kept-t1" } } })
oauth("a token that has ended", { { clock = 4000 }, 0.2 })
oauth("a token that its credential no longer earned", { { cli = { "credential", "set", "crm", "client_id=j" } } })
oauth("another field of the request", { "GET /b HTTP/1.1\r\nHost: api.test\r\nX-A: 1\r\n\r\n", { answers = 4 } },
  { statuses = { 200, 200, 200, 200, 200 }, token_requests = 1, upstream = { requests = 5, header = { authorization = "Bearer canary-kept-t1" } } })

local policies = { { name = "counted", source = SOURCE } }
for _, one in ipairs(credentials) do
  if one.source then
    policies[#policies + 1] = { name = one.type, source = one.source }
    one.source = nil
  end
end
return {
  shared = {
    workers = 1, hosts = hosts, credentials = credentials, policies = policies, bundles = { "second", "third" },
    agents = { { name = "a" }, { name = "gone" }, { name = "off" }, { name = "third", bundles = { "third" } }, { name = "short", ttl = "1h" }, { name = "less", bundles = { "default", "second" } } },
  },
  cases = cases,
}
