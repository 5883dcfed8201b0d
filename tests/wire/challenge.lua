--- A registry whose own challenge names where its bearers come from: with a plain user name and password they are sealed, and open.
local TOKEN = '{"token":"canary-challenge-1","expires_in":300}'
local function answer(body, fields, status)
  return ("HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s"):format(status or "200 OK", fields or "", #body, body)
end
local function challenge(realm)
  return answer('{"errors":[]}', ('WWW-Authenticate: Bearer realm="%s",service="reg.test"\r\n'):format(realm), "401 Unauthorized")
end
local function get(host, target, fields) return ("GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n"):format(target, host, fields or "") end
local BASIC = "Basic bWU6Y2FuYXJ5LWNoYWxsZW5nZS1wYXNzd29yZA=="

-- What the agent gets is the registry's own text, or a sealed one.
local function case(name, host, target, replies, expect, keep)
  expect.upstream = expect.upstream or { requests = #replies, header = { authorization = BASIC } }
  expect.status = expect.status or 200
  return { name = name, host = host, send = { get(host, target), { answers = 1 }, keep and { keep = keep, from = '"token":"(Sp5eaL[A-Za-z0-9_-]+)"' } or nil },
    upstream = { reply = replies }, expect = expect }
end
local function sealed(name, target, replies, keep, host)
  return case(name, host or "reg.test", target, replies, { raw_has = '{"token":"Sp5eaL', raw_not = "canary-", log = { sealed = 1 } }, keep)
end
local function clear(name, host, target, replies, more)
  more = more or {}
  more.raw_has = "canary-challenge-1"
  return case(name, host, target, replies, more)
end

return {
  shared = {
    hosts = { "reg.test", "auth.test", "narrow.test", "allow.test", "refuse.test" },
    credentials = {
      { name = "reg", type = "basic", host = "reg.test", fields = { username = "me" }, secrets = { password = "canary-challenge-password" } },
      { name = "auth", type = "basic", host = "auth.test", fields = { username = "me" }, secrets = { password = "canary-challenge-password" } },
      { name = "narrow", type = "basic", host = "narrow.test", path = "/token", fields = { username = "me" }, secrets = { password = "canary-challenge-password" } },
      { name = "allow", type = "basic", host = "allow.test", fields = { username = "me", mint = "allow" }, secrets = { password = "canary-challenge-password" } },
      { name = "refuse", type = "basic", host = "refuse.test", fields = { username = "me", mint = "refuse" }, secrets = { password = "canary-challenge-password" } },
      { name = "down", type = "basic", host = "down.test", fields = { username = "me" }, secrets = { password = "canary-challenge-password" } },
    },
    servers = { down = { host = "down.test", refuse = true } },
  },
  cases = {
    clear("a call without a scope is none of a registry's", "reg.test", "/token?account=me", { answer(TOKEN) }),
    sealed("what the host's challenge names is sealed, once the host was asked", "/token?service=reg.test&scope=repository%3Aa%2Fb%3Apull",
      { challenge "https://reg.test/token", answer(TOKEN) }, "t"),
    sealed("it is not asked again", "/token?scope=x", { answer(TOKEN) }),
    sealed("nor for another spelling, which is the same call to a server", "/%74oken?%73cope=x", { answer(TOKEN) }),
    clear("another call is another", "reg.test", "/api?scope=x", { answer(TOKEN) }),
    { name = "the text opens where the credential goes", host = "reg.test", send = { get("reg.test", "/v2/a/tags/list", "Authorization: Bearer ${KEPT:t}\r\n"), { answers = 1 } },
      upstream = { reply = { answer "{}" } }, expect = { status = 200, upstream = { requests = 1, header = { authorization = "Bearer canary-challenge-1" } } } },
    { name = "after its end the client is told as registries tell it", host = "reg.test", clock = 700,
      send = { get("reg.test", "/v2/", "Authorization: Bearer ${KEPT:t}\r\n"), { answers = 1 } },
      expect = { status = 401, error = "sealed_expired", upstream = "nothing" } },
    clear("a realm on another host is not this call", "auth.test", "/token?scope=x", { challenge "https://reg.test/token", answer(TOKEN) }),
    clear("nor is one that is none, which stays so", "auth.test", "/other?scope=x", { answer(TOKEN) }),
    clear("where the credential does not cover /v2/ the bearer is used by nobody of ours", "narrow.test", "/token?scope=x", { answer(TOKEN) }),
    clear("mint=allow asks nobody", "allow.test", "/token?scope=x", { answer(TOKEN) }),
    case("mint=refuse refuses it", "refuse.test", "/token?scope=x", { challenge "https://refuse.test/token" },
      { status = 403, error = "mint_denied", upstream = { requests = 1, no_header = "authorization", line = "GET /v2/ HTTP/1.1" } }),
    { name = "a host that cannot be asked gets nothing", host = "down.test", send = { get("down.test", "/token?scope=x"), { answers = 1 } },
      expect = { status = 503, error = "injection_unavailable", body_has = "makes a further key" } },
  },
}
