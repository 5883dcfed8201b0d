--- Who asks: the token on the proxy port and in tunnels, and what ends with it.
local get = "GET http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\n"

local function refused(name, fields, code)
  return { name = "on the port, " .. name, via = "proxy", send = get .. fields .. "\r\n",
           expect = { status = 407, closed = false, headers = { ["content-length"] = "0" }, body = "", upstream = "nothing",
             error = code or "agent_unknown", raw_has = "HTTP/1.1 407 Proxy Authentication Required (sallyport: " .. (code or "agent_unknown") .. ")\r\n" } }
end

return {
  shared = {
    bundles = { "second" },
    credentials = {
      { name = "one", type = "bearer", host = "api.test", secrets = { token = "canary-agent-1" } },
      { name = "two", type = "bearer", host = "api.test", bundle = "second", secrets = { token = "canary-agent-2" } },
    },
    domains = { { host = "plain.test", port = 80 } },
    servers = { plain = { host = "plain.test", plain = true } },
    agents = { { name = "a" }, { name = "b", bundles = { "second", "default" } }, { name = "short", ttl = "1h" }, { name = "gone" }, { name = "late" }, { name = "spun" } },
    before = { { "agent", "revoke", "gone" }, { "agent", "rotate", "spun" } },
  },
  cases = {
    refused("no token", ""),
    refused("an unknown token", "Proxy-Authorization: Basic eDpzcF9hZ3RfQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB\r\n"),
    refused("a revoked token", "${AUTH:gone}", "agent_revoked"),
    refused("a rotated token", "${AUTH:spun}", "agent_rotated"),
    { name = "CONNECT with a rotated token: the record names whose it was", via = "proxy", send = "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n${AUTH:spun}\r\n",
      expect = { status = 407, error = "agent_rotated", log = { status = 407, agent = "spun", reason = "agent_rotated", error = "agent_rotated", host = "api.test" } } },
    refused("malformed base64", "Proxy-Authorization: Basic !!!\r\n"),
    refused("a scheme nobody knows", "Proxy-Authorization: Digest x=y\r\n"),
    refused("two tokens", "${AUTH}${AUTH:b}"),
    { name = "CONNECT without a token is challenged, and the connection kept", via = "proxy",
      send = { "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n", { ["until"] = "407" }, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n${AUTH}\r\n", { ["until"] = "200" } },
      expect = { raw_has = { "HTTP/1.1 407", "Proxy-Authenticate: Basic", "Content-Length: 0", "HTTP/1.1 200" } } },
    { name = "the token as Bearer", via = "proxy", send = get .. "Proxy-Authorization: Bearer ${TOKEN}\r\n\r\n", expect = { status = 200 } },
    { name = "the token as user of Basic, in any case", via = "proxy", send = get .. "proxy-authorization: bearer ${TOKEN}\r\n\r\n", expect = { status = 200 } },
    { name = "the order of bundles decides: a", send = "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
      expect = { status = 200, upstream = { header = { authorization = "Bearer canary-agent-1" } } } },
    { name = "the order of bundles decides: b", token = "b", send = "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
      expect = { status = 200, upstream = { header = { authorization = "Bearer canary-agent-2" } }, log = { agent = "b", bundle = "second", credential = "two" } } },
    { name = "a token before its end", token = "short", send = "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n", expect = { status = 200 } },
    { name = "a token past its end, in a tunnel that is open", token = "short",
      send = { "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n", { answers = 1 }, { clock = 4000 }, 0.2, "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n" },
      expect = { statuses = { 200, 403 }, error = "agent_unknown", closed = true } },
    { name = "a token past its end, on the port", clock = 4000, via = "proxy", send = get .. "${AUTH:short}\r\n", expect = { status = 407, error = "agent_expired" } },
    { name = "a token revoked while its tunnel is open", token = "late",
      send = { "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n", { answers = 1 }, { cli = { "agent", "revoke", "late" } }, "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n" },
      expect = { statuses = { 200, 403 }, error = "agent_unknown", closed = true, upstream = { requests = 1 } } },
    { name = "/healthz is open to all", via = "proxy", send = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:${PORT}\r\n\r\n", expect = { status = 200 } },
    { name = "/ca.pem is open to all", via = "proxy", send = "GET /ca.pem HTTP/1.1\r\nHost: 127.0.0.1:${PORT}\r\n\r\n",
      expect = { status = 200, body_has = "BEGIN CERTIFICATE", body_not = "PRIVATE" } },
    { name = "/discover wants a token", via = "proxy", send = "GET /discover HTTP/1.1\r\nHost: 127.0.0.1:${PORT}\r\n\r\n", expect = { raw_has = "HTTP/1.1 40", raw_not = "api.test" } },
    { name = "/discover with the token as Bearer", via = "proxy", send = "GET /discover HTTP/1.1\r\nHost: 127.0.0.1:${PORT}\r\nAuthorization: Bearer ${TOKEN}\r\n\r\n",
      expect = { status = 200, body_has = { "api.test", "plain.test" }, body_not = "canary" } },
    { name = "an own endpoint that is not there", via = "proxy", send = "GET /nothing HTTP/1.1\r\nHost: 127.0.0.1:${PORT}\r\n${AUTH}\r\n", expect = { status = 403, error = "path_not_allowed" } },
    { name = "an own endpoint under a foreign Host", via = "proxy", send = "GET /ca.pem HTTP/1.1\r\nHost: evil.test\r\n\r\n", expect = { raw_has = "HTTP/1.1 4", raw_not = "BEGIN CERT" } },
  },
}
