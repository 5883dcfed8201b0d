-- Rules that are asked about the head of an answer (on_response without `answer`), and rules on heads on the kept way.
local judge = [[
return { kind = "rule", api = 1, name = "judge", title = "looks at answers",
  on_request = function(req, ctx) ctx.memo.path = req.path end,
  on_response = function(res, ctx)
    local kind = res.headers:get("x-kind")
    if kind == "bug" then return nil + 1 end
    if kind == "odd" then return limit(1, 60) end
    if kind == "loop" then while true do end end
    if kind == "change" then res.status = 204 end
    if kind == "secret" then return deny("it is of the kind " .. kind, "ask for another") end
    if kind == "seen" then
      return deny(("%d %s [%s] [%s] %s %d"):format(res.status, ctx.memo.path, res.headers:get("X-Echo"), res.headers:get("set-cookie"),
        tostring(res.headers:get("x-more", 2)), #res.headers:names()))
    end
    if res.status == 418 then return deny "no teapots" end
    if res.status == 101 then return deny "no sockets" end
    if ctx.count("all", 3000000) > 1000 then return deny "too many" end
  end }
]]
local heads = [[
return { kind = "rule", api = 1, name = "heads", title = "reads heads", on_request = function(req, ctx)
  local said = req.headers:get("x-say")
  if said == "no" then return deny("the head says no") end
  if said == "bug" then return nil + 1 end
  if said == "loop" then while true do end end
  if said == "memory" then local t = {} while true do t[#t + 1] = ("x"):rep(100000) .. #t end end
  if said == "path" then return deny(req.path .. " " .. req.query_text .. " " .. tostring(req.query:get("a"))) end
  if said == "count" then return limit(2, 3000000) end
end }
]]

local function get(path, more) return ("GET %s HTTP/1.1\r\nHost: api.test\r\n%s\r\n"):format(path or "/j", more or "") end
local function answer(name, reply, expect, send)
  return { name = name, send = send or get(), upstream = { reply = reply }, expect = expect }
end
local function refused(name, reply, code, text, send, more)
  local expect = { status = 403, error = code, body_has = "rule judge: " .. text, raw_not = "CONTENT",
    log = { decision = "deny", reason = "rule judge", error = code, status = 403, agent = "a", credential = "api" } }
  for k, v in pairs(more or {}) do expect[k] = v end
  return answer(name, reply, expect, send)
end
local function kind(k, rest) return ("HTTP/1.1 200 OK\r\nX-Kind: %s\r\n%s"):format(k, rest or "Content-Length: 7\r\n\r\nCONTENT") end
local function say(what, path) return get(path or "/h", "X-Say: " .. what .. "\r\n") end
local function says(name, list, statuses, more)
  local send = {}
  for i, one in ipairs(list) do
    send[#send + 1] = one
    send[#send + 1] = { answers = i }
  end
  local expect = { statuses = statuses }
  for k, v in pairs(more or {}) do expect[k] = v end
  return { name = name, send = send, expect = expect }
end

return {
  shared = {
    credentials = { { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-judged-1" } } },
    policies = { { name = "judge", source = judge }, { name = "heads", source = heads } },
    before = { { "rule", "add", "judge", "--type", "judge", "--path", "/j" }, { "rule", "add", "heads", "--type", "heads", "--path", "/h" } },
  },
  cases = {
    answer("what a rule has nothing against goes on as it came", kind("plain", "Set-Cookie: a=1\r\nContent-Length: 2\r\n\r\nok"),
      { status = 200, body = "ok", headers = { ["x-kind"] = "plain", ["set-cookie"] = "a=1" } }),
    refused("what it refuses is refused by its name, with its reason", kind "secret", "rule_denied", "it is of the kind secret", nil, { raw_not = { "CONTENT", "X-Kind" } }),
    refused("by its status", "HTTP/1.1 418 No\r\nContent-Length: 7\r\n\r\nCONTENT", "rule_denied", "no teapots"),
    refused("a stream", kind("secret", "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nCONTENT\r\n"), "rule_denied", "it is of the kind secret"),
    answer("a stream that goes on arrives as it comes", { steps = { kind("plain", "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"), 1.5, "9\r\ndata: 2\n\n\r\n0\r\n\r\n" } },
      { status = 200, body = "data: 1\n\ndata: 2\n\n", after = 1.4 }, { get(), { ["until"] = "data: 1", timeout = 1 }, { ["until"] = "data: 2" } }),
    refused("the answer to HEAD", "HTTP/1.1 200 OK\r\nX-Kind: secret\r\nContent-Length: 7\r\n\r\n", "rule_denied", "", "HEAD /j HTTP/1.1\r\nHost: api.test\r\n\r\n", { body_has = "" }),
    answer("to HEAD, one that goes on", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", { status = 200, headers = { ["content-length"] = "7" } }, "HEAD /j HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    refused("of an interim answer before it the client sees no field", "HTTP/1.1 103 Early Hints\r\nLink: </hidden.css>\r\n\r\n" .. kind "secret", "rule_denied", "it is of the kind secret", nil,
      { raw_not = { "hidden.css", "CONTENT" } }),
    answer("the interim answer itself goes on", "HTTP/1.1 103 Early Hints\r\nLink: </hidden.css>\r\n\r\n" .. kind "plain", { status = 200, interim = { 103 }, raw_not = "hidden.css" }),
    refused("an upgrade", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "rule_denied", "no sockets",
      get("/j", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")),
    refused("a rule sees neither what was attached nor a session", kind("seen", "X-Echo: Bearer canary-judged-1\r\nSet-Cookie: session=1\r\nX-More: 1\r\nX-More: 2\r\nContent-Length: 7\r\n\r\nCONTENT"),
      "rule_denied", "200 /j [Bearer __SALLYPORT_SECRET__] [] 2 6"),
    refused("a bug refuses", kind "bug", "rule_failed", "its script failed"),
    refused("so does an answer that is none here", kind "odd", "rule_failed", "its script failed"),
    refused("a rule that does not end is ended", kind "loop", "rule_failed", "its script failed"),
    refused("a rule cannot change the answer", kind "change", "rule_failed", "its script failed"),
    answer("without the rule it goes on", kind "secret", { status = 200, body = "CONTENT" }, get "/other"),
    { name = "the connection of the client goes on", send = { get(), { answers = 1 }, get "/other", { answers = 2 } }, upstream = { reply = kind "secret" },
      expect = { statuses = { 403, 200 } } },
    says("on the kept way each request is asked about", { say "yes", say "yes", say "no", say "yes", say "bug", say "yes", say "loop", say "yes", say "memory", say "yes" },
      { 200, 200, 403, 200, 403, 200, 403, 200, 403, 200 }, { upstream = { requests = 6 } }),
    says("by its own path and query", { say("yes", "/h/one?a=1"), say("yes", "/h/two?a=2"), say("path", "/h/three?a=3") }, { 200, 200, 403 },
      { body_has = "rule heads: /h/three a=3 3", upstream = { requests = 2 } }),
    says("where the path is another one it is not asked", { say("yes", "/h"), say("no", "/free"), say("no", "/h/x"), say("no", "/%68/x"), say("no", "/free") }, { 200, 200, 403, 403, 200 },
      { upstream = { requests = 3 } }),
    says("and counted once", { say "count", say "count", say "yes", say "count", say "count", say "yes" }, { 200, 200, 200, 429, 429, 200 }),
  },
}
