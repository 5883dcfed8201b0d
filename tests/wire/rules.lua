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
    policies = { { name = "probe", source = probe } },
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

return {
  shared = shared { { "rule", "add", "probe", "--type", "probe" } },
  cases = cases,
}
