--- Policies gone bad: the request fails with a code, the worker goes on, and nothing outside is reached.
local policies, credentials, cases, hosts = {}, {}, {}, { "good.test" }

local function source(name, body)
  return ([[
return {
  kind = "type", api = 1, name = "%s", title = "A test's own",
  fields = { { name = "token", secret = true, required = true }, { name = "word", default = "w" } },
  %s
}
]]):format(name, body)
end

-- A type whose apply (or whatever the body says) misbehaves when a request comes.
local function bad(name, body, expect)
  local id = ("p_" .. name:gsub("%W+", "_")):lower():sub(1, 40)
  local host = id:gsub("_", "-") .. ".test"
  policies[#policies + 1] = { name = id, source = source(id, body) }
  credentials[#credentials + 1] = { name = id, type = id, host = host, secrets = { token = "canary-" .. id } }
  if expect and (expect.status or 502) < 500 then hosts[#hosts + 1] = host end   -- the others are never dialled
  expect = expect or { status = 502, error = "policy_failed", body_has = id, upstream = "nothing" }
  cases[#cases + 1] = { name = name, host = host, timeout = 20, send = "GET /x?a=b HTTP/1.1\r\nHost: " .. host .. "\r\nX-Own: 1\r\n\r\n", expect = expect }
  cases[#cases + 1] = { name = "another credential works after: " .. name, host = "good.test", send = "GET /x HTTP/1.1\r\nHost: good.test\r\n\r\n",
    expect = { status = 200, upstream = { header = { authorization = "Bearer canary-good" } } } }
end
local function apply(name, code, expect) bad(name, "apply = function(req, cred) " .. code .. " end,", expect) end

apply("endless loop", "while true do end")
apply("endless loop in pcall", "while true do pcall(function() while true do end end) end")
apply("endless loop in pcall in pcall", "local function f() while true do end end while true do pcall(pcall, f) pcall(error) end")
apply("endless recursion", "local function f() return f() end f()")
apply("deep recursion", "local function f(n) return 1 + f(n + 1) end f(1)")
apply("endless string building", "local s = 'x' while true do s = s .. s end")
apply("memory hog", "local t = {} for i = 1, 1e9 do t[i] = { i } end")
apply("memory hog in pcall", "local t = {} while true do pcall(function() for i = 1, 1e9 do t[#t + 1] = ('x'):rep(1000) .. i end end) end")
apply("string.rep bomb", "local s = ('x'):rep(1e10) req.headers:set('x', s)")
apply("string.format bomb", "local s = ('%99999999d'):format(1) req.headers:set('x', s)")
apply("pattern bomb", "local s = ('a'):rep(5000) s:find(('.-'):rep(30) .. 'b') req.headers:set('x', 'y') while true do end")
apply("pattern bomb with captures", "(('a'):rep(30000)):match('(.-)(.-)(.-)(.-)(.-)(.-)b') while true do end")
apply("gsub bomb", "(('a'):rep(100000)):gsub('.-', function() return ('b'):rep(1000) end) while true do end")
apply("table.concat bomb", "local t = {} for i = 1, 1000 do t[i] = ('x'):rep(100000) end local s = table.concat(t) while true do s = s .. s end")
apply("lpeg bomb", "local p = lpeg.P{ lpeg.V(1) * 'a' + 'a' } p:match(('a'):rep(100000))")
apply("lpeg searches within searches", "local P = lpeg.P local p = (P'a'^0 * P'x' + 1)^0 p = (p * 'y' + 1)^0 p:match(('a'):rep(2048))")
apply("lpeg pattern of 200,000 parts", "local p = lpeg.P'' for i = 1, 200000 do p = p + 'a' end")
apply("lpeg pattern that compiles in cubic time", "local p = lpeg.P'x' for i = 1, 2000 do p = (p + 'b') * 'a' end p:match('q')")
apply("lpeg values within values", "local p = lpeg.P'a' for i = 1, 600 do p = lpeg.C(p) end p:match('a')")
apply("error in apply", "error('boom')")
apply("error with a table", "error({})")
apply("error with nil", "error()")
apply("calling nil", "req.nothing.at.all()")
apply("waiting in apply", "net.token('https://x.test/', {}, 1)")

for _, name in ipairs { "io", "os", "debug", "load", "loadstring", "dofile", "loadfile", "require", "package", "_G", "coroutine", "collectgarbage",
                        "setmetatable", "getmetatable", "rawset", "rawget", "string.dump", "warn", "print", "store", "host" } do
  apply("attempt at " .. name, ("if %s ~= nil then req.headers:set('x-escaped', 'yes') else error('not there') end"):format(name:find("%.") and "string and " .. name or name))
end
apply("attempt to change string", "string.rep = nil error('changed')")
apply("attempt at the string metatable", "local methods = ('').__index methods.rep = nil")
apply("attempt to change another's table", "lpeg.P = nil error('changed')")
apply("attempt to keep a global", "seen = (seen or 0) + 1 if seen > 1 then error('kept') end req.headers:set('x-seen', seen) error('first')")
apply("a secret as text", "req.headers:set('x', tostring(cred.token))")
apply("a secret's length", "local n = #cred.token req.headers:set('x', 'n' .. n)")
apply("a secret compared", "if cred.token < req.path then req.headers:set('x', 'y') end")
apply("two secrets compared", "if cred.token == cred.token .. '' then req.headers:set('x', 'y') end")
apply("two secrets found different", "if cred.token ~= 'x' .. cred.token then req.headers:set('x', 'y') end")
apply("a secret formatted", "req.headers:set('x', ('%s'):format(cred.token))")
apply("a secret in an error", "error(cred.token)")
apply("a secret searched", "string.find(cred.token, 'c')")
apply("a secret as a table key told apart", "local t = {} t[cred.token] = 1 for k in pairs(t) do error(('%s'):format(k)) end")
apply("another credential", "local c = cred.parent or req.credentials or req.store c.x = 1")

local function injected(name, code)
  apply(name, code, { answers = 1, raw_has = { "HTTP/1.1 502", "X-Sallyport-Error" }, upstream = "nothing" })
end
injected("CR LF in a header's value", "req.headers:set('x', 'a\\r\\nx-evil: 1')")
injected("LF in a header's value", "req.headers:set('x', 'a\\nx-evil: 1')")
injected("CR in a header's value", "req.headers:set('x', 'a\\rx-evil: 1')")
injected("NUL in a header's value", "req.headers:set('x', 'a\\0b')")
injected("CR LF in a header's name", "req.headers:set('x: 1\\r\\nx-evil', '1')")
injected("a space in a header's name", "req.headers:set('x evil', '1')")
injected("an empty header's name", "req.headers:set('', '1')")
apply("a value longer than a head", "req.headers:set('x', ('y'):rep(100000))", { status = 502, error = "injection_failed", upstream = "nothing" })
injected("Host", "req.headers:set('Host', 'evil.test')")
injected("Content-Length", "req.headers:set('content-length', '5')")
injected("Transfer-Encoding", "req.headers:set('Transfer-Encoding', 'chunked')")
injected("Connection", "req.headers:set('connection', 'close')")
injected("Expect", "req.headers:set('expect', 'x')")
injected("Upgrade", "req.headers:set('upgrade', 'h2c')")
injected("the method", "req.method = 'DELETE'")
injected("the host", "req.host = 'evil.test'")
injected("the scheme", "req.scheme = 'http'")
injected("the port", "req.port = 80")
injected("a table as value", "req.headers:set('x', {})")
injected("CR LF before a secret in a value", "req.headers:set('x', 'a\\r\\n' .. cred.token)")

apply("a query value is escaped", "req.query:set('k', 'a b&c=d\\r\\n')",
  { status = 200, upstream = { line = "GET /x?a=b&k=a%20b%26c%3Dd%0D%0A HTTP/1.1" } })
apply("a secret as query value", "req.query:set('k', cred.token)",
  { status = 200, upstream = { head_has = "k=canary-p_a_secret_as_query_value" } })
apply("wrong return type", "return 'a string'")
bad("strip", "apply = function() end, strip = { headers = { 'X_Own' }, query = { 'A' } },", { status = 200, upstream = { no_header = "x-own", line = "GET /x HTTP/1.1" } })

-- What `policy put` refuses, with file, line and reason, and what served before goes on serving.
local function refused(name, text, why)
  cases[#cases + 1] = { name = "put refuses " .. name, host = "good.test", send = "GET /x HTTP/1.1\r\nHost: good.test\r\n\r\n",
    expect = { status = 200, upstream = { header = { authorization = "Bearer canary-good" } } }, }
  cases[#cases].refuse = { name = "bearer", source = text, why = why }
end
local whole = [[return { kind = "type", api = 1, name = "bearer", title = "x", fields = { { name = "token", secret = true, required = true } }, ]]
refused("a syntax error", "return {\n  kind = = 1,\n}", { "bearer.lua:2" })
refused("bytecode", "\27Lua\84\0\25\147", { "bearer" })
refused("no table", "return 5", { "bearer" })
refused("an unknown key", whole .. "\n  aply = function() end }", { "aply" })
refused("an unknown field type", whole:gsub("secret = true", 'type = "strnig"') .. "\n apply = function() end }", { "strnig" })
refused("a missing apply", whole .. "}", { "apply" })
refused("apply that is no function", whole .. "apply = 5 }", { "apply" })
refused("another interface", whole:gsub("api = 1", "api = 99") .. "apply = function() end }", { "api" })
refused("a failing example", whole .. [[ apply = function(req, cred) req.headers:set("x", "1") end,
  examples = { { cred = { token = "t" }, req = { headers = {} }, want = { headers = { x = "2" } } } } }]], { "example" })
refused("an endless loop at load", "while true do end return {}", { "bearer" })
refused("an endless loop in an example", whole .. [[ apply = function() while true do end end, examples = { { cred = { token = "t" }, req = { headers = {} }, want = { headers = {} } } } }]], { "bearer" })
refused("io at load", "io.open('x') return {}", { "bearer.lua:1" })

credentials[#credentials + 1] = { name = "good", type = "bearer", host = "good.test", secrets = { token = "canary-good" } }
return { shared = { hosts = hosts, policies = policies, credentials = credentials }, cases = cases }
