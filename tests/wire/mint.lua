--- Calls that answer with further credentials: refused in every spelling of their path, unless mint=allow.
local minter = [[
return {
  kind = "type", api = 1, name = "minter", title = "x",
  fields = { { name = "token", secret = true, required = true } },
  mint = {
    { method = "POST", path = "/v1/*/keys", what = "a new key" },
    { method = "GET", path = "/v1/*/secret", what = "a key in clear" },
    { host = "words.test", method = "POST", path = "/graphql", body = { "createToken" }, what = "a token" },
    { host = "below.mint.test", path = "/tokens/**", what = "a new token" },
  },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,
}
]]
local reader = [[
return {
  kind = "type", api = 1, name = "reader", title = "x",
  fields = { { name = "token", secret = true, required = true } },
  body = { max = 1000 },
  mint = function(req, cred) if req.body and req.body:find("CreateKey", 1, true) then return "a further key" end end,
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,
}
]]

local function ask(name, line, host, expect)
  local method = line:match("^%S+")
  return { name = name, host = host,
    send = ("%s HTTP/1.1\r\nHost: %s\r\n%s\r\n"):format(line, host, method == "POST" and "Content-Length: 0\r\n" or ""),
    expect = expect }
end

local function denied(name, line, host)
  return ask(name, line, host or "mint.test", {
    status = 403, error = "mint_denied", upstream = "nothing", body_has = { "credential set", "mint=allow" },
    log = { decision = "deny", reason = "mint_denied" },
  })
end

local function served(name, line, host)
  return ask(name, line, host or "mint.test", { status = 200, upstream = { header = { authorization = "Bearer canary-mint" } } })
end

local function body(name, text, expect)
  return { name = name, host = "body.test", send = "POST / HTTP/1.1\r\nHost: body.test\r\nContent-Length: " .. #text .. "\r\n\r\n" .. text,
    expect = expect }
end

local cases = {
  served("another call", "POST /v1/a/things"), served("another method", "GET /v1/a/keys"), served("deeper", "POST /v1/a/keys/7"),
  denied("the call", "POST /v1/a/keys"), denied("with a query", "POST /v1/a/keys?x=1"),
  served("another host's call", "POST /tokens"), denied("this host's call", "POST /tokens", "below.mint.test"),
  denied("and below it, by any method", "GET /tokens/7", "below.mint.test"),
  served("mint=allow", "POST /v1/a/keys", "allow.test"),
  body("what a function sees in the body", "Action=CreateKey",
    { status = 403, error = "mint_denied", upstream = "nothing", body_has = "a further key" }),
  body("another body", "Action=ListKeys", { status = 200, upstream = { body = "Action=ListKeys" } }),
  { name = "an override of the method goes", host = "mint.test",
    send = "GET /v1/a/keys HTTP/1.1\r\nHost: mint.test\r\nX-HTTP-Method-Override: POST\r\nX-Original-URL: /v1/b/keys\r\n\r\n",
    expect = { status = 200, upstream = { no_header = { "x-http-method-override", "x-original-url" } } } },
  { name = "the operator allows it", host = "switch.test",
    send = { "POST /v1/a/keys HTTP/1.1\r\nHost: switch.test\r\nContent-Length: 0\r\n\r\n", { answers = 1 },
      { cli = { "credential", "set", "switch", "mint=allow" } },
      "POST /v1/a/keys HTTP/1.1\r\nHost: switch.test\r\nContent-Length: 0\r\n\r\n", { answers = 2 },
      { cli = { "credential", "set", "switch", "mint=deny" } },
      "POST /v1/a/keys HTTP/1.1\r\nHost: switch.test\r\nContent-Length: 0\r\n\r\n" },
    expect = { statuses = { 403, 200, 403 } } },
}
cases[#cases + 1] = { name = "a method in small letters", host = "mint.test", send = "post /v1/a/keys HTTP/1.1\r\nHost: mint.test\r\nContent-Length: 0\r\n\r\n",
  expect = { status = 403, error = "mint_denied", upstream = "nothing" } }
cases[#cases + 1] = denied("a GET that a POST may be by its body (_method)", "POST /v1/a/secret")
local function words(name, line, text, expect)
  cases[#cases + 1] = { name = name, host = "words.test", expect = expect or { status = 403, error = "mint_denied", upstream = "nothing" },
    send = line .. " HTTP/1.1\r\nHost: words.test\r\nContent-Length: " .. #text .. "\r\n\r\n" .. text }
end
words("words in other letters", "POST /graphql", '{"url":"/CreateTOKEN"}')
words("words that are escaped", "POST /graphql", '{"url":"/cr\\u0065ate\\u002554oken"}')
words("words in the query of another method", "GET /graphql?query=mutation{createToken}", "")
-- our own reading of it is no fault of a policy's
words("a body of nothing but beginnings of escapes", "POST /graphql", ("\\u{0"):rep(262144), { status = 200 })
words("other words", "POST /graphql", "{ viewer }", { status = 200 })
local function typed(name, kind, text, expect)
  words(name, "POST /graphql", text, expect)
  cases[#cases].send = cases[#cases].send:gsub("\r\n\r\n", function() return "\r\n" .. kind .. "\r\n\r\n" end, 1)
end
typed("words in utf-7", "Content-Type: application/json; charset=utf-7", '{"url":"/+AGM-reateToken"}')
typed("words in a charset that nobody knows", "Content-Type: text/plain; charset=\"x-own\"", "x")
typed("words in two types", "Content-Type: text/plain\r\nContent_Type: application/json", "x")
typed("words in Base64", "Content-Type: multipart/form-data; boundary=x",
  '--x\r\nContent-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64\r\n\r\nY3JlYXRlVG9rZW4=\r\n--x--\r\n')
typed("other words in a known charset", "Content-Type: application/json; charset=\"UTF-8\"", "{}", { status = 200 })
cases[#cases + 1] = { name = "a WebSocket where words are looked for in bodies", host = "words.test",
  send = "GET /graphql HTTP/1.1\r\nHost: words.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
  expect = { status = 403, error = "mint_denied", upstream = "nothing" } }
for _, path in ipairs { "/v1/a/keys/", "/v1/a/keys.json", "/v1/a/keys.", "/v1/a/keys%20", "/v1/a/keys%0a", "/V1/a/Keys", "/v1//a/keys", "/v1/./a/keys", "/v1/b/../a/keys", "/v1/a%2fkeys", "/v1/a/%6beys",
  "/v1/a/%256beys", "/v1/a/keys%3fx", "/v1/a/keys%23x", "/v1/a/keys%253Fx", "/v1/a/keys/%3f", "/v1/a\\keys", "/v1/a/keys;a=b", "/v1/a;x/keys", "//v1/a/keys", "/v1/a/x%2f..%2fkeys", "/v1/a/keys%2f",
  "/v1/a/%zz" } do
  cases[#cases + 1] = denied("spelt " .. path, "POST " .. path)
end

return {
  shared = {
    hosts = { "mint.test", "words.test", "below.mint.test", "allow.test", "body.test", "switch.test" },
    policies = { { name = "minter", source = minter }, { name = "reader", source = reader } },
    credentials = {
      { name = "mint", type = "minter", host = { "mint.test", "words.test", "below.mint.test" }, secrets = { token = "canary-mint" } },
      { name = "allow", type = "minter", host = "allow.test", fields = { mint = "allow" }, secrets = { token = "canary-mint" } },
      { name = "body", type = "reader", host = "body.test", secrets = { token = "canary-mint" } },
      { name = "switch", type = "minter", host = "switch.test", secrets = { token = "canary-mint" } },
    },
  },
  cases = cases,
}
