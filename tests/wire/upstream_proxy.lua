-- upstream-proxy: what the other proxy answers to our CONNECT, good and hostile. It never stands for the upstream's answer, and
-- each kind of trouble has its words. (With a real one, pools, our own fetches and canaries: tests/real/upstream_proxy_test.py.)
local GET = "GET /x HTTP/1.1\r\nHost: far.test\r\nConnection: close\r\n\r\n"

-- The proxy answers `reply`; the agent gets 502 upstream_proxy with `says`, and nothing of the answer.
local function refused(name, reply, says, more)
  local case = { name = name, host = "far.test", send = { { server = "corp", reply = reply, read = "all" }, GET },
    expect = { status = 502, error = "upstream_proxy", body_has = { "far.test: the upstream proxy " .. says, "upstream-no-proxy" }, body_not = "canary",
      raw_not = { "canary", "Proxy-Authenticate" }, log = { decision = "allow", credential = "far", status = 502, error = "upstream_proxy" },
      log_never = { "canary" },
      servers = { corp = { requests = 1, line = "CONNECT far.test:443 HTTP/1.1", header = { host = "far.test:443" }, no_header = { "proxy-authorization", "authorization" } } } } }
  for k, v in pairs(more or {}) do case[k] = v end
  return case
end

local function status(line, rest) return "HTTP/1.1 " .. line .. "\r\n" .. (rest or "Content-Length: 6\r\n\r\ncanary") end

-- Nothing of the request reaches the proxy: the guard or the rule for names of its own network ends it.
local function blocked(name, host, says, more)
  local case = { name = name, host = host, send = { { server = "corp", reply = "echo" }, "GET / HTTP/1.1\r\nHost: " .. (host:find(":", 1, true) and "[" .. host .. "]" or host) .. "\r\n\r\n" },
    expect = { status = 403, error = "address_blocked", body_has = says, servers = { corp = "nothing" } } }
  for k, v in pairs(more or {}) do case[k] = v end
  return case
end

return {
  shared = {
    credentials = {
      { name = "far", type = "bearer", host = "far.test", secrets = { token = "canary-via-token" } },
      { name = "far6", type = "bearer", host = "2001:4860:4860::8888", secrets = { token = "canary-via-six" } },
      { name = "plain", type = "bearer", host = "plain.test", plain_http = true, secrets = { token = "canary-via-plain" } },
      { name = "wildplain", type = "bearer", host = "*.wild.test", plain_http = true, secrets = { token = "canary-via-wild" } },
      { name = "intranet", type = "bearer", host = "intranet", secrets = { token = "canary-via-intranet" } },
      { name = "wide", type = "bearer", host = { "*.corp.internal", "git.corp.internal" }, secrets = { token = "canary-via-wide" } },
    },
    domains = { { host = "*" }, { host = "*.unread.test", tunnel = true },
      { host = "straight.test", port = 80 } },
    servers = { corp = { plain = true, host = {}, reply = "echo" }, near = { plain = true, host = "straight.test", reply = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnear" } },
    serve = { "--upstream-proxy", "http://127.0.0.1:${UPSTREAM:corp}", "--upstream-no-proxy", "10.0.0.0/8", "--dial-timeout", "2s" },
  },

  cases = {
    refused("407 without a user and password", status("407 Proxy Authentication Required", 'Proxy-Authenticate: Basic realm="canary"\r\nContent-Length: 0\r\n\r\n'),
      "wants a user and password (407)"),
    refused("401, as some answer to a wrong password", status("401 Unauthorized", 'WWW-Authenticate: Basic realm="canary"\r\nContent-Length: 0\r\n\r\n'),
      "wants a user and password (401)"),
    refused("403", status("403 canary"), "refuses that host (403)"),
    refused("a redirect is refused like any other", status("302 Found", "Location: https://canary.test/\r\nContent-Length: 0\r\n\r\n"), "refuses that host (302)"),
    refused("502", status("502 Bad Gateway"), "does not reach that host (502)"),
    refused("504 in HTTP/1.0", "HTTP/1.0 504 canary\r\n\r\n", "does not reach that host (504)"),
    refused("101 is no tunnel", status("101 Switching Protocols", "Upgrade: canary\r\nConnection: Upgrade\r\n\r\n"), "sent a malformed answer"),
    refused("garbage at once", "canary canary canary\r\n\r\n", "does not speak HTTP"),
    refused("an alert of TLS", "\x15\x03\x01\x00\x02\x02\x28", "does not speak HTTP (perhaps TLS or SOCKS)"),
    refused("a status line that is none", "HTTP/1.1 2xx canary\r\n\r\n", "sent a malformed answer"),
    refused("a bare line feed", "HTTP/1.1 200 OK\nX: canary\n\n", "sent a malformed answer"),
    refused("another version", "HTTP/2 200\r\n\r\n", "sent a malformed answer"),
    refused("a head without an end", { steps = { "HTTP/1.1 200 OK\r\n", { ["repeat"] = "X: canary canary canary canary canary canary canary\r\n", times = 2000 } } },
      "sent a malformed answer (a head of 64 KiB)"),
    refused("a hundred and one fields", "HTTP/1.1 200 OK\r\n" .. ("X: canary\r\n"):rep(101) .. "\r\n", "sent a malformed answer"),
    refused("interim answers without an end", { steps = { { ["repeat"] = "HTTP/1.1 100 Continue\r\nX: canary\r\n\r\n", times = 2000 } } }, "does not come to an answer"),
    refused("a page behind its 200", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html>canary</", "sent bytes of its own behind its answer"),
    refused("it closes at once", { steps = { { close = true } } }, "closed the connection without an answer"),
    refused("it closes within its head", { steps = { "HTTP/1.1 200 O", { close = true } } }, "closed the connection without an answer"),
    refused("it resets", { steps = { { reset = true } } }, "closed the connection without an answer"),
    refused("it says nothing", { steps = { 30 } }, "did not answer in time"),
    refused("a head byte by byte is held to the same time", { steps = { { ["repeat"] = "H", times = 1 }, { bytewise = ("TTP/1.1 200 OK\r\nX: canary\r\n"):rep(40), every = 0.1 } } },
      "did not answer in time"),
    refused("a plain http host is asked for with CONNECT, too", status("403 no"), "refuses that host or port (403; many let port 443 alone pass)",
      { via = "proxy", send = { { server = "corp", reply = status("403 no") }, "GET http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\n${AUTH}\r\n" },
        expect = { status = 502, error = "upstream_proxy", body_has = "port 443 alone", servers = { corp = { line = "CONNECT plain.test:80 HTTP/1.1" } } } }),
    { name = "IPv6 stands in brackets", host = "2001:4860:4860::8888", send = { { server = "corp", reply = status("403 no") }, "GET / HTTP/1.1\r\nHost: [2001:4860:4860::8888]\r\n\r\n" },
      expect = { status = 502, error = "upstream_proxy",
        servers = { corp = { line = "CONNECT [2001:4860:4860::8888]:443 HTTP/1.1", header = { host = "[2001:4860:4860::8888]:443" } } } } },
    { name = "1xx, HTTP/1.0, a length and an encoding of a 200 are passed over: the tunnel begins, and TLS with it", host = "far.test",
      send = { { server = "corp", reply = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n" }, GET },
      expect = { status = 502, error = "upstream_tls", body_has = "TLS to far.test through the upstream proxy: ", servers = { corp = { requests = 1 } } } },
    { name = "plain http goes through the tunnel to a host that is named exactly", via = "proxy",
      send = { { server = "corp", reply = { "HTTP/1.1 200 Connection established\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" } },
        "GET http://plain.test/p HTTP/1.1\r\nHost: plain.test\r\n${AUTH}\r\n" },
      expect = { status = 200, body = "hi", servers = { corp = { lines = { "CONNECT plain.test:80 HTTP/1.1", "GET /p HTTP/1.1" }, header = { authorization = "Bearer canary-via-plain" },
        no_header = "proxy-authorization" } } } },

    blocked("loopback as a literal", "127.0.0.1", "loopback"),
    blocked("cloud metadata as a literal", "169.254.169.254", "cloud metadata"),
    blocked("IPv4 in IPv6 as a literal", "::ffff:10.0.0.1", "private"),
    blocked("one label", "printer", "it is reached only where an entry names it exactly"),
    blocked("localhost", "localhost", "it is reached only where an entry names it exactly"),
    blocked("cloud metadata by name", "metadata.google.internal", "it is reached only where an entry names it exactly"),
    blocked("mDNS", "nas.local", "it is reached only where an entry names it exactly"),
    blocked("a reverse zone", "1.0.0.127.in-addr.arpa", "it is reached only where an entry names it exactly"),
    blocked("a credential's wildcard names no such host", "db.corp.internal", "it is reached only where an entry names it exactly"),
    blocked("plain http by a wildcard", "a.wild.test", "a host without a certificate to check",
      { via = "proxy", send = { { server = "corp", reply = "echo" }, "GET http://a.wild.test/ HTTP/1.1\r\nHost: a.wild.test\r\n${AUTH}\r\n" } }),
    blocked("an unread tunnel by a wildcard", "a.unread.test", "", { via = "connect", send = {},
      expect = { connect_status = 403, error = "address_blocked", servers = { corp = "nothing" } } }),
    { name = "one label that a credential names goes through", host = "intranet", send = { { server = "corp", reply = status("403 no") }, "GET / HTTP/1.1\r\nHost: intranet\r\n\r\n" },
      expect = { status = 502, error = "upstream_proxy", servers = { corp = { line = "CONNECT intranet:443 HTTP/1.1" } } } },
    { name = "a host that stands beside the wildcard goes through", host = "git.corp.internal",
      send = { { server = "corp", reply = status("403 no") }, "GET / HTTP/1.1\r\nHost: git.corp.internal\r\n\r\n" },
      expect = { status = 502, error = "upstream_proxy", servers = { corp = { line = "CONNECT git.corp.internal:443 HTTP/1.1" } } } },
    { name = "upstream-no-proxy: a literal is dialled, and judged as ever", host = "10.1.2.3", send = { { server = "corp", reply = "echo" }, "GET / HTTP/1.1\r\nHost: 10.1.2.3\r\n\r\n" },
      expect = { status = 403, error = "address_blocked", body_has = "private", servers = { corp = "nothing" } } },
    { name = "connect-to goes straight", via = "proxy", send = { { server = "corp", reply = "echo" }, "GET http://straight.test/ HTTP/1.1\r\nHost: straight.test\r\n${AUTH}\r\n" },
      expect = { status = 200, body = "near", servers = { corp = "nothing", near = { requests = 1 } } } },

    { name = "nobody listens there", host = "far.test", servers = { corp = { plain = true, host = {}, refuse = true } }, send = GET,
      expect = { status = 502, error = "upstream_proxy", body_has = "far.test: the upstream proxy cannot be reached: connection refused" } },
    { name = "its name does not resolve", host = "far.test", serve = { "--upstream-proxy", "http://proxy.invalid:3128" }, send = GET,
      expect = { status = 502, error = "upstream_proxy", body_has = "far.test: the upstream proxy cannot be reached: the name" } },
  },
}
