--- The limits in time, set to a second here: what is dead ends, the record says which side stalled, and a credential's own
-- limit counts before the setting.
local function get(host, path) return "GET " .. (path or "/x") .. " HTTP/1.1\r\nHost: " .. host .. "\r\n\r\n" end
local function reply(...) return { reply = { { steps = { ... } } } } end
local chunked = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
local ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
local upgrade = "GET /ws HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
local switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
local function post(framing) return "POST /x HTTP/1.1\r\nHost: api.test\r\n" .. framing .. "\r\n\r\n" end
local megabyte = ("x"):rep(65536)

local function kept(name, announced, pause, method, connections)
  return { name = name, workers = 1, upstream = { reply = ok .. announced .. "\r\nok" },
    send = { get("api.test"), { answers = 1 }, pause, method .. " /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n\r\n" },
    expect = { statuses = { 200, 200 }, upstream = { requests = 2, connections = connections } } }
end

return {
  shared = {
    hosts = { "api.test", "long.test" },
    credentials = {
      { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-limits" } },
      { name = "long", type = "bearer", host = "long.test", ["answer-timeout"] = "10m", ["idle-timeout"] = "2h", secrets = { token = "canary-long" } },
    },
    set = { ["answer-timeout"] = "1s", ["idle-timeout"] = "1s" },
    domains = { { host = "blind.test", tunnel = "raw" } },
    servers = { blind = { host = "blind.test", plain = true, port = 443, at_connect = "echo" } },
  },
  cases = {
    { name = "no answer in time", send = get("api.test"), upstream = reply(30),
      expect = { status = 504, error = "upstream_timeout", body_has = "did not answer in time", log = { path = "/x", status = 504, error = "upstream_timeout" } } },
    { name = "an answer that is only slow, of a credential with a longer limit", host = "long.test", send = get("long.test"), upstream = { delay = 2.5 },
      expect = { status = 200, after = 2.4 } },
    { name = "interim answers count as life", send = get("api.test"),
      upstream = reply("HTTP/1.1 102 Processing\r\n\r\n", 0.6, "HTTP/1.1 102 Processing\r\n\r\n", 0.6, "HTTP/1.1 102 Processing\r\n\r\n", 0.6, ok .. "\r\nok"),
      expect = { status = 200, body = "ok" } },
    { name = "a stream that goes silent", send = get("api.test", "/silent"), upstream = reply(chunked, 30),
      expect = { status = 200, truncated = true, closed = true, log = { path = "/silent", status = 200, error = "upstream_timeout" } } },
    { name = "a stream that is silent for a while, of a credential with a longer limit", host = "long.test", send = get("long.test"),
      upstream = reply(chunked, 2.5, "4\r\nlast\r\n0\r\n\r\n"), expect = { status = 200, body = "firstlast" } },
    { name = "an answer until the end that is silent for a while", host = "long.test", send = get("long.test"),
      upstream = reply("HTTP/1.1 200 OK\r\n\r\nfirst", 2.5, "last", { close = true }), expect = { status = 200, body = "firstlast" } },
    { name = "a body of known length that stops", send = get("api.test", "/half"), upstream = reply("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", 30),
      expect = { status = 200, truncated = true, closed = true, log = { path = "/half", error = "upstream_timeout" } } },
    { name = "a client that stops reading a body of known length", send = { get("api.test", "/unread"), { unread = 3.5 }, { close = true } },
      upstream = reply("HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n", { ["repeat"] = megabyte, times = 1024 }),
      expect = { log = { path = "/unread", status = 200, error = "client_timeout" } } },
    { name = "a client that stops reading a stream", send = { get("api.test", "/unread2"), { unread = 3.5 }, { close = true } },
      upstream = reply("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", { ["repeat"] = megabyte, times = 1024 }),
      expect = { log = { path = "/unread2", status = 200, error = "client_timeout" } } },
    { name = "a client whose body stops", send = post("Content-Length: 100") .. "half",
      expect = { status = 408, error = "client_timeout", closed = true, log = { status = 408, error = "client_timeout" }, upstream = { requests = 0, cut = 1 } } },
    { name = "a client whose chunked body stops", send = post("Transfer-Encoding: chunked") .. "4\r\nhalf\r\n",
      expect = { status = 408, error = "client_timeout", closed = true, upstream = { requests = 0, cut = 1 } } },
    { name = "an upstream that stops reading", send = { post("Content-Length: 67108864"), { ["repeat"] = megabyte, times = 400 } }, upstream = { read = "none", reply = { { steps = { 30 } } } },
      expect = { log = { method = "POST", error = "upstream_timeout" } } },
    { name = "a WebSocket that is silent", send = { upgrade, { ["until"] = "101" } }, upstream = reply(switch, { relay = true }),
      expect = { closed = true, raw_has = "101", log = { path = "/ws", status = 101, error = "idle_timeout" } } },
    { name = "a tunnel that is silent", via = "connect", host = "blind.test", send = { "ping", { ["until"] = "ping" } },
      expect = { closed = true, log = { host = "blind.test", status = 200, error = "idle_timeout" } } },

    kept("an idle connection is used again", "", 0.3, "POST", 1),
    kept("not past what its server announced, less a second", "Keep-Alive: timeout=2\r\n", 1.6, "POST", 2),
    kept("one announced for a second is not kept", "Keep-Alive: timeout=1\r\n", 0.1, "POST", 2),
    kept("nor for a GET", "Keep-Alive: timeout=1, max=9\r\n", 0.1, "GET", 2),
    kept("one announced for long is", "Keep-Alive: timeout=300\r\n", 0.3, "POST", 1),
  },
}
