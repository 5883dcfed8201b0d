--- The address guard: what a host may resolve to, and every way to write an address that it must not reach.
local cases = {}

-- A literal, by CONNECT and as an absolute target: refused whatever the domain entries say.
local function blocked(literal, why)
  cases[#cases + 1] = { name = "CONNECT " .. literal .. ", " .. why, via = "proxy",
    send = ("CONNECT %s:80 HTTP/1.1\r\nHost: %s:80\r\n${AUTH}\r\n"):format(literal, literal) .. ("GET / HTTP/1.1\r\nHost: %s\r\n\r\n"):format(literal),
    expect = { raw_has = "X-Sallyport-Error", raw_not = "\r\nX-Upstream", upstream = "nothing" } }
  cases[#cases + 1] = { name = "http://" .. literal .. ", " .. why, via = "proxy",
    send = ("GET http://%s/ HTTP/1.1\r\nHost: %s\r\n${AUTH}\r\n"):format(literal, literal),
    expect = { raw_has = "X-Sallyport-Error", upstream = "nothing" } }
end

blocked("127.0.0.1", "loopback")
blocked("127.1", "loopback, short")
blocked("0x7f.1", "loopback, in hexadecimal")
blocked("2130706433", "loopback, one number")
blocked("017700000001", "loopback, in octal")
blocked("0177.0.0.1", "loopback, octal part")
blocked("0.0.0.0", "this host")
blocked("0", "this host, one number")
blocked("10.0.0.1", "private")
blocked("172.16.0.1", "private")
blocked("192.168.1.1", "private")
blocked("100.64.0.1", "shared address space")
blocked("169.254.169.254", "metadata")
blocked("169.254.169.254.", "metadata, trailing dot")
blocked("192.0.0.192", "protocol assignments")
blocked("224.0.0.1", "multicast")
blocked("255.255.255.255", "broadcast")
blocked("198.18.0.1", "benchmarking")
blocked("[::]", "unspecified")
blocked("[::1]", "loopback")
blocked("[0:0:0:0:0:0:0:1]", "loopback, long")
blocked("[::ffff:127.0.0.1]", "mapped")
blocked("[::ffff:7f00:1]", "mapped, in hexadecimal")
blocked("[::127.0.0.1]", "compatible")
blocked("[64:ff9b::127.0.0.1]", "NAT64")
blocked("[64:ff9b::a9fe:a9fe]", "NAT64 of metadata")
blocked("[64:ff9b:1::1]", "local NAT64")
blocked("[2002:7f00:1::]", "6to4")
blocked("[2002:a00:1::1]", "6to4 of a private address")
blocked("[2001:0:a9fe:a9fe::]", "Teredo, server")
blocked("[2001:0:4136:e378:8000:63bf:80ff:fffe]", "Teredo, client of loopback")
blocked("[fe80::1]", "link-local")
blocked("[fc00::1]", "unique local")
blocked("[fd00:ec2::254]", "metadata")
blocked("[ff02::1]", "multicast")
blocked("[2001:db8::1]", "documentation")

local function name_case(host, status, code, name, servers)
  cases[#cases + 1] = { name = name, host = host, send = "GET / HTTP/1.1\r\nHost: " .. host .. "\r\n\r\n",
    expect = { status = status, error = code, upstream = "nothing", servers = servers } }
end
name_case("private.test", 403, "address_blocked", "a name with a private address")
name_case("meta.test", 403, "address_blocked", "a name with the metadata address")
name_case("mixed.test", 403, "address_blocked", "a name with one public and one private address is refused whole")
name_case("mixed6.test", 403, "address_blocked", "a name with a public and a mapped private address is refused whole")
name_case("missing.test", 502, "upstream_unreachable", "a name that does not exist")
name_case("ours.test", 403, "address_blocked", "our own listener by a name")

cases[#cases + 1] = { name = "our own listener by its address", via = "proxy",
  send = "GET http://127.0.0.1:${PORT}/healthz HTTP/1.1\r\nHost: 127.0.0.1:${PORT}\r\n${AUTH}\r\n",
  expect = { raw_has = "X-Sallyport-Error", upstream = "nothing" } }
cases[#cases + 1] = { name = "our own listener by CONNECT", via = "proxy",
  send = "CONNECT localhost:${PORT} HTTP/1.1\r\nHost: localhost:${PORT}\r\n${AUTH}\r\nGET /healthz HTTP/1.1\r\nHost: localhost:${PORT}\r\n\r\n",
  expect = { raw_has = "X-Sallyport-Error", upstream = "nothing" } }

-- The answer of the check is what is dialled: the second look-up would lead to us.
cases[#cases + 1] = { name = "a name that changes between check and dial", host = "flip.test",
  resolve = { ["flip.test"] = "192.0.2.1 / 127.0.0.1" }, domains = { { host = "flip.test" } }, serve = { "--allow-address", "192.0.2.0/24" },
  servers = { trap = { host = "flip.test", dial = false, bind = "127.0.0.1" } },
  send = "GET / HTTP/1.1\r\nHost: flip.test\r\n\r\n", timeout = 14,
  expect = { answers = 1, raw_has = { "HTTP/1.1 50", "X-Sallyport-Error: upstream_" }, upstream = "nothing" } }

return {
  shared = {
    domains = { { host = "*", port = { 80, 443 } } },
    resolve = {
      ["private.test"] = "10.1.2.3", ["meta.test"] = "169.254.169.254", ["mixed.test"] = "93.184.216.34 10.0.0.1",
      ["mixed6.test"] = "2606:2800:220:1::1 ::ffff:10.0.0.1", ["ours.test"] = "127.0.0.1",
    },
  },
  cases = cases,
}
