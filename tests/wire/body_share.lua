--- Bodies that are held for a policy: what one agent announces leaves room for the others.
local reader = [[
return {
  kind = "type", api = 1, name = "reader", title = "x",
  fields = { { name = "token", secret = true, required = true } },
  body = { max = 16 << 20 },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,
}
]]
local LARGEST = 16 << 20
local function post(length, body) return ("POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: %d\r\n\r\n%s"):format(length, body) end

return {
  workers = 1,
  credential = { name = "c", type = "reader", host = "api.test", secrets = { token = "canary-share" } },
  policies = { { name = "reader", source = reader } },
  agents = { { name = "a" }, { name = "b" } },
  name = "one agent's announced bodies leave room for another's",
  host = "api.test",
  client = {
    { times = 4, send = { post(LARGEST, "x"), 2.5, { reset = true } }, expect = {} },
    { token = "b", send = { 1, post(5, "hello") }, expect = { status = 200 } },
    { token = "b", send = { 1, post(1 << 20, ("x"):rep(1 << 20)) }, expect = { status = 200 } },
  },
}
