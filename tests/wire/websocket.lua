--- Upgrades: only to websocket, only where the entry allows it, and only after an answer that matches.
local function upgrade(host, more)
  return "GET /ws HTTP/1.1\r\nHost: " .. host .. "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" .. (more or "") .. "\r\n"
end
local switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
return {
  shared = {
    hosts = { "api.test", "post.test", "free.test", "ws.test" },
    credentials = { { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-ws" } },
                    { name = "post", type = "bearer", host = "post.test", method = { "GET", "POST" }, secrets = { token = "canary-post" } } },
    domains = { { host = "free.test" }, { host = "ws.test", method = "WEBSOCKET" } },
  },
  cases = {
    { name = "a credential without a method list allows it", send = { upgrade("api.test"), { ["until"] = "greeting" }, "ping\0\255", { ["until"] = "ping\0\255" } },
      upstream = { reply = { { steps = { switch .. "greeting", { relay = true } } } } },
      expect = { raw_has = { "HTTP/1.1 101", "greeting", "ping\0\255" }, log = { path = "/ws", status = 101 },
                 upstream = { header = { authorization = "Bearer canary-ws", upgrade = "websocket", ["sec-websocket-key"] = "dGhlIHNhbXBsZSBub25jZQ==" } } } },
    { name = "its record counts what came behind the heads", send = { upgrade("api.test"), { ["until"] = "greeting" }, "12345", { ["until"] = "12345" } },
      upstream = { reply = { { steps = { switch .. "greeting", { relay = true } } } } }, expect = { raw_has = "12345", log = { path = "/ws", up = 5, down = 13 } } },
    { name = "a domain entry with WEBSOCKET allows it", host = "ws.test", send = { upgrade("ws.test"), { ["until"] = "101" }, "hello", { ["until"] = "hello" } },
      upstream = { reply = { { steps = { switch, { relay = true } } } } }, expect = { raw_has = { "101", "hello" } } },
    { name = "a method list without WEBSOCKET does not", host = "post.test", send = upgrade("post.test"),
      expect = { status = 403, error = "method_not_allowed", upstream = "nothing" } },
    { name = "a domain entry does not unless it says so", host = "free.test", send = upgrade("free.test"),
      expect = { status = 403, error = "method_not_allowed", upstream = "nothing" } },
    { name = "a refusal of the upgrade is an answer like any other", send = upgrade("api.test"), upstream = { reply = { body = "no", status = 403 } },
      expect = { status = 403, body = "no" } },
    { name = "101 to another protocol is refused", send = upgrade("api.test"),
      upstream = { reply = { { steps = { "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", { relay = true } } } } }, expect = { status = 502 } },
    { name = "an upgrade to SPDY is refused with what helps, and does not go out as an ordinary request",
      send = "POST /api/v1/namespaces/n/pods/p/exec?command=id HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n",
      expect = { status = 400, error = "bad_request", body_has = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true", upstream = "nothing" } },
    { name = "spelt in small letters too", send = "GET /exec HTTP/1.1\r\nHost: api.test\r\nConnection: upgrade\r\nupgrade: spdy/3.1\r\n\r\n",
      expect = { status = 400, error = "bad_request", upstream = "nothing" } },
    { name = "without Connection it is no upgrade", send = "GET /x HTTP/1.1\r\nHost: api.test\r\nUpgrade: SPDY/3.1\r\n\r\n",
      expect = { status = 200, upstream = { no_header = { "upgrade" } } } },
    { name = "an answer of 200 leaves the tunnel HTTP", send = { upgrade("api.test"), { answers = 1 }, "GET /after HTTP/1.1\r\nHost: api.test\r\n\r\n" },
      upstream = { reply = { { body = "plain" }, "echo" } }, expect = { statuses = { 200, 200 }, body_has = "/after" } },
    { name = "WEBSOCKET as a method is no way in", host = "ws.test", send = "WEBSOCKET / HTTP/1.1\r\nHost: ws.test\r\n\r\n",
      expect = { raw_has = "HTTP/1.1 40", upstream = "nothing" } },
  },
}
