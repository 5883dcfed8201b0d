--- CONNECT: what its target may be, and what may follow it.
local cases = {}

local function connect(name, target, expect, version, fields)
  expect.upstream = expect.upstream or "nothing"
  cases[#cases + 1] = { name = name, via = "proxy", expect = expect,
    send = ("CONNECT %s HTTP/%s\r\n%s${AUTH}\r\n"):format(target, version or "1.1", fields or "Host: api.test:443\r\n") }
end
local bad = function() return { status = 400, error = "bad_request", closed = true } end

connect("a target with a path", "api.test:443/x", bad())
connect("a target with a query", "api.test:443?x", bad())
connect("a target that is a URL", "https://api.test:443", bad())
connect("a target with userinfo", "user@api.test:443", bad())
connect("a target with userinfo and password", "user:pw@api.test:443", bad())
connect("a target without a port", "api.test", bad())
connect("a target with an empty port", "api.test:", bad())
connect("port 0", "api.test:0", bad())
connect("port 65536", "api.test:65536", bad())
connect("a port that is no number", "api.test:https", bad())
connect("a signed port", "api.test:+443", bad())
connect("a port in hexadecimal", "api.test:0x1bb", bad())
connect("a target without a host", ":443", bad())
connect("an empty label", "api..test:443", bad())
connect("a host of 300 letters", ("a"):rep(300) .. ".test:443", bad())
connect("a label of 64 letters", ("a"):rep(64) .. ".test:443", bad())
connect("a host with a space escaped", "api%20.test:443", bad())
connect("an unclosed bracket", "[::1:443", bad())
connect("a bracketed name", "[api.test]:443", bad())
connect("an IPv6 zone", "[fe80::1%25eth0]:443", bad())
connect("an IPv6 address without brackets", "2001:db8::1:443", bad())
connect("letters outside ASCII", "b\195\188cher.test:443", bad())
connect("a NUL in the host", "api.test\0.evil.test:443", bad())
connect("HTTP/1.0 without Host, as Debian's Python sends it", "api.test:443", { status = 200 }, "1.0", "")
connect("HTTP/1.1 without Host", "api.test:443", bad(), "1.1", "")
connect("a Host that names another host", "api.test:443", { status = 421, error = "misdirected" }, "1.1", "Host: other.test:443\r\n")
connect("a Host without the port is the same host", "api.test:443", { status = 200 }, "1.1", "Host: api.test\r\n")
connect("a body declared on CONNECT", "api.test:443", bad(), "1.1", "Host: api.test:443\r\nContent-Length: 5\r\n")

cases[#cases + 1] = { name = "IPv6 stands in brackets in a message", host = "2001:db8::1", port = 8443, send = "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n\r\n",
  expect = { status = 403, error = "host_not_allowed", body_has = "[2001:db8::1]:8443 is not allowed", upstream = "nothing", cli = { ["log"] = "[2001:db8::1]:8443/" },
    raw_has = "HTTP/1.1 403 Forbidden (sallyport: host_not_allowed)\r\n" } }
for _, row in ipairs {
  { "upper case", "API.TEST" }, { "a trailing dot", "api.test." }, { "both", "Api.Test." },
} do
  cases[#cases + 1] = { name = "one host: " .. row[1], host = row[2], sni = "api.test",
    send = "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n",
    expect = { status = 200, upstream = { header = { authorization = "Bearer canary-connect" } } } }
  cases[#cases + 1] = { name = "one host in Host: " .. row[1],
    send = "GET /x HTTP/1.1\r\nHost: " .. row[2] .. "\r\n\r\n",
    expect = { status = 200, upstream = { header = { authorization = "Bearer canary-connect" } } } }
end

cases[#cases + 1] = { name = "plain HTTP in a tunnel to port 80 is a plain request, as Node's fetch sends it",
  via = "connect", host = "plain.test", port = 80, send = "GET /p HTTP/1.1\r\nHost: plain.test\r\n\r\n",
  expect = { status = 200, servers = { plain = { requests = 1, line = "GET /p HTTP/1.1" } } } }
cases[#cases + 1] = { name = "plain HTTP in a tunnel to port 443 carries no credential",
  via = "connect", send = "GET /p HTTP/1.1\r\nHost: api.test\r\n\r\n",
  expect = { upstream = "nothing", raw_not = "HTTP/1.1 200" } }
cases[#cases + 1] = { name = "bytes that are neither TLS nor HTTP are closed",
  via = "connect", send = "\0\1\2\3SSH-2.0-x\r\n", expect = { upstream = "nothing", closed = true } }
cases[#cases + 1] = { name = "SSH's greeting is closed",
  via = "connect", send = "SSH-2.0-OpenSSH_9.2\r\n", expect = { upstream = "nothing", closed = true } }
cases[#cases + 1] = { name = "a host that is not allowed is intercepted, so that the client can read why",
  host = "denied.test", send = "GET / HTTP/1.1\r\nHost: denied.test\r\n\r\n",
  expect = { status = 403, error = "host_not_allowed", body_has = { "hint", "request" }, upstream = "nothing",
             log = { decision = "deny", host = "denied.test", agent = "a" } } }
cases[#cases + 1] = { name = "a port that is not allowed is not reached",
  port = 8443, send = "GET / HTTP/1.1\r\nHost: api.test:8443\r\n\r\n",
  expect = { status = 403, error = "host_not_allowed", upstream = "nothing" } }
cases[#cases + 1] = { name = "a blind tunnel relays bytes and carries nothing",
  via = "connect", host = "blind.test", send = { "HELLO\0\r\n", { ["until"] = "HELLO" } },
  expect = { raw_has = "HELLO", servers = { blind = { requests = 0 } } } }
cases[#cases + 1] = { name = "a blind tunnel loses to a credential for that host",
  host = "both.test", send = "GET / HTTP/1.1\r\nHost: both.test\r\n\r\n",
  expect = { status = 200, servers = { both = { header = { authorization = "Bearer canary-both" } } } } }

return {
  shared = {
    credentials = {
      { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-connect" } },
      { name = "both", type = "bearer", host = "both.test", secrets = { token = "canary-both" } },
    },
    domains = { { host = "plain.test", port = 80 }, { host = "blind.test", tunnel = "raw" }, { host = "both.test", tunnel = true } },
    servers = {
      plain = { host = "plain.test", plain = true },
      blind = { host = "blind.test", plain = true, port = 443, at_connect = "echo" },
      both = { host = "both.test" },
    },
  },
  cases = cases,
}
