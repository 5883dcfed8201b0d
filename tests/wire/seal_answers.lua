--- How an answer is held and put together anew in which secrets are sealed: every framing, and what is around it.
local policy = [[
return {
  kind = "type", api = 1, name = "session", title = "x",
  fields = { { name = "token", secret = true, required = true } },
  seal = {
    { method = { "GET", "POST" }, path = "/session", members = { "token" }, optional = { "header=X-Session", "cookie=sid" }, ttl = "expires_in",
      opens = { "authorization", "header=X-Note" } },
    { method = "POST", path = "/more", members = { "header=X-Token" } },
  },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,
}
]]
local CREDENTIAL = "canary-answers-credential"
local BODY = '{"token":"canary-answers-1"}'

local function post(path, fields) return ("POST %s HTTP/1.1\r\nHost: api.test\r\n%sContent-Length: 0\r\n\r\n"):format(path or "/session", fields or "") end

-- An upstream's answer in these pieces, which the agent gets sealed.
local function sealed(name, reply, more)
  more = more or {}
  return { name = name, send = { more.ask or post(), { answers = 1 } }, upstream = { reply = reply },
    expect = { status = more.status or 200, raw_not = { "canary-", "Transfer-Encoding", "X-Trailer" }, raw_has = more.has or { '{"token":"Sp5eaL' },
      body = more.body, log = { status = more.status or 200, sealed = more.sealed or 1 }, log_never = { "canary-" } } }
end

-- One that is thrown away.
local function lost(name, reply, says, more)
  more = more or {}
  return { name = name, send = { more.ask or post(), { answers = 1 } }, upstream = { reply = reply },
    expect = { status = 502, error = "seal_failed", body_has = says, raw_not = { "canary-" }, log_never = { "canary-" },
      log = { error = "seal_failed", note = more.note == nil and "a secret was made and thrown away: the answer " .. says or more.note or nil } } }
end

local HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

local function chunked(...)
  local out = {}
  for i, piece in ipairs { ... } do out[i] = ("%x\r\n%s\r\n"):format(#piece, piece) end
  return table.concat(out)
end

return {
  shared = {
    policies = { { name = "session", source = policy } },
    hosts = { "api.test" },
    credentials = { { name = "api", type = "session", host = "api.test", secrets = { token = CREDENTIAL } } },
    agents = { { name = "a" } },
  },
  cases = {
    sealed("in chunks, with a trailer that repeats it, which goes", HEAD .. "Transfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n\r\n"
      .. chunked('{"tok', 'en":"canary-', 'answers-1"}') .. "0\r\nX-Trailer: canary-answers-1\r\n\r\n"),
    sealed("to the end of the connection", { steps = { HEAD .. "Connection: close\r\n\r\n" .. BODY, { close = true } } }),
    sealed("byte by byte", { steps = { { bytewise = HEAD .. "Content-Length: 28\r\n\r\n" .. BODY } } }),
    sealed("head and body apart", { steps = { HEAD .. "X-Copy: canary-answers-1\r\nContent-Length: 28\r\n\r\n", 0.3, BODY } },
      { has = { "X-Copy: Sp5eaL", '{"token":"Sp5eaL' } }),
    sealed("behind an interim answer that tells it, of whose fields none goes on", { steps = {
      "HTTP/1.1 103 Early Hints\r\nX-Hint: canary-answers-1\r\n\r\n", 0.1, HEAD .. "Content-Length: 28\r\n\r\n" .. BODY } }),
    sealed("in the head alone, of an answer without a body", "HTTP/1.1 204 No Content\r\nX-Token: canary-answers-1\r\nX-Other: canary-answers-1\r\n\r\n",
      { ask = post "/more", status = 204, has = { "X-Token: Sp5eaL", "X-Other: Sp5eaL" } }),
    sealed("of HEAD, which has no body and needs no member", HEAD .. "X-Session: canary-answers-2\r\nContent-Length: 28\r\n\r\n",
      { ask = "HEAD /session HTTP/1.1\r\nHost: api.test\r\n\r\n", has = { "X-Session: Sp5eaL", "Content-Length: 28" } }),
    sealed("of a redirect", "HTTP/1.1 302 Found\r\nLocation: https://api.test/next?token=canary-answers-1\r\nContent-Length: 28\r\n\r\n" .. BODY,
      { status = 302, has = { "token=Sp5eaL", '{"token":"Sp5eaL' } }),
    sealed("digests and tags of the old text go", HEAD .. "Content-Length: 28\r\nContent-MD5: x\r\nRepr-Digest: sha-256=:x:\r\nETag: \"e\"\r\nX-Stays: y\r\n\r\n" .. BODY,
      { has = { "X-Stays: y" } }),
    sealed("the credential itself is taken out too", HEAD .. "Content-Length: 60\r\n\r\n" .. '{"token":"canary-answers-1","x":"canary-answers-credential"}',
      { has = { '","x":"' } }),
    { name = "the next answer on the connection is its own",
      send = { post(), { answers = 1 }, "GET /plain HTTP/1.1\r\nHost: api.test\r\n\r\n", { answers = 2 } },
      upstream = { reply = { HEAD .. "Content-Length: 28\r\n\r\n" .. BODY, HEAD .. "Content-Length: 2\r\n\r\n{}" } },
      expect = { raw_has = { '{"token":"Sp5eaL', "\r\n\r\n{}" }, raw_not = { "canary-" }, upstream = { requests = 2 } } },
    { name = "a request like one whose decision was kept opens a text in a field that had no say then",
      send = { post(), { answers = 1 }, { keep = "t", from = '"(Sp5eaL[A-Za-z0-9_-]+)"' },
        "GET /plain HTTP/1.1\r\nHost: api.test\r\nX-Note: a\r\n\r\n", { answers = 2 }, "GET /plain HTTP/1.1\r\nHost: api.test\r\nX-Note: b\r\n\r\n", { answers = 3 },
        "GET /plain HTTP/1.1\r\nHost: api.test\r\nX-Note: ${KEPT:t}\r\n\r\n", { answers = 4 } },
      upstream = { reply = { HEAD .. "Content-Length: 28\r\n\r\n" .. BODY, HEAD .. "Content-Length: 2\r\n\r\n{}", HEAD .. "Content-Length: 2\r\n\r\n{}",
        HEAD .. "X-Back: canary-answers-1\r\nContent-Length: 28\r\n\r\n" .. BODY } },
      expect = { raw_has = { "X-Back: Sp5eaL" }, raw_not = { "canary-" }, upstream = { requests = 4, header = { ["x-note"] = "canary-answers-1" } } } },
    { name = "while the clock is not set nothing is made that would have to be sealed, for nobody knows when it ends",
      send = { post(), { answers = 1 }, { clock = -2000000000 }, 0.1, post(), { answers = 2 } }, upstream = { reply = { HEAD .. "Content-Length: 28\r\n\r\n" .. BODY } },
      expect = { statuses = { 200, 503 }, raw_has = { "this machine's clock is not set" }, raw_not = { "canary-" }, upstream = { requests = 1 } } },
    { name = "nor is what came when the clock was set no longer, which is thrown away",
      send = { "POST /session HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n\r\n", { ["until"] = "103" }, { clock = -2000000000 }, 0.1, "go", { ["until"] = "clock is not set" } },
      upstream = { read = "head", reply = { { steps = { "HTTP/1.1 103 x\r\n\r\n", { ["until"] = "go" }, HEAD .. "Content-Length: 28\r\n\r\n" .. BODY } } } },
      expect = { raw_has = { "502", "came while the clock is not set" }, raw_not = { "canary-" } } },
    { name = "304 passes", send = { "GET /session HTTP/1.1\r\nHost: api.test\r\nIf-None-Match: x\r\nIf-Modified-Since: y\r\nRange: bytes=0-1\r\n\r\n", { answers = 1 } },
      upstream = { reply = "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\n\r\n" },
      expect = { status = 304, upstream = { head_not = { "If-None-Match", "If-Modified-Since", "Range" } } } },

    lost("an empty 200", HEAD .. "Content-Length: 0\r\n\r\n", "has no token"),
    lost("a part", "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-27/100\r\nContent-Length: 28\r\n\r\n" .. BODY, "is a part of the whole"),
    lost("twice encoded", HEAD .. "Content-Encoding: identity\r\nContent-Encoding: gzip\r\nContent-Length: 28\r\n\r\n" .. BODY, "is encoded, though identity was asked for"),
    lost("chunks that are none", HEAD .. "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"toknope", "is malformed, or ended early"),
    lost("an answer that ends early", { steps = { HEAD .. "Content-Length: 30\r\n\r\n" .. BODY, { close = true } } }, "is malformed, or ended early"),
    lost("more than 1 MiB in chunks", HEAD .. "Transfer-Encoding: chunked\r\n\r\n" .. chunked('{"token":"canary-answers-1","x":"', ("y"):rep(1 << 19), ("y"):rep(1 << 19), '"}')
      .. "0\r\n\r\n", "is over 1 MiB"),
    lost("more than 1 MiB to the end", { steps = { HEAD .. "Connection: close\r\n\r\n" .. '{"token":"canary-answers-1","x":"' .. ("y"):rep(1 << 20) .. '"}', { close = true } } }, "is over 1 MiB"),
    lost("an error of which nothing can be read", "HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{\"tok", "is no JSON", { note = "the answer is no JSON" }),
    lost("101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "is an upgrade", { note = "the answer is an upgrade" }),
  },
}
