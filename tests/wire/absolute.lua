--- https in absolute form on the proxy port (axios up to 1.15): the same request as in a tunnel. And what absolute form
-- means for Host, empty ports, OPTIONS and Max-Forwards (RFC 9112 3.2, RFC 9110 7.6.2).
local function send(method, url, fields, body)
  return method .. " " .. url .. " HTTP/1.1\r\nHost: api.test\r\n${AUTH}" .. (fields or "") .. "\r\n" .. (body or "")
end
local ours = { authorization = "Bearer canary-absolute", ["proxy-authorization"] = nil }
local function via(name, steps, expect, more)
  local case = { name = name, via = "proxy", send = steps, expect = expect }
  for k, v in pairs(more or {}) do case[k] = v end
  return case
end
local key = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
local switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
local ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

return {
  shared = {
    hosts = { "api.test", "path.test", "blind.test" },
    credentials = {
      { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-absolute" } },
      { name = "path", type = "bearer", host = "path.test", path = "/v1", method = { "GET", "OPTIONS" }, secrets = { token = "canary-path" } },
    },
    domains = { { host = "plain.test", port = 80, method = { "GET", "OPTIONS", "POST" } }, { host = "blind.test", tunnel = true } },
    servers = { plain = { host = "plain.test", plain = true } },
  },
  cases = {
    via("https is that request, over TLS, with its credential", send("POST", "https://api.test/v1?q=1", "Authorization: Bearer placeholder\r\nContent-Length: 7\r\n", '{"a":1}'),
      { status = 200, closed = false, log = { method = "POST", scheme = "https", host = "api.test", port = 443, path = "/v1", credential = "api", status = 200 },
        upstream = { requests = 1, line = "POST /v1?q=1 HTTP/1.1", header = { host = "api.test", authorization = "Bearer canary-absolute" }, no_header = "proxy-authorization",
          body = '{"a":1}' } }),
    via("https, chunked, with Expect", { send("POST", "https://api.test/", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"), { ["until"] = "100 Continue" }, "3\r\nabc\r\n0\r\n\r\n" },
      { status = 200, interim = { 100 }, upstream = { body = "abc", header = { authorization = "Bearer canary-absolute" } } }),
    via("https, many on one connection, pooled upstream with the tunnel's", { send("GET", "https://api.test/1"), { answers = 1 }, send("GET", "https://api.test/2"), { answers = 2 },
      send("GET", "http://plain.test/3"), { answers = 3 }, send("GET", "https://api.test/4") },
      { statuses = { 200, 200, 200, 200 }, upstream = { requests = 3, connections = 1 }, servers = { plain = { requests = 1, line = "GET /3 HTTP/1.1", no_header = "authorization" } } }, { workers = 1 }),
    via("https without a token is challenged", "GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
      { status = 407, error = "agent_unknown", closed = false, upstream = "nothing" }),
    via("https, a path that is not allowed", send("GET", "https://path.test/v2"), { status = 403, error = "path_not_allowed", upstream = "nothing" }),
    via("https, a method that is not allowed", send("DELETE", "https://path.test/v1"), { status = 403, error = "method_not_allowed", upstream = "nothing" }),
    via("https, a host that is not allowed", send("GET", "https://evil.test/"), { status = 403, error = "host_not_allowed", upstream = "nothing" }),
    via("https, another port is another entry", send("GET", "https://api.test:8443/"), { status = 403, error = "host_not_allowed", upstream = "nothing" }),
    via("https on port 80 is no plain request", send("GET", "https://plain.test:80/"), { raw_not = "HTTP/1.1 200", servers = { plain = { requests = 0 } } }),
    via("http on port 443 carries no credential", send("GET", "http://api.test:443/"), { status = 403, upstream = "nothing" }),
    via("https for an entry that is a tunnel: no credential", send("GET", "https://blind.test/"), { status = 200, upstream = { no_header = "authorization" } }),
    via("https, upgraded to a WebSocket", { send("GET", "https://api.test/ws", key), { ["until"] = "greeting" }, "ping", { ["until"] = "ping" } },
      { raw_has = { "HTTP/1.1 101", "greeting", "ping" }, log = { path = "/ws", status = 101 }, upstream = { header = ours } },
      { upstream = { reply = { { steps = { switch .. "greeting", { relay = true } } } } } }),
    via("HTTPS in capital letters, a dot behind the host", send("GET", "HTTPS://API.test./x"), { status = 200, upstream = { header = { host = "api.test" } } }),
    via("https in HTTP/1.0", "GET https://api.test/x HTTP/1.0\r\n${AUTH}\r\n", { status = 200, closed = true, upstream = { line = "GET /x HTTP/1.1" } }),
    via("https without a path", send("GET", "https://api.test?q"), { status = 200, upstream = { line = "GET /?q HTTP/1.1" } }),

    via("Host is ignored, the target counts", "GET http://plain.test/ HTTP/1.1\r\nHost: api.test\r\n${AUTH}\r\n",
      { status = 200, servers = { plain = { header = { host = "plain.test" } } }, upstream = { requests = 0 } }),
    via("Host with another port is ignored", "GET https://api.test/ HTTP/1.1\r\nHost: other.test:99\r\n${AUTH}\r\n",
      { status = 200, upstream = { header = { host = "api.test" } } }),
    via("an empty Host is ignored", "GET https://api.test/ HTTP/1.1\r\nHost:\r\n${AUTH}\r\n", { status = 200, upstream = { header = { host = "api.test" } } }),
    via("CONNECT with the proxy's own address in Host", { "CONNECT api.test:443 HTTP/1.1\r\nHost: 127.0.0.1:${PORT}\r\n${AUTH}\r\n" }, { raw_has = "HTTP/1.1 200" }),
    via("CONNECT with the proxy's own name in Host", { "CONNECT api.test:443 HTTP/1.1\r\nHost: localhost:${PORT}\r\n${AUTH}\r\n" }, { raw_has = "HTTP/1.1 200" }),
    via("an empty port is the scheme's", send("GET", "http://plain.test:/"), { status = 200, servers = { plain = { header = { host = "plain.test" } } } }),
    via("an empty port, https", send("GET", "https://api.test:/"), { status = 200, upstream = { header = { host = "api.test" } } }),
    { name = "an empty port in a tunnel's Host", send = "GET / HTTP/1.1\r\nHost: api.test:\r\n\r\n", expect = { status = 200, upstream = { header = { host = "api.test" } } } },
    via("CONNECT with an empty port", "CONNECT api.test: HTTP/1.1\r\nHost: api.test\r\n${AUTH}\r\n", { status = 400, error = "bad_request", upstream = "nothing" }),

    via("OPTIONS without a path is of the server (9112 3.2.4)", send("OPTIONS", "http://plain.test"), { status = 200, servers = { plain = { line = "OPTIONS * HTTP/1.1" } } }),
    via("OPTIONS without a path, https", send("OPTIONS", "https://api.test:443"), { status = 200, upstream = { line = "OPTIONS * HTTP/1.1" } }),
    { name = "OPTIONS without a path, in a tunnel", send = "OPTIONS https://api.test HTTP/1.1\r\nHost: api.test\r\n\r\n", expect = { status = 200, upstream = { line = "OPTIONS * HTTP/1.1" } } },
    via("OPTIONS with a path keeps it", send("OPTIONS", "http://plain.test/"), { status = 200, servers = { plain = { line = "OPTIONS / HTTP/1.1" } } }),
    via("OPTIONS with a query keeps its path", send("OPTIONS", "http://plain.test?x"), { status = 200, servers = { plain = { line = "OPTIONS /?x HTTP/1.1" } } }),
    via("OPTIONS without a path is under no path rule", send("OPTIONS", "https://path.test"), { status = 400, error = "ambiguous_path", upstream = "nothing" }),

    via("Max-Forwards: 0 is answered here (9110 7.6.2)", { send("OPTIONS", "http://plain.test/", "Max-Forwards: 0\r\n"), { answers = 1 }, send("GET", "http://plain.test/") },
      { statuses = { 204, 200 }, closed = false, servers = { plain = { requests = 1, line = "GET / HTTP/1.1" } }, log = { method = "OPTIONS", status = 204, decision = "allow" },
        raw_has = "Allow: GET," }),
    { name = "Max-Forwards: 0, in a tunnel", send = "OPTIONS * HTTP/1.1\r\nHost: api.test\r\nMax-Forwards: 0\r\n\r\n", expect = { status = 204, upstream = "nothing" } },
    via("Max-Forwards: 0 is no way around a refusal", send("OPTIONS", "https://evil.test/", "Max-Forwards: 0\r\n"), { status = 403, error = "host_not_allowed", upstream = "nothing" }),
    via("Max-Forwards: 0 wants a token", "OPTIONS https://api.test/ HTTP/1.1\r\nHost: api.test\r\nMax-Forwards: 0\r\n\r\n", { status = 407, upstream = "nothing" }),
    via("Max-Forwards is one less", send("OPTIONS", "http://plain.test/", "Max-Forwards: 3\r\n"), { status = 200, servers = { plain = { header = { ["max-forwards"] = "2" } } } }),
    via("Max-Forwards: 10 becomes 9", send("OPTIONS", "http://plain.test/", "Max-Forwards: 10\r\n"), { status = 200, servers = { plain = { header = { ["max-forwards"] = "9" } } } }),
    via("Max-Forwards of other methods is left alone", send("GET", "http://plain.test/", "Max-Forwards: 0\r\n"), { status = 200, servers = { plain = { header = { ["max-forwards"] = "0" } } } }),
    via("Max-Forwards that is no number", send("OPTIONS", "http://plain.test/", "Max-Forwards: -1\r\n"), { status = 400, error = "bad_request", servers = { plain = { requests = 0 } } }),
    via("Max-Forwards twice", send("OPTIONS", "http://plain.test/", "Max-Forwards: 1\r\nMax-Forwards: 2\r\n"), { status = 400, error = "bad_request", servers = { plain = { requests = 0 } } }),
    via("TRACE with Max-Forwards: 0", send("TRACE", "http://plain.test/", "Max-Forwards: 0\r\n"), { status = 405, error = "trace", servers = { plain = { requests = 0 } } }),
  },
}
