--- The three body modes: a body that streams as it came, one that `apply` gets whole, and one that passes through
-- a C filter on its way (the filters are the test binary's own: one keeps the length, one doubles it).
local function source(name, body)
  return ([[
return {
  kind = "type", api = 1, name = "%s", title = "A test's own",
  fields = { { name = "token", secret = true, required = true } },
  %s
}
]]):format(name, body)
end

local policies = {
  { name = "upper", source = source("upper", "apply = function(req, cred) req:filter('test_upper') end") },
  { name = "twice", source = source("twice", "apply = function(req, cred) req:filter('test_twice') end") },
  { name = "nofilter", source = source("nofilter", "apply = function(req, cred) req:filter('no_such') end") },
  { name = "whole", source = source("whole",
    "body = { max = 100 }, apply = function(req, cred) req.body = form { { 'was', req.body }, { 'token', cred.token } } end") },
}
policies[#policies + 1] = { name = "formstrip", source = source("formstrip",
  "body = { max = 100 }, strip = { form = { 'api_key' } }, apply = function(req, cred) req.headers:set('x-key', cred.token) end") }
local credentials, hosts = {}, {}
for _, p in ipairs(policies) do
  credentials[#credentials + 1] =
    { name = p.name, type = p.name, host = p.name .. ".test", secrets = { token = "canary-" .. p.name } }
  hosts[#hosts + 1] = p.name .. ".test"
end

-- A policy that remembers a secret: two credentials of one type, and the second must not carry the first's.
policies[#policies + 1] = { name = "stash", source = "local stash\n" .. source("stash",
  "apply = function(req, cred) if stash then req.headers:set('x-leak', stash) end stash = cred.token end") }
for _, name in ipairs { "one", "two" } do
  credentials[#credentials + 1] =
    { name = "stash-" .. name, type = "stash", host = "stash-" .. name .. ".test", secrets = { token = "canary-stash-" .. name } }
  hosts[#hosts + 1] = "stash-" .. name .. ".test"
end

local function post(host, fields, body)
  return "POST /x HTTP/1.1\r\nHost: " .. host .. "\r\n" .. fields .. "\r\n" .. body
end
local function case(name, host, send, expect, more)
  local c = { name = name, host = host, send = send, expect = expect }
  for k, v in pairs(more or {}) do c[k] = v end
  return c
end
local big = ("abcdefgh"):rep(40000)
local chunked = "5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n"

return {
  shared = { hosts = hosts, policies = policies, credentials = credentials },
  cases = {
    case("a filter that keeps the length keeps Content-Length", "upper.test",
      post("upper.test", "Content-Length: 5\r\n", "hello"),
      { status = 200, closed = false, upstream = { header = { ["content-length"] = "5" }, body = "HELLO" } }),
    case("the same for a chunked body", "upper.test", post("upper.test", "Transfer-Encoding: chunked\r\n", chunked),
      { status = 200, closed = false, upstream = { header = { ["transfer-encoding"] = "chunked" }, body = "HELLO WORLD" } }),
    case("a filter that changes the length makes the body chunked", "twice.test",
      post("twice.test", "Content-Length: 5\r\n", "hello"),
      { status = 200, closed = false,
        upstream = { header = { ["transfer-encoding"] = "chunked" }, no_header = "content-length", body = "hheelllloo" } }),
    case("a large body through a filter that doubles it", "twice.test",
      post("twice.test", "Content-Length: " .. #big .. "\r\n", big),
      { status = 200, closed = false, upstream = { body = (big:gsub(".", "%0%0")) } }, { timeout = 30 }),
    case("a filter and no body", "twice.test", "GET /x HTTP/1.1\r\nHost: twice.test\r\n\r\n",
      { status = 200, closed = false, upstream = { no_header = { "transfer-encoding", "content-length" }, body = "" } }),
    case("an empty body through a filter", "twice.test", post("twice.test", "Content-Length: 0\r\n", ""),
      { status = 200, closed = false, upstream = { body = "" } }),
    case("what a filter refuses is a 400 and no complete request", "upper.test",
      post("upper.test", "Content-Length: 5\r\n", "he!lo"), { status = 400, error = "bad_request", closed = true }, { wait = 0.5 }),
    case("a filter that is not there fails the policy", "nofilter.test",
      post("nofilter.test", "Content-Length: 5\r\n", "hello"), { status = 502, error = "policy_failed", upstream = "nothing" }),
    case("a body read whole and set anew, with a secret in it", "whole.test",
      post("whole.test", "Content-Length: 5\r\n", "a b&c"),
      { status = 200, closed = false, upstream = { header = { ["content-length"] = "30" }, body = "was=a+b%26c&token=canary-whole" } }),
    case("a chunked body read whole goes out with a length", "whole.test",
      post("whole.test", "Transfer-Encoding: chunked\r\n", chunked),
      { status = 200, closed = false, upstream = { no_header = "transfer-encoding", body = "was=hello+world&token=canary-whole" } }),
    case("100 Continue before a body that is read whole", "whole.test",
      { "POST /x HTTP/1.1\r\nHost: whole.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", { ["until"] = "100 Continue" }, "ok" },
      { status = 200, interim = 100, upstream = { no_header = "expect", body = "was=ok&token=canary-whole" } }),
    case("form fields that the type strips go, once the body is read", "formstrip.test",
      post("formstrip.test", "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 16\r\n", "api_key=mine&a=b"),
      { status = 200, closed = false, upstream = { header = { ["content-length"] = "3", ["x-key"] = "canary-formstrip" }, body = "a=b" } }),
    case("a policy may remember a secret", "stash-one.test", "GET /x HTTP/1.1\r\nHost: stash-one.test\r\n\r\n",
      { status = 200, upstream = { no_header = "x-leak" } }),
    case("and cannot send it with another credential's request", "stash-two.test",
      "GET /x HTTP/1.1\r\nHost: stash-two.test\r\n\r\n", { status = 502, error = "policy_failed", upstream = "nothing" }),
    case("a body over the type's bound", "whole.test", post("whole.test", "Content-Length: 101\r\n", ("x"):rep(101)),
      { status = 413, error = "body_too_large", closed = true, upstream = "nothing" }),
    case("a chunked body over the type's bound", "whole.test",
      post("whole.test", "Transfer-Encoding: chunked\r\n", "65\r\n" .. ("x"):rep(101) .. "\r\n0\r\n\r\n"),
      { status = 413, error = "body_too_large", closed = true, upstream = "nothing" }),
  },
}
