--- body-max: what is read whole has at most so much, who needs it is named, and what to do instead.
local rows = { name = "rows", type = "substitute", host = "rows.test", secrets = { value = "canary-max-rows-1" },
  substitute = "value:json=/token,form=token:__MAX:ROW__" }
local small = [[
return {
  kind = "type", api = 1, name = "small", title = "Reads little",
  fields = { { name = "token", secret = true, required = true } },
  body = { max = 1000 },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,
  examples = { { cred = { token = "t" }, req = { method = "POST", body = "a" }, want = { headers = { authorization = "Bearer t" } } } },
}
]]
local largest = small:gsub('"small"', '"largest"'):gsub("max = 1000", "")

local function post(host, length, kind, more)
  return ("POST /x HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\n%s%s\r\n"):format(host, kind or "application/json", more or "",
    length and ("Content-Length: %d\r\n"):format(length) or "")
end

local function refused(name, host, send, has)
  return { name = name, host = host, send = send,
    expect = { status = 413, error = "body_too_large", closed = true, upstream = "nothing", body_has = has, raw_not = "100 Continue" } }
end

return {
  shared = {
    serve = { "--body-max", "100k" },
    policies = { { name = "small", source = small }, { name = "largest", source = largest } },
    hosts = { "rows.test", "small.test", "largest.test", "post.test" },
    credentials = {
      rows,
      { name = "small", type = "small", host = "small.test", secrets = { token = "canary-max-small" } },
      { name = "largest", type = "largest", host = "largest.test", secrets = { token = "canary-max-largest" } },
      { name = "posts", type = "bearer", host = "post.test", method = { "GET", "POST" }, secrets = { token = "canary-max-posts" } },
    },
  },
  cases = {
    refused("a row: a length over it", "rows.test", post("rows.test", 102401, nil, "Expect: 100-continue\r\n"),
      "its row puts value at json=/token"),
    refused("the command that allows it", "rows.test", post("rows.test", 150000), "sallyport set body-max 200k"),
    refused("more than can be allowed", "rows.test", post("rows.test", 1 << 30), "more cannot be allowed"),
    { name = "chunks over it", host = "rows.test",
      send = { post("rows.test", nil, nil, "Transfer-Encoding: chunked\r\n"), "18FFF\r\n", { ["repeat"] = "x", times = 0x18fff }, "\r\n2\r\nxx\r\n" },
      expect = { status = 413, error = "body_too_large", closed = true, upstream = "nothing", body_has = "goes on" } },
    { name = "chunks up to it", host = "rows.test",
      send = { post("rows.test", nil, nil, "Transfer-Encoding: chunked\r\n"), "19000\r\n", ('{"token":"__MAX:ROW__"}' .. (" "):rep(0x19000)):sub(1, 0x19000), "\r\n0\r\n\r\n" },
      expect = { status = 200, upstream = { body_size = 0x19000 + #"canary-max-rows-1" - #"__MAX:ROW__" } } },
    { name = "another type streams", host = "rows.test",
      send = { post("rows.test", 300000, "application/octet-stream"), { ["repeat"] = "x", times = 300000 } },
      expect = { status = 200, upstream = { body_size = 300000 } } },
    refused("a type's own bound is not body-max", "small.test", post("small.test", 1001), "sallyport policy edit small"),
    refused("a type without one has body-max", "largest.test", post("largest.test", 102401), "its type largest reads it"),
    { name = "and up to it is read", host = "largest.test",
      send = { post("largest.test", 102400), { ["repeat"] = "x", times = 102400 } }, expect = { status = 200, upstream = { body_size = 102400 } } },
    refused("a rule on methods", "post.test", post("post.test", 102401), "it is kept to some methods"),
  },
}
