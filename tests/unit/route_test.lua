-- Which hosts go through the upstream proxy, which straight, and which nowhere.
local records = require "records"
local route = require "route"

local function new(no_proxy, connect_to)
  local list = {}
  for i, text in ipairs(no_proxy or {}) do list[i] = assert(records.no_proxy(text)) end
  return route.new { upstream_proxy = "http://proxy.test:3128", upstream_no_proxy = list, connect_to = connect_to }
end

local function way(r, host, more)
  local spec = { host = host, port = 443, tls = true }
  for k, v in pairs(more or {}) do spec[k] = v end
  return r:way(spec)
end

-- The hosts ("host" or "host|port") that go straight, of all those given.
local function straight(no_proxy, hosts)
  local out = {}
  local r = new { no_proxy }
  for _, text in ipairs(hosts) do
    local host, port = text:match("^(.-)|(%d+)$")
    if way(r, host or text, { port = tonumber(port) or 443, exact = true }) == false then out[#out + 1] = text end
  end
  return table.concat(out, " ")
end

local function is(got, want, what)
  if got ~= want then error(("%s: got %s, not %s"):format(what or "?", tostring(got), tostring(want)), 2) end
end

local M = {}

M["upstream-no-proxy: each form holds for its hosts, and for no other"] = function()
  local hosts = { "corp.test", "a.corp.test", "b.a.corp.test", "xcorp.test", "corp.test.evil.test", "corp.test|8443", "10.1.2.3",
    "10.1.2.3|8443", "11.0.0.1", "fd00::1", "fd01::1", "10.test" }
  for _, row in ipairs {
    { "corp.test", "corp.test a.corp.test b.a.corp.test corp.test|8443" },
    { "CORP.Test.", "corp.test a.corp.test b.a.corp.test corp.test|8443" },
    { ".corp.test", "a.corp.test b.a.corp.test" },
    { "*.corp.test", "a.corp.test b.a.corp.test" },
    { "corp.test:8443", "corp.test|8443" },
    { "corp.test:443", "corp.test a.corp.test b.a.corp.test" },
    { "10.0.0.0/8", "10.1.2.3 10.1.2.3|8443" },
    { "10.1.2.3", "10.1.2.3 10.1.2.3|8443" },
    { "10.1.2.3:8443", "10.1.2.3|8443" },
    { "10.0.0.0/8:443", "10.1.2.3" },
    { "10.1.2.4", "" },
    { "fd00::/16", "fd00::1" },
    { "fd00::1", "fd00::1" },
    { "[fd00::1]", "fd00::1" },
    { "[fd00::1]:443", "fd00::1" },
    { "[fd00::1]:8443", "" },
    { " corp.test ", "corp.test a.corp.test b.a.corp.test corp.test|8443" },
    { "test", "corp.test a.corp.test b.a.corp.test xcorp.test corp.test.evil.test corp.test|8443 10.test" },
    { "*", table.concat(hosts, " ") },
  } do is(straight(row[1], hosts), row[2], row[1]) end
end

M["upstream-no-proxy: what is kept means what was typed, and reads the same again"] = function()
  for given, kept in pairs { ["*.Corp.Test"] = ".corp.test", ["[FD00::0001]:443"] = "[fd00::1]:443", ["10.0.0.1"] = "10.0.0.1",
    ["0x0a000001"] = "10.0.0.1", ["10.0.0.0/8"] = "10.0.0.0/8", ["corp.test:443"] = "corp.test:443", ["*"] = "*" } do
    is(records.no_proxy(given), kept, given)
    is(records.no_proxy(kept), kept, kept)
  end
end

M["upstream-no-proxy: what is none of these is refused"] = function()
  for _, bad in ipairs { "", "*corp.test", "a.*.test", "corp.test:0", "corp.test:99999", "corp.test:", "[::1", "[::1]x", "[corp.test]:443",
    "10.0.0.1/8", "10.0.0.0/33", "http://corp.test", "corp.test/x", "a b", "bücher.test", "user@corp.test", ".", "*." } do
    local value, why = records.no_proxy(bad)
    is(value, nil, bad)
    assert(type(why) == "string" and #why > 5, bad)
  end
end

M["the proxy's address: what is taken, and what is kept of it"] = function()
  for given, kept in pairs { ["http://Proxy.Test:3128"] = "http://proxy.test:3128", ["http://10.0.0.1:8080/"] = "http://10.0.0.1:8080",
    ["proxy.test:3128"] = "http://proxy.test:3128", ["http://[::1]:3128"] = "http://[::1]:3128", ["http://me@proxy.test:3128"] = "http://me@proxy.test:3128",
    ["HTTP://corp%5Cme@proxy.test:3128"] = "http://corp%5Cme@proxy.test:3128", ["http://me:@proxy.test:3128"] = "http://me@proxy.test:3128" } do
    is(records.upstream_proxy(given), kept, given)
    is(records.upstream_proxy(kept), kept, kept)
  end
end

M["the proxy's address: what is refused, and no error repeats a password"] = function()
  for _, bad in ipairs { "http://me:hunter2@proxy.test:3128", "me:hunter2@proxy.test:3128", "http://me:hunter2@x@proxy.test:3128", "https://me:hunter2@proxy.test:443",
    "socks5://me:hunter2@proxy.test:1080", "http://me:hunter2@proxy.test", "http://me:hunter2@:3128", "http://proxy.test", "http://", "",
    "http://proxy.test:0", "http://proxy.test:3128/path", "http://proxy.test:3128?x", "ftp://proxy.test:21", "http://a b@proxy.test:3128",
    "http://proxy.test:3128\r\nX: y" } do
    local value, why = records.upstream_proxy(bad)
    is(value, nil, bad)
    assert(type(why) == "string" and not why:find("hunter2", 1, true), bad)
  end
end

M["names of other networks are reached only where an entry names them exactly"] = function()
  local r = new()
  for _, host in ipairs { "intranet", "localhost", "a.localhost", "metadata.google.internal", "printer.local", "1.0.0.127.in-addr.arpa",
    "1.0.ip6.arpa", "router.home.arpa", "nas.lan", "nas.home", "git.corp", "x.localdomain", "a.intranet", "a.private" } do
    local via, code, message, hint = way(r, host)
    is(via, nil, host)
    is(code, "address_blocked", host)
    assert(message:find(host, 1, true) and hint:find("upstream-no-proxy " .. host, 1, true), host)
    is(way(r, host, { exact = true }), true, host)
  end
  for _, host in ipairs { "api.example.com", "internal.example.com", "local.test", "localhost.example.com", "a.b.c.test" } do
    is(way(r, host), true, host)
  end
end

M["plain http and what passes unread go to hosts that an entry names exactly"] = function()
  local r = new()
  is(way(r, "api.example.com", { tls = false, port = 80 }), nil)
  is(way(r, "api.example.com", { tls = false, port = 80, exact = true }), true)
  is(way(r, "93.184.216.34", { tls = false, port = 80 }), nil)
  is(way(r, "93.184.216.34"), true, "a literal is judged by the guard, in C")
end

M["connect-to, --address and upstream-no-proxy go straight, and are judged as ever"] = function()
  local r = new({ ".internal" }, { "a.test:443:127.0.0.1:8443", "[fd00::1]::10.0.0.1:" })
  is(way(r, "a.test"), false)
  is(way(r, "a.test", { port = 8443 }), true)
  is(way(r, "fd00::1", { port = 9 }), false)
  is(way(r, "b.test", { addresses = { "10.0.0.0/8" } }), false)
  is(way(r, "b.test", { addresses = {} }), true)
  is(way(r, "x.internal"), false)
  is(way(new(nil, { "::127.0.0.1:8443" }), "b.test"), false, "any host, any port")
end

M["where no upstream proxy is set, everything goes straight"] = function()
  is(route.new { upstream_no_proxy = { "*" } }, nil)
  route.use {}
  is(route.through { host = "intranet", port = 80 }, false)
  is(route.active(), false)
end

return M
