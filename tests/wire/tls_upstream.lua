--- Upstreams whose TLS is wrong: 502 with the reason, and not one byte of the request sent.
local servers, credentials, cases = {}, {}, {}

local function fault(name, why, spec)
  local host = name:gsub("_", "-") .. ".test"
  spec = spec or {}
  spec.host, spec.tls = host, spec.tls or name
  servers[name] = spec
  credentials[#credentials + 1] = { name = name, type = "bearer", host = host, secrets = { token = "canary-" .. name } }
  cases[#cases + 1] = { name = name, host = host, timeout = 20,
    send = "POST /x HTTP/1.1\r\nHost: " .. host .. "\r\nContent-Length: 3\r\n\r\nabc",
    expect = { status = 502, error = "upstream_tls", body_has = why, servers = { [name] = "nothing" } } }
end

fault("expired", "expired")
fault("not_yet", "not yet valid")
fault("wrong_name", "name")
fault("no_san", "name")
fault("self_signed", "trust")
fault("unknown_root", "trust")
fault("incomplete", "trust")
fault("tls10_only", "version")
fault("tls11_only", "version")
fault("no_common_cipher", {})
fault("garbage", {}, { tls = "ok", at_connect = "garbage" })
fault("reset", {}, { tls = "ok", at_connect = "reset" })
fault("close", {}, { tls = "ok", at_connect = "close" })
cases[#cases - 1].expect.error, cases[#cases].expect.error = nil, nil   -- unreachable or TLS: both are true
fault("stall", {}, { tls = "ok", at_connect = "stall" })
cases[#cases].expect.status, cases[#cases].expect.error = nil, nil
cases[#cases].expect.answers, cases[#cases].expect.raw_has = 1, { "HTTP/1.1 50", "X-Sallyport-Error: upstream_" }

local function sound(name, spec)
  local host = name .. ".test"
  spec.host = host
  servers[name] = spec
  credentials[#credentials + 1] = { name = name, type = "bearer", host = host, secrets = { token = "canary-" .. name } }
  cases[#cases + 1] = { name = name, host = host, send = "GET /x HTTP/1.1\r\nHost: " .. host .. "\r\n\r\n",
    expect = { status = 200, servers = { [name] = { requests = 1, header = { authorization = "Bearer canary-" .. name } } } } }
end
sound("chain", { tls = "chain" })
sound("rsa", { tls = "rsa" })
sound("tls13.x", { tls = "tls13_only" })  -- with BearSSL alone it is refused: real/tls13_test.py
sound("h1", { tls = "ok", alpn = { "h2", "http/1.1" } })

-- An IP upstream: BearSSL itself compares no iPAddress, our wrapper does.
local function ip(name, cert, expect)
  cases[#cases + 1] = { name = name, host = "93.184.216.34", sni = "93.184.216.34", upstream_tls = cert, hosts = "93.184.216.34",
    credential = { name = "ip", type = "bearer", host = "93.184.216.34", secrets = { token = "canary-ip" } },
    send = "GET /x HTTP/1.1\r\nHost: 93.184.216.34\r\n\r\n", expect = expect }
end
ip("an IP upstream with its iPAddress SAN", "ip_san", { status = 200, upstream = { header = { authorization = "Bearer canary-ip" } } })
ip("an IP upstream without iPAddress SAN", "ok", { status = 502, error = "upstream_tls", body_has = "name", upstream = "nothing" })
ip("an IP upstream with another iPAddress", "ip_other", { status = 502, error = "upstream_tls", body_has = "name", upstream = "nothing" })
ip("an IP upstream with its address as a dNSName", "ip_as_dns", { status = 502, error = "upstream_tls", body_has = "name", upstream = "nothing" })

return { shared = { credentials = credentials, servers = servers }, cases = cases }
